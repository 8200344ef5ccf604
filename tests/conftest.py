"""What all tests share: one thread, the real data beside the repository, folders made once, and CI's rule for skips."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

# One thread in every process of the tests: two workers of pytest fill two cores, and more threads can change digests.
# This comes before torch is imported; worker processes and the processes that tests start inherit it.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

# The same examples each time, so that a change lands or fails by what it changes. `make campaign` looks for new ones
# (`--hypothesis-profile=explore`); what it finds becomes an @example. No deadline: a busy machine is no failure.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, max_examples=500, deadline=None)
settings.load_profile("fixed")

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"

Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Named groups first: they last longest. Any other module is a group, so what its tests prepare is made once.

    In the group "processes" are Ray, SIGKILL and pools of workers: one at a time, whatever the other worker does.
    """
    items.sort(key=lambda item: item.get_closest_marker("xdist_group") is None)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.location[0]))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """``once(name, make)``: a folder of that name, filled by ``make`` in whichever worker asks first. Only read it."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of the session; every worker has its own below

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        home, made = base / "once" / name, base / "once" / f"{name}.made"
        home.parent.mkdir(exist_ok=True)
        with FileLock(home.with_name(f"{name}.lock")):
            if not made.exists():
                shutil.rmtree(home, ignore_errors=True)
                home.mkdir()
                make(home)
                made.touch()
        return home

    return folder


@pytest.fixture(scope="session")
def toy_checkpoint(once: Once) -> Path:
    """A tiny random Llama with a byte-level tokenizer and a window of 1024 tokens. Do not change it in place."""

    def make(folder: Path) -> None:
        import make_toy_model
        import torch

        with torch.random.fork_rng():
            make_toy_model.main(folder)

    return once("toy", make)


@pytest.fixture(scope="session")
def shared_cache(once: Once) -> Path:
    """One user cache for all tests of the session, in all workers, so that data is made once."""
    return once("cache", lambda folder: None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real benchmark data: LR2EVAL_SHARED_DATA, or ``../shared/data`` beside the repository.

    Skips where it is absent; with LR2EVAL_CI set such a skip is a failure where the folder does lie there.
    """
    folder = Path(os.environ.get("LR2EVAL_SHARED_DATA", DATA))
    if not folder.is_dir():
        pytest.skip(f"shared data absent: {folder}")
    return folder


def avoidable(reason: str) -> bool:
    """Whether CI must not accept a skip for this reason: the data is there, or model and browser can be fetched."""
    absent = ("real model absent", "Chromium absent", "ray is not installed")
    return ("shared data absent" in reason and DATA.is_dir()) or any(words in reason for words in absent)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Refuse avoidable skips in CI. A worker of pytest-xdist has no reporter: the process that started it decides."""
    if not os.environ.get("LR2EVAL_CI"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skips = [str(report.longrepr) for report in reporter.stats.get("skipped", [])] if reporter else []
    for reason in filter(avoidable, skips):
        print(f"\nCI does not accept this skip: {reason}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
