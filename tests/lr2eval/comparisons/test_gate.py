from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lr2eval.comparisons.compare import PairedRuns, compare_runs, read_all
from lr2eval.comparisons.gate import check_pin, default_checks, judge, not_comparable
from lr2eval.comparisons.gate_config import GateConfig
from lr2eval.errors import NotComparableError, UsageError
from lr2eval.record.comparison import Check, Gate
from lr2eval.record.results import NotRun
from tests.fake_runs import Scores, fake_run, ones


def paired(
    tmp_path: Path, before: Mapping[str, Scores], after: Mapping[str, Scores], *, common: bool = False, **original: Any
) -> PairedRuns:
    sources = read_all(
        [
            fake_run(tmp_path / "a", before, model="original", **original),
            fake_run(tmp_path / "b", after, model="extended"),
        ]
    )
    return compare_runs(sources[0], sources[1:], common=common)[1][0]


def only(gate: Gate) -> Check:
    (check,) = gate.checks
    return check


@pytest.mark.parametrize(
    ("n", "lost", "config", "verdict", "code"),
    [
        # Nothing lost: x = 0.015 n must satisfy (x - 0.4) / sqrt(0.985 x) >= 1.645, so x >= 3.4186, n >= 227.9.
        (228, 0, {}, "pass", 0),
        (227, 0, {}, "inconclusive", 3),
        # A margin of 1 point: (x - 0.4) / sqrt(0.99 x) >= 1.645 with x = 0.01 n, n >= 343.9.
        (344, 0, {"margin": 1.0}, "pass", 0),
        (343, 0, {"margin": 1.0}, "inconclusive", 3),
        (1000, 4, {"margin": 1.0}, "pass", 0),
        (1000, 9, {"margin": 1.0}, "inconclusive", 3),
        (1000, 11, {"margin": 1.0}, "regression", 1),
        (1000, 30, {}, "regression", 1),
        (1, 0, {}, "inconclusive", 3),
        (1, 1, {}, "inconclusive", 3),
        (20, 0, {}, "inconclusive", 3),
    ],
)
def test_the_rule(tmp_path: Path, n: int, lost: int, config: dict[str, float], verdict: str, code: int) -> None:
    gate = judge(paired(tmp_path, {"mmlu/a": ones(n)}, {"mmlu/a": ones(n, lost)}), GateConfig(**config))
    assert (gate.verdict, gate.exit_code, only(gate).verdict) == (verdict, code, verdict)
    assert gate.paragraph.startswith(verdict.upper())


def test_a_gain_never_fails(tmp_path: Path) -> None:
    gate = judge(paired(tmp_path, {"mmlu/a": ones(500, 100)}, {"mmlu/a": ones(500, 50)}), GateConfig())
    assert gate.verdict == "pass"


def test_a_small_sure_loss_within_the_limit_passes_and_is_said(tmp_path: Path) -> None:
    gate = judge(paired(tmp_path, {"mmlu/a": ones(4000)}, {"mmlu/a": ones(4000, 12)}), GateConfig(margin=1.0))
    assert gate.verdict == "pass"
    assert "there is a loss, but" in only(gate).message


def test_both_limits_are_two_checks_and_both_must_pass(tmp_path: Path) -> None:
    pair = paired(tmp_path, {"mmlu/a": ones(300)}, {"mmlu/a": ones(300)})
    gate = judge(pair, GateConfig(margin=0.5, min_retention=0.98))
    assert {check.kind: check.verdict for check in gate.checks} == {"retention": "pass", "margin": "inconclusive"}
    assert gate.verdict == "inconclusive"


def test_a_regression_outweighs_everything(tmp_path: Path) -> None:
    pair = paired(
        tmp_path, {"mmlu/a": ones(10), "ruler/vt@4096": ones(300)}, {"mmlu/a": ones(10), "ruler/vt@4096": ones(300, 90)}
    )
    gate = judge(pair, GateConfig())
    assert {check.name: check.verdict for check in gate.checks} == {"mmlu": "inconclusive", "ruler": "regression"}
    assert gate.exit_code == 1


def test_needed_n_decides(tmp_path: Path) -> None:
    """The n a gate asks for, if nothing was lost, is enough when it comes."""
    check = only(judge(paired(tmp_path, {"mmlu/a": ones(100)}, {"mmlu/a": ones(100)}), GateConfig(margin=1.0)))
    assert check.needed_n == check.needed_n_if_equal == 344
    for n, verdict in ((344, "pass"), (343, "inconclusive")):
        again = paired(tmp_path / f"{n}", {"mmlu/a": ones(n)}, {"mmlu/a": ones(n)})
        assert judge(again, GateConfig(margin=1.0)).verdict == verdict


@pytest.mark.parametrize("n", [1, 10, 100])
def test_needed_n_of_a_share_with_wrong_answers_among_the_pairs(tmp_path: Path, n: int) -> None:
    scores = ones(10 * n, 4 * n)
    check = only(judge(paired(tmp_path, {"mmlu/a": scores}, {"mmlu/a": scores}), GateConfig(min_retention=0.999)))
    # x = 0.001 * 0.6 n: x >= 3.4568 (see above, with 0.999).
    assert check.needed_n == check.needed_n_if_equal == pytest.approx(3.4568 / 0.0006, rel=0.001)


def test_needed_n_with_discordant_pairs_is_the_formula(tmp_path: Path) -> None:
    # 5 lost and 5 gained of 100: spread sqrt(.1), distance .02, (1.645 + .842)^2 * .1 / .0004.
    before, after = ones(100, 5), ones(100, 5, at=50)
    check = only(judge(paired(tmp_path, {"mmlu/a": before}, {"mmlu/a": after}), GateConfig(margin=2.0)))
    assert check.verdict == "inconclusive"
    assert check.needed_n == pytest.approx(6.1826 * 0.1 / 0.0004, abs=1)


def test_the_original_scores_nothing(tmp_path: Path) -> None:
    pair = paired(tmp_path, {"mmlu/a": ones(50, 50)}, {"mmlu/a": ones(50, 50)})
    gate = judge(pair, GateConfig())
    assert gate.verdict == "inconclusive"
    assert "the original scores 0 here" in gate.paragraph


def test_checks_by_name(tmp_path: Path) -> None:
    shards = {f"ruler/{t}@{n}": ones(200) for t in ("vt", "niah_single_1", "niah_single_2") for n in (4096, 8192)}
    shards["mmlu/mmlu_anatomy"] = ones(200)
    shards["lm_eval/hellaswag"] = ones(200)
    pair = paired(tmp_path, shards, shards)
    assert default_checks(pair) == ["ruler", "mmlu", "hellaswag"]
    sizes = {
        name: only(judge(pair, GateConfig(tasks=(name,)))).n
        for name in ("ruler", "ruler@8k", "ruler:vt", "ruler:vt@4k", "ruler:niah", "mmlu:anatomy", "hellaswag")
    }
    assert sizes == {
        "ruler": 1200, "ruler@8k": 600, "ruler:vt": 400, "ruler:vt@4k": 200, "ruler:niah": 800, "mmlu:anatomy": 200,
        "hellaswag": 200,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["mmul", "ruler:nothing", "ruler@16k", "ruler@many"])
def test_a_check_that_names_nothing_is_a_usage_error(tmp_path: Path, name: str) -> None:
    pair = paired(tmp_path, {"ruler/vt@4096": ones(5)}, {"ruler/vt@4096": ones(5)})
    with pytest.raises(UsageError, match=name.partition("@")[0]):
        judge(pair, GateConfig(tasks=(name,)))


def test_limits_of_single_checks_and_weights(tmp_path: Path) -> None:
    before: dict[str, Scores] = {"ruler/vt@4096": ones(400), "ruler/cwe@4096": ones(400)}
    pair = paired(tmp_path, before, before | {"ruler/vt@4096": ones(400, 40)})
    plain = judge(pair, GateConfig(margin=8.0))
    assert plain.verdict == "pass"
    strict = judge(pair, GateConfig.model_validate({"margin": 8.0, "checks": {"ruler:vt": {"margin": 2.0}}}))
    assert {check.name: check.verdict for check in strict.checks} == {"ruler": "pass", "ruler:vt": "regression"}
    heavy = judge(pair, GateConfig.model_validate({"margin": 8.0, "weights": {"ruler": {"vt": 9.0}}}))
    assert only(heavy).difference == pytest.approx(-9)
    assert heavy.verdict == "regression"
    with pytest.raises(UsageError, match="no task 'vtt'"):
        judge(pair, GateConfig.model_validate({"weights": {"ruler": {"vtt": 2.0}}}))


def test_single_tasks_that_fell_are_named_even_when_the_mean_passes(tmp_path: Path) -> None:
    before: dict[str, Scores] = {f"mmlu/s{i}": ones(500) for i in range(10)}
    pair = paired(tmp_path, before, before | {"mmlu/s3": ones(500, 30)})
    gate = judge(pair, GateConfig(margin=1.0))
    assert gate.verdict == "pass"
    assert [(each.name, each.difference) for each in gate.regressed] == [("mmlu:s3", -6)]
    assert "mmlu:s3 (-6.0)" in gate.paragraph


def test_single_tasks_that_rose_are_not_named(tmp_path: Path) -> None:
    gate = judge(paired(tmp_path, {"mmlu/a": ones(500, 60)}, {"mmlu/a": ones(500)}), GateConfig())
    assert gate.regressed == []


def test_a_benchmark_is_checked_by_its_headline(tmp_path: Path) -> None:
    before: dict[str, Scores] = {"mmlu/a": ones(300), "mmlu/b": ones(100)}
    after: dict[str, Scores] = {"mmlu/a": ones(300), "mmlu/b": ones(100, 20)}
    assert only(judge(paired(tmp_path, before, after), GateConfig())).difference == -5  # samples, not tasks


def test_the_pin(tmp_path: Path) -> None:
    pair = paired(tmp_path, {"mmlu/a": ones(300)}, {"mmlu/a": ones(300)})
    digest = pair.original.side.digest
    check_pin(pair.original.side, GateConfig(baseline_digest=digest[:12]))
    with pytest.raises(NotComparableError, match="the gate pins 000000000000"):
        check_pin(pair.original.side, GateConfig(baseline_digest="0" * 64))


def test_the_pin_of_the_model(tmp_path: Path) -> None:
    side = paired(tmp_path, {"mmlu/a": ones(300)}, {"mmlu/a": ones(300)}).original.side
    check_pin(side, GateConfig(baseline_model=side.model.fingerprint[:12]))
    with pytest.raises(NotComparableError, match=r"model fingerprint .* change baseline_model"):
        check_pin(side, GateConfig(baseline_model="0" * 8))


VT, CWE, A, B = "ruler/vt@4096", "ruler/cwe@4096", "mmlu/a", "mmlu/b"


@pytest.mark.parametrize(
    ("before", "after", "config", "common", "refused"),
    [
        # Only the original has it: refused if a check needs it.
        ([VT, CWE, A], [VT, A], {}, True, CWE),
        ([VT, CWE, A], [VT, A], {"tasks": ["ruler"]}, True, CWE),
        ([VT, CWE, A], [VT, A], {"tasks": ["mmlu"], "checks": {"ruler:cwe": {"margin": 1}}}, True, CWE),
        ([VT, CWE, A], [VT, A], {"checks": {"mmlu": {"margin": 1}}}, True, CWE),
        ([VT, CWE, A], [VT, A], {"tasks": ["mmlu"]}, True, None),
        ([VT, CWE, A], [VT, A], {"tasks": ["ruler:vt", "mmlu"]}, True, None),
        # Only the extended run has it: refused, or with common if a check needs it.
        ([VT, A], [VT, CWE, A], {}, False, CWE),
        ([VT, A], [VT, A, B], {}, True, B),
        ([VT, A], [VT, CWE, A], {"tasks": ["ruler"]}, True, CWE),
        ([VT, A], [VT, CWE, A], {"tasks": ["mmlu"]}, False, CWE),
        ([VT, A], [VT, CWE, A], {"tasks": ["mmlu"]}, True, None),
        ([VT, A], [VT, A, "lm_eval/hellaswag"], {}, True, "lm_eval/hellaswag"),
    ],
)
def test_a_needed_shard_must_be_in_both_runs(
    tmp_path: Path, before: list[str], after: list[str], config: dict[str, Any], common: bool, refused: str | None
) -> None:
    pair = paired(tmp_path, {name: ones(300) for name in before}, {name: ones(300) for name in after}, common=common)
    if refused is None:
        gate = judge(pair, GateConfig(**config), common=common)
        assert gate.verdict == "pass"
        assert [item.what for item in gate.left_out] == sorted({*before} ^ {*after})
        assert gate.paragraph.endswith("Left out: 300 samples (gate.json lists them).")
    else:
        with pytest.raises(NotComparableError, match=f"has no scores for {refused}"):
            judge(pair, GateConfig(**config), common=common)


@pytest.mark.parametrize("common", [False, True])
def test_the_original_may_say_why_it_lacks_a_shard(tmp_path: Path, common: bool) -> None:
    reasons = [
        NotRun(task="cwe", length=4096, reason="too long"),
        NotRun(task="b", length=None, reason="missing data"),
        NotRun(task="longbench", length=None, reason="missing data"),
    ]
    after = {name: ones(300) for name in (VT, CWE, A, B, "longbench/trec@4096")}
    pair = paired(tmp_path, {VT: ones(300), A: ones(300)}, after, common=common, not_run=reasons)
    gate = judge(pair, GateConfig(), common=common)
    assert gate.verdict == "pass"
    assert {item.what: item.reason for item in gate.left_out} == {
        CWE: "too long", B: "missing data", "longbench/trec@4096": "missing data"
    }  # fmt: skip


def test_the_window_explains_a_missing_shard_unless_the_run_went_beyond_it(tmp_path: Path) -> None:
    before, after = {VT: ones(300)}, {VT: ones(300), "ruler/vt@8192": ones(300)}
    assert judge(paired(tmp_path / "1", before, after, window=4096), GateConfig()).verdict == "pass"
    for kwargs in ({"window": 8192}, {"window": 4096, "settings": {"beyond_window": True}}):
        with pytest.raises(NotComparableError, match="has no scores for ruler/vt@8192"):
            judge(paired(tmp_path / str(kwargs["window"]), before, after, **kwargs), GateConfig())


def test_a_needed_shard_without_any_pair_is_refused(tmp_path: Path) -> None:
    """All of its samples were skipped in the extended run, though the original has scores."""
    skipped: list[float | None] = [None] * 300
    pair = paired(tmp_path / "1", {VT: ones(300), A: ones(300)}, {VT: skipped, A: ones(300)})
    with pytest.raises(NotComparableError, match=f"{VT}: no sample is left"):
        judge(pair, GateConfig())
    assert judge(pair, GateConfig(tasks=("mmlu",))).verdict == "pass"
    # The original has no score either, so there is nothing to lose.
    pair = paired(tmp_path / "2", {VT: skipped, A: ones(300)}, {VT: ones(300), A: ones(300)})
    assert judge(pair, GateConfig()).verdict == "pass"


def test_a_name_that_only_the_extended_run_has_is_a_usage_error(tmp_path: Path) -> None:
    pair = paired(tmp_path, {A: ones(300)}, {A: ones(300), VT: ones(300)})
    for config in ({"tasks": ("ruler",)}, {"checks": {"ruler:vt": {"margin": 1}}}):
        with pytest.raises(UsageError, match="original has no such shard"):
            judge(pair, GateConfig.model_validate(config), common=True)


def test_not_comparable_says_why() -> None:
    gate = not_comparable(NotComparableError("other seeds; use one"), 0.95)
    assert (gate.verdict, gate.exit_code, gate.reason) == ("not comparable", 4, "other seeds; use one")


def test_confidence_moves_the_verdict(tmp_path: Path) -> None:
    pair = paired(tmp_path, {"mmlu/a": ones(400)}, {"mmlu/a": ones(400)})
    assert judge(pair, GateConfig(margin=1.0, confidence=0.95)).verdict == "pass"
    assert judge(pair, GateConfig(margin=1.0, confidence=0.99)).verdict == "inconclusive"


def test_graded_scores_all_equal(tmp_path: Path) -> None:
    scores: list[float | None] = [75.0] * 30
    gate = judge(paired(tmp_path, {"ruler/vt@4096": scores}, {"ruler/vt@4096": scores}), GateConfig())
    assert gate.verdict == "inconclusive"


def beyond(tmp_path: Path) -> PairedRuns:
    """A loss within the original's window of 4k; a great gain beyond it."""
    before: dict[str, Scores] = {"ruler/vt@4096": ones(400), "ruler/vt@8192": ones(400, 380), "mmlu/a": ones(400)}
    after: dict[str, Scores] = {"ruler/vt@4096": ones(400, 80), "ruler/vt@8192": ones(400), "mmlu/a": ones(400)}
    return paired(tmp_path, before, after, window=4096)


@pytest.mark.parametrize("tasks", [None, ("ruler",), ("ruler:vt",), ("vt",)])
def test_gains_beyond_the_window_hide_no_loss(tmp_path: Path, tasks: tuple[str, ...] | None) -> None:
    gate = judge(beyond(tmp_path), GateConfig(tasks=tasks))
    assert (gate.verdict, gate.checks[0].n, gate.checks[0].difference) == ("regression", 400, -20)
    assert [(each.what, each.n, each.reason) for each in gate.left_out] == [
        ("ruler@8k", 400, "beyond the original's window of 4k, and no check names it")
    ]


def test_a_check_may_name_a_length_beyond_the_window(tmp_path: Path) -> None:
    gate = judge(beyond(tmp_path), GateConfig(tasks=("ruler@8k", "ruler:vt@8k")))
    assert gate.verdict == "pass"
    assert [check.difference for check in gate.checks] == [95, 95]
    assert gate.left_out == []


def test_a_check_of_which_nothing_is_within_the_window(tmp_path: Path) -> None:
    shards: dict[str, Scores] = {f"ruler/vt@{n}": ones(300) for n in (8192, 16384)}
    pair = paired(tmp_path / "both", shards | {"mmlu/a": ones(300)}, shards | {"mmlu/a": ones(300)}, window=4096)
    assert default_checks(pair) == ["mmlu"]
    assert [each.what for each in judge(pair, GateConfig()).left_out] == ["ruler@8k", "ruler@16k"]
    with pytest.raises(UsageError, match=r"check 'ruler:vt': all .* window of 4k; .* ruler:vt@8k, ruler:vt@16k"):
        judge(pair, GateConfig(tasks=("ruler:vt",)))
    only_beyond = paired(tmp_path / "beyond", shards, shards, window=4096)
    with pytest.raises(NotComparableError, match=r"no samples within the original's window of 4k.* such as ruler@8k"):
        judge(only_beyond, GateConfig())
