"""What all tests share: the real data beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real benchmark data: LR2EVAL_SHARED_DATA, or ``../shared/data`` beside the repository.

    Skips where it is absent; CI counts a skip with this reason as a failure where the folder exists.
    """
    folder = Path(os.environ.get("LR2EVAL_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"shared data absent: {folder}")
    return folder
