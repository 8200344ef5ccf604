"""Durability for real: SIGKILL at random moments, a few here, twenty and more by ``benchmarks/kill_resume.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kill_resume
import pytest


@pytest.mark.xdist_group("processes")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("spread", [{}, {"workers": 2}], ids=["alone", "processes"])
def test_killed_and_resumed_run_equals_the_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: dict[str, Any]
) -> None:
    monkeypatch.setenv("LR2EVAL_CACHE", str(tmp_path / "cache"))
    facts = kill_resume.campaign(tmp_path, kills=3, samples=4, seed=11, **spread)
    assert facts["kills"] == 3
    assert facts["committed_requests_evaluated_again"] == 0
    assert facts["runs_finished_and_compared"] >= 1
    assert facts["digests_equal"] == facts["results_equal"] == facts["runs_finished_and_compared"]
