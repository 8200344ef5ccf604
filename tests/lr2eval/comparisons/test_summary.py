from __future__ import annotations

from pathlib import Path

from lr2eval.comparisons.compare import Compared, compare, read_all
from lr2eval.comparisons.summary import in_short, judge_inside
from tests.fake_runs import Scores, fake_run, ones


def compared(tmp_path: Path, before: dict[str, Scores], after: dict[str, Scores], common: bool = False) -> Compared:
    original = fake_run(tmp_path / "a", before, model="original", window=4096)
    sources = read_all([original, fake_run(tmp_path / "b", after, model="extended")])
    return compare(sources[0], sources[1:], common=common).compared[0]


def test_gains_beyond_the_window_do_not_hide_a_loss_within(tmp_path: Path) -> None:
    before = {"ruler/vt@4096": ones(500), "ruler/vt@8192": ones(500, 500), "mmlu/a": ones(600)}
    after = {"ruler/vt@4096": ones(500, 60), "ruler/vt@8192": ones(500, 10), "mmlu/a": ones(600)}
    pair = compared(tmp_path, before, after)
    gate = judge_inside(pair)
    assert gate is not None
    assert {check.name: check.verdict for check in gate.checks} == {"ruler@4k": "regression", "mmlu": "pass"}
    long, short, verdict = in_short(pair, gate)
    assert long == "Does the long window work? At 8k tokens, extended scores ruler 98.0 (original: 0.0; n = 500)."
    assert short.startswith(
        "What did it cost on short inputs? Within the original window: ruler@4k 100.0 -> 88.0 (-12.0 "
    )
    assert "; mmlu 100.0 -> 100.0 (+0.0 points" in short
    assert verdict.startswith("Verdict: REGRESSION: the loss within the original window is larger than allowed (")
    assert verdict.endswith("(limit: retention of at least 98.5 %; confidence: 95 %).")


def test_an_original_that_was_not_run_beyond_its_window(tmp_path: Path) -> None:
    pair = compared(
        tmp_path,
        {"ruler/vt@4096": ones(400)},
        {"ruler/vt@4096": ones(400), "ruler/vt@8192": ones(8, 2), "ruler/cwe@8192": ones(24)},
        common=True,
    )
    long, _, verdict = in_short(pair, judge_inside(pair))
    # (75 + 100) / 2: every task of ruler counts the same
    assert "At 8k tokens, extended scores ruler 87.5 (original: not run; n = 32)" in long
    assert verdict.startswith("Verdict: PASS")


def test_says_what_it_cannot_tell(tmp_path: Path) -> None:
    beyond = compared(tmp_path / "beyond", {"ruler/vt@8192": ones(5)}, {"ruler/vt@8192": ones(5)})
    assert judge_inside(beyond) is None
    assert in_short(beyond, None)[1:] == [
        "What did it cost on short inputs? Nothing was run within the original window.",
        "Verdict: none, nothing was run within the original window.",
    ]
    inside = compared(tmp_path / "inside", {"mmlu/a": ones(5)}, {"mmlu/a": ones(5)})
    long, _, verdict = in_short(inside, judge_inside(inside))
    assert long == "Does the long window work? Nothing was run beyond the original window of 4k tokens."
    assert verdict.startswith("Verdict: INCONCLUSIVE")
