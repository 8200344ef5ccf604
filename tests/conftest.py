"""What all tests share: the real data beside the repository, and CI's refusal of skips that need not be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples each time, so that a change lands or fails by what it changes. `make campaign` looks for new ones
# (`--hypothesis-profile=explore`); what it finds becomes an @example.
settings.register_profile("fixed", derandomize=True)
settings.register_profile("explore", derandomize=False, max_examples=500)
settings.load_profile("fixed")

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


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
    if not os.environ.get("LR2EVAL_CI"):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skips = [str(report.longrepr) for report in reporter.stats.get("skipped", [])] if reporter else []
    for reason in filter(avoidable, skips):
        print(f"\nCI does not accept this skip: {reason}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
