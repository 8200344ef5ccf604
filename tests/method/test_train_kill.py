"""SIGKILL at random moments of a training, three here, ten in ``benchmarks/train_kill_resume.py``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_kill_resume.py"


@pytest.mark.timeout(600)
def test_a_killed_training_ends_at_the_same_weights(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("train_kill_resume", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    harness = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harness)
    facts = harness.campaign(tmp_path, kills=3, seed=3)
    assert facts["kills"] == 3
    assert facts["differences"] == []
    assert facts["trainings_compared"] >= 1
