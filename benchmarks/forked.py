"""Processes that have imported everything already: for scripts that start one command many times, to kill it.

A fresh interpreter imports torch and transformers for many seconds, so most moments at which it could be killed prove
nothing. Here one server imports them once, and every process is a fork of it: its life is the work itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
PRELOAD = [
    "lr2eval.cli", "lr2eval.workflows.run", "lr2eval.workflows.search", "lr2eval.workflows.train", "lr2eval.reports",
    "lr2eval.runs.runner", "lr2eval.backends.hf", "lr2eval.tasks.ruler", "lm_eval.evaluator",
    "transformers.models.llama.modeling_llama", "transformers.models.auto.modeling_auto",
]  # fmt: skip
_context = get_context("forkserver")
_context.set_forkserver_preload(PRELOAD)


class Forked:
    """One such process in a session of its own: ``call(*arguments)`` in this environment, with one thread."""

    def __init__(self, call: Callable[..., Any], *arguments: Any, environment: Mapping[str, str] | None = None) -> None:
        handle, name = tempfile.mkstemp(prefix="stderr-")
        os.close(handle)
        self._stderr = Path(name)
        wanted = {**os.environ, **ONE_THREAD, **(environment or {})}
        os.environ.update(ONE_THREAD)  # the server has the environment of its start, and imports torch in it
        self._process: BaseProcess = _context.Process(target=_live, args=(call, arguments, wanted, name))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; raises :class:`subprocess.TimeoutExpired`, as its like do."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired("forked", timeout)
        return self._process.exitcode

    def kill(self) -> bool:
        """SIGKILL, and wait for the end; whether that was the end."""
        with contextlib.suppress(ProcessLookupError):  # it ended by itself, just now
            os.kill(self.pid, signal.SIGKILL)
        self._process.join()
        self._stderr.unlink()
        return self._process.exitcode == -signal.SIGKILL

    def finish(self, what: str) -> None:
        """Wait for the end. Raises :class:`SystemExit` with what it said if that is a failure."""
        code = self.wait()
        said = self._stderr.read_text(encoding="utf-8", errors="replace")
        self._stderr.unlink()
        if code:
            raise SystemExit(f"{what} failed: {said[-500:]}")


def warm_up() -> None:
    """Start the server, so that the first process takes no longer than others."""
    Forked(int).finish("the server")


def _live(call: Callable[..., Any], arguments: tuple[Any, ...], environment: Mapping[str, str], stderr: str) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, os.devnull), (2, stderr)):
        handle = os.open(path, os.O_WRONLY)
        os.dup2(handle, number)
        os.close(handle)
    call(*arguments)
    sys.stdout.flush()
    sys.stderr.flush()
