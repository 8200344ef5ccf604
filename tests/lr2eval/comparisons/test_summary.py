from __future__ import annotations

from pathlib import Path

from lr2eval.comparisons.compare import PairedRuns, compare_runs, read_all
from lr2eval.comparisons.summary import judge_inside_window, three_sentences
from tests.fake_runs import Scores, fake_run, ones


def paired(tmp_path: Path, before: dict[str, Scores], after: dict[str, Scores], common: bool = False) -> PairedRuns:
    original = fake_run(tmp_path / "a", before, model="original", window=4096)
    sources = read_all([original, fake_run(tmp_path / "b", after, model="extended")])
    return compare_runs(sources[0], sources[1:], common=common)[1][0]


def test_gains_beyond_the_window_do_not_hide_a_loss_within(tmp_path: Path) -> None:
    before = {"ruler/vt@4096": ones(500), "ruler/vt@8192": ones(500, 500), "mmlu/a": ones(600)}
    after = {"ruler/vt@4096": ones(500, 60), "ruler/vt@8192": ones(500, 10), "mmlu/a": ones(600)}
    pair = paired(tmp_path, before, after)
    gate = judge_inside_window(pair)
    assert gate is not None
    assert {check.name: check.verdict for check in gate.checks} == {"ruler@4k": "regression", "mmlu": "pass"}
    long, short, verdict = three_sentences(pair, gate)
    assert long == "Does the long window work? At 8k tokens extended scores ruler 98.0 (the original 0.0; n = 500)."
    assert short.startswith(
        "What did it cost on short inputs? Inside the original window ruler@4k 100.0 -> 88.0 (-12.0 points, "
    )
    assert "; mmlu 100.0 -> 100.0 (+0.0 points" in short
    assert verdict.startswith(
        "Verdict: REGRESSION: the extended model lost more inside the original window than the limit allows ("
    )
    assert verdict.endswith("(retention of at least 98.5 %; 95 % confidence).")


def test_an_original_that_was_not_run_beyond_its_window(tmp_path: Path) -> None:
    pair = paired(
        tmp_path,
        {"ruler/vt@4096": ones(400)},
        {"ruler/vt@4096": ones(400), "ruler/vt@8192": ones(8, 2), "ruler/cwe@8192": ones(24)},
        common=True,
    )
    long, _, verdict = three_sentences(pair, judge_inside_window(pair))
    # (75 + 100) / 2: every task of ruler counts the same
    assert "At 8k tokens extended scores ruler 87.5 (the original was not run there; n = 32)" in long
    assert verdict.startswith("Verdict: PASS")


def test_says_what_it_cannot_tell(tmp_path: Path) -> None:
    beyond = paired(tmp_path / "beyond", {"ruler/vt@8192": ones(5)}, {"ruler/vt@8192": ones(5)})
    assert judge_inside_window(beyond) is None
    assert three_sentences(beyond, None)[1:] == [
        "What did it cost on short inputs? Nothing was run inside the original window.",
        "Verdict: none, because there are no samples inside the original window.",
    ]
    inside = paired(tmp_path / "inside", {"mmlu/a": ones(5)}, {"mmlu/a": ones(5)})
    long, _, verdict = three_sentences(inside, judge_inside_window(inside))
    assert long == "Does the long window work? Nothing was run beyond the original window of 4k tokens."
    assert verdict.startswith("Verdict: INCONCLUSIVE")
