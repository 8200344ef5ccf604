"""Commands of lr2eval in forks of this process, which has imported everything already, and tasks spread over cores.

A fresh interpreter imports for seconds before a command does anything. A fork begins with the command itself.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from .shim import Counter, Disturbance, Mode, arm

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
QUIET = {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
WARM = (
    "lr2eval.cli",
    "lr2eval.workflows.run",
    "lr2eval.workflows.search",
    "lr2eval.workflows.train",
    "lr2eval.workflows.compare",
    "lr2eval.workflows.bundle",
    "lr2eval.workflows.data",
    "lr2eval.workflows.export",
    "lr2eval.workflows.extend",
    "lr2eval.workflows.score",
    "lr2eval.reports",
    "lr2eval.runs.runner",
    "lr2eval.backends.hf",
    "lr2eval.method.data.mixing",
    "lr2eval.method.search.perplexity",
    "lr2eval.tasks.ruler",
    "lr2eval.tasks.mmlu",
    "lr2eval.tasks.longbench",
    "lr2eval.tasks.short",
    "lr2eval.tasks.niah",
    "lr2eval.tasks.facts",
    "lm_eval.evaluator",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "pandas",
    "pyarrow.parquet",
    "matplotlib.figure",
    "rich.table",
    "psutil",
)
PATIENCE = 120.0
"""Seconds after which a command counts as hanging."""


@dataclass(frozen=True)
class Done:
    """A command that has ended. ``code`` is minus the signal that ended it, if one did."""

    code: int
    out: str
    err: str


class TookTooLong(BaseException):
    """Raised in a command that runs in this process and does not end. Not an :class:`Exception`, so it gets through."""


def warm_up() -> None:
    """Import what commands need, once, with one thread and the variables that ``main()`` sets before its imports."""
    os.environ.update(ONE_THREAD | QUIET)
    for name in WARM:
        import_module(name)
    import torch

    torch.set_num_threads(1)


def environment(cache: Path, **more: str) -> dict[str, str]:
    """What a command sees: one thread, a cache of its own, nothing of a CI around it, and no network."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GITHUB_", "LR2EVAL_")) and k != "LD_PRELOAD"}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return {**kept, **ONE_THREAD, **offline, "LR2EVAL_CACHE": str(cache), **more}


class Forked:
    """``lr2eval words`` in a fork of this process, in the folder ``home``; its writes below ``home`` may be disturbed.

    ``call``: do this instead of the command.
    """

    def __init__(
        self,
        words: Sequence[str],
        home: Path,
        disturbance: Disturbance | None = None,
        call: Callable[[], None] | None = None,
        **variables: str,
    ) -> None:
        self.counter = Counter()
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115  # read when it has ended
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        self._code: int | None = None
        if self.pid == 0:
            self._live(words, home, disturbance, call, variables)

    def _live(
        self,
        words: Sequence[str],
        home: Path,
        disturbance: Disturbance | None,
        call: Callable[[], None] | None,
        variables: Mapping[str, str],
    ) -> None:
        code = 1
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number, file in enumerate(self._files, 1):
                os.dup2(file.fileno(), number)
            for name, number, errors in (("stdout", 1, "strict"), ("stderr", 2, "backslashreplace")):
                setattr(sys, name, open(number, "w", encoding="utf-8", errors=errors, closefd=False))  # noqa: SIM115
            os.chdir(home)
            wanted = environment(home / "cache", **variables)
            os.environ.clear()
            os.environ.update(wanted)
            if disturbance is not None:
                arm(home, disturbance, self.counter)
            code = _exit_code(call or (lambda: _main(words)))
        finally:
            # What registered itself before the fork is the campaign's.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        """The exit code of a process that has ended, else ``None``."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self, patience: float = PATIENCE) -> Done:
        """Wait for the end. A process that does not end in time is killed, and says so."""
        end = time.monotonic() + patience
        pause = 0.002
        while self.poll() is None and time.monotonic() < end:
            time.sleep(pause)
            pause = min(0.05, pause * 1.3)
        late = self.poll() is None
        if late:
            self.kill()
        out, err = (self._text(file) for file in self._files)
        return Done(self._code or 0, out, err + f"\nkilled after {patience:g} seconds" * late)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, if the process is still there; wait for the end after SIGKILL."""
        if self.poll() is None:
            os.kill(self.pid, number)
            if number == signal.SIGKILL:
                self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @staticmethod
    def _text(file: Any) -> str:
        file.seek(0)
        return str(file.read().decode("utf-8", "replace"))


def _main(words: Sequence[str]) -> None:
    from lr2eval import cli

    sys.argv = ["lr2eval", *words]
    cli.main()


def _exit_code(call: Callable[[], None]) -> int:
    """What the interpreter would leave with, after the same clean-up."""
    atexit._clear()
    try:
        call()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    return code


def run(words: Sequence[str], home: Path, disturbance: Disturbance | None = None, **variables: str) -> Done:
    """A command in a fork, to its end."""
    return Forked(words, home, disturbance, **variables).wait()


def count_writes(words: Sequence[str], home: Path) -> tuple[Done, int, int]:
    """An undisturbed command, its writes below ``home``, and their bytes."""
    process = Forked(words, home, Disturbance(Mode.COUNT))
    done = process.wait()
    return done, process.counter.calls, process.counter.bytes


def run_fresh(words: Sequence[str], home: Path, **variables: str) -> Done:
    """A command in an interpreter of its own, as a user starts it."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lr2eval", *words],
            cwd=home,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            env={**environment(home / "cache", **variables), "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    except subprocess.TimeoutExpired:
        return Done(-signal.SIGKILL, "", f"killed after {PATIENCE:g} seconds")
    return Done(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_here(words: Sequence[str], home: Path, patience: float = 30.0, **variables: str) -> Done:
    """A command in this very process, through ``main()``. An exception that leaves it is a traceback and code 1."""
    before = dict(os.environ), os.getcwd(), sys.stdout, sys.stderr, signal.getsignal(signal.SIGTERM)
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors=errors) for errors in ("strict", "backslashreplace")]
    wanted = environment(home / "cache", **variables)
    os.environ.clear()
    os.environ.update(wanted)
    os.chdir(home)
    sys.stdout, sys.stderr = streams
    try:
        with _limit(patience):
            _main(words)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except TookTooLong:
        print(f"stopped after {patience:g} seconds", file=sys.stderr)
        code = -signal.SIGALRM
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        _, folder, sys.stdout, sys.stderr, handler = before
        os.environ.clear()
        os.environ.update(before[0])
        os.chdir(folder)
        signal.signal(signal.SIGTERM, handler)
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "replace"))  # type: ignore[attr-defined]
    return Done(code, *texts)


Task = Callable[[Path], list[dict[str, Any]]]
"""Does its work in a folder of its worker, and returns what it found, as JSON values."""


def spread(tasks: Sequence[tuple[str, Task]], home: Path, jobs: int, say: Callable[[int, int], None]) -> Iterator[Any]:
    """The results of named tasks, in no order, from ``jobs`` forks of this process.

    A fork that dies gives ``{"died": NAME, ...}`` for the task that it worked on, and the others go on in a new fork.
    ``say`` is told how many of how many are done, now and then.
    """
    left = [list(range(first, len(tasks), jobs)) for first in range(jobs)]
    workers = {number: _worker(tasks, mine, home / f"worker-{number}") for number, mine in enumerate(left) if mine}
    done, told = 0, time.monotonic()
    while workers:
        for number, (pid, log) in list(workers.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            lines = log.take(final=bool(ended))
            for line in lines:
                if "found" in line:
                    left[number].remove(line["task"])
                    done += 1
                    yield from line["found"]
            if not ended:
                continue
            del workers[number]
            if left[number]:
                lost = left[number].pop(0)
                done += 1
                yield {"died": tasks[lost][0], "code": os.waitstatus_to_exitcode(status)}
            if left[number]:
                workers[number] = _worker(tasks, left[number], home / f"worker-{number}")
        if time.monotonic() - told > 30:
            told = time.monotonic()
            say(done, len(tasks))
        time.sleep(0.02)


class _Log:
    """Lines that a worker writes and the campaign reads while it does."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self._at, self._rest = 0, b""

    def take(self, final: bool) -> list[dict[str, Any]]:
        data = os.pread(self.file.fileno(), 1 << 30, self._at)
        self._at += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in whole]


def _worker(tasks: Sequence[tuple[str, Task]], mine: Sequence[int], home: Path) -> tuple[int, _Log]:
    log = _Log()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            home.mkdir(parents=True, exist_ok=True)
            for number in list(mine):
                found = tasks[number][1](home)
                os.write(log.file.fileno(), json.dumps({"task": number, "found": found}).encode() + b"\n")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid, log
