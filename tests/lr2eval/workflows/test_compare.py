from __future__ import annotations

from pathlib import Path

import pytest

from lr2eval.workflows.compare import compare_pair, save_baseline
from tests.fake_runs import fake_run, ones

VT, MMLU = "ruler/vt@4096", "mmlu/a"


def test_run_with_a_baseline_of_the_same_model_is_judged_and_says_so(tmp_path: Path) -> None:
    runs = [fake_run(tmp_path / name, {MMLU: ones(300)}) for name in ("a", "b")]
    done = compare_pair(*runs, tmp_path)
    assert done.gate is not None
    assert done.gate.verdict == "pass"
    assert done.gate.caveats == ["both runs are of the same model"]


def test_run_with_a_baseline_says_which_scores_are_missing(tmp_path: Path) -> None:
    """The extended run skipped every sample of a task. The run ends well, without a verdict."""
    original = fake_run(tmp_path / "a", {VT: ones(300), "ruler/cwe@4096": ones(300)}, model="original")
    extended = fake_run(tmp_path / "b", {VT: ones(300), "ruler/cwe@4096": [None] * 300}, model="extended")
    done = compare_pair(original, extended, tmp_path)
    assert (done.comparison, done.gate) == (None, None)
    assert done.problem.startswith("ruler/cwe@4096: no sample is left")
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("scores", [{}, {MMLU: [None]}])
def test_run_with_a_baseline_that_has_no_scores_ends_well(
    tmp_path: Path, scores: dict[str, list[float | None]]
) -> None:
    original = fake_run(tmp_path / "a", scores, model="original")
    done = compare_pair(original, fake_run(tmp_path / "b", {MMLU: [100.0]}, model="extended"), tmp_path)
    assert "no sample in common" in done.problem


def test_a_saved_baseline_names_what_to_pin(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "a", {MMLU: ones(30)}, model="original")
    done = save_baseline(run, tmp_path / "baseline.json")
    text = done.path.read_text()
    assert f'"sha256": "{done.checksum}"' in text
    assert f'"fingerprint": "{done.model}"' in text
    assert f'"digest": "{done.digest}"' in text
    assert done.samples == 30
