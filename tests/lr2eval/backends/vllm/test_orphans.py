"""Processes that leave with the one that started them."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection

import psutil
import pytest

from lr2eval.backends.vllm.orphans import OURS, leave_with_driver, mark


def engine(pids: Connection) -> None:
    leave_with_driver()
    pids.send(os.getpid())
    time.sleep(600)


def driver(pids: Connection) -> None:
    multiprocessing.get_context("spawn").Process(target=engine, args=(pids,)).start()
    time.sleep(600)


@pytest.mark.parametrize(("ours", "leaves"), [(True, True), (False, False)])
def test_an_engine_leaves_when_its_driver_is_killed(ours: bool, leaves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OURS, raising=False)
    if ours:
        monkeypatch.setenv(OURS, "1")
    context = multiprocessing.get_context("spawn")
    told, tell = context.Pipe(duplex=False)
    started = context.Process(target=driver, args=(tell,))
    started.start()
    orphan = psutil.Process(told.recv())
    assert started.pid is not None
    os.kill(started.pid, signal.SIGKILL)
    started.join()
    try:
        orphan.wait(timeout=60 if leaves else 2)
        gone = True
    except psutil.TimeoutExpired:
        orphan.kill()
        gone = False
    assert gone == leaves


def test_vllm_finds_it() -> None:
    (found,) = importlib.metadata.entry_points(group="vllm.general_plugins", name="lr2eval")
    assert found.load() is leave_with_driver


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, None), ("", "lr2eval"), ("theirs", "theirs,lr2eval"), ("theirs,lr2eval", "theirs,lr2eval")],
)
def test_a_choice_of_plugins_is_added_to_once(before: str | None, after: str | None) -> None:
    """Without one vLLM loads all of them, ours too."""
    environ = {} if before is None else {"VLLM_PLUGINS": before}
    mark(environ)
    assert environ.get("VLLM_PLUGINS") == after
    assert environ[OURS] == "1"
