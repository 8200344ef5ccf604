"""SIGKILL at random moments of a training, three here, ten in ``benchmarks/train_kill_resume.py``."""

from __future__ import annotations

from pathlib import Path

import pytest
import train_kill_resume


@pytest.mark.xdist_group("processes")
@pytest.mark.timeout(600)
def test_a_killed_training_ends_at_the_same_weights(tmp_path: Path) -> None:
    facts = train_kill_resume.campaign(tmp_path, kills=3, seed=3)
    assert facts["kills"] == 3
    assert facts["differences"] == []
    assert facts["trainings_compared"] >= 1
