from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lr2eval.comparisons.compare import compare_runs, groups, pool, ranking, read_all
from lr2eval.comparisons.pairing import PairedShard
from lr2eval.comparisons.scores import RunScores
from lr2eval.errors import NotComparableError, UsageError
from lr2eval.record.comparison import Comparison, Difference, Rank
from lr2eval.stats.paired import holm, mcnemar
from tests.fake_runs import fake_run, ones


def compared(tmp_path: Path, before: dict[str, list[float | None]], after: dict[str, list[float | None]]) -> Comparison:
    return compare_runs(*opened(tmp_path, before, after))[0]


def opened(
    tmp_path: Path, before: dict[str, list[float | None]], after: dict[str, list[float | None]], window: int = 131_072
) -> tuple[RunScores, list[RunScores]]:
    paths = [
        fake_run(tmp_path / "a", before, model="original", window=window),
        fake_run(tmp_path / "b", after, model="extended"),
    ]
    original, *extended = read_all(paths)
    return original, extended


def row(done: Comparison, level: str, task: str | None = None, length: int | None = None) -> Difference:
    (found,) = [r for r in done.pairs[0].differences if (r.level, r.task, r.length) == (level, task, length)]
    return found


def test_every_level_of_a_benchmark_with_lengths(tmp_path: Path) -> None:
    before = {f"ruler/{task}@{n}": ones(20) for task in ("vt", "cwe") for n in (4096, 8192)}
    after = before | {"ruler/vt@8192": ones(20, 10)}
    done = compared(tmp_path, before, after)
    assert [(r.level, r.task, r.length) for r in done.pairs[0].differences] == [
        ("benchmark", None, None), ("length", None, 4096), ("length", None, 8192), ("task", "vt", None),
        ("task", "cwe", None), ("shard", "vt", 4096), ("shard", "vt", 8192), ("shard", "cwe", 4096),
        ("shard", "cwe", 8192),
    ]  # fmt: skip
    assert row(done, "benchmark").difference == -12.5
    assert row(done, "length", None, 8192).difference == -25
    assert row(done, "task", "vt").retention == 0.75
    assert row(done, "task", "vt").p_holm == pytest.approx(2 * 2**-10)  # of two tasks
    vt = row(done, "shard", "vt", 8192)
    assert (vt.lost, vt.gained, vt.n, vt.binary) == (10, 0, 20, True)
    assert vt.p_changed == pytest.approx(2**-10)  # mid-p: 2 * (1/1024) - 1/1024
    assert vt.p_holm == pytest.approx(4 * 2**-10)
    assert row(done, "benchmark").p_holm is None


def test_headlines_weigh_tasks_or_samples(tmp_path: Path) -> None:
    before = {"mmlu/a": ones(30), "mmlu/b": ones(10), "ruler/vt@4096": ones(30), "ruler/cwe@4096": ones(10)}
    after = {"mmlu/a": ones(30), "mmlu/b": ones(10, 10), "ruler/vt@4096": ones(30), "ruler/cwe@4096": ones(10, 10)}
    done = compared(tmp_path, before, after)
    by_name = {r.benchmark: r for r in done.pairs[0].differences if r.level == "benchmark"}
    assert by_name["mmlu"].difference == -25  # 10 of 40 samples
    assert by_name["ruler"].difference == -50  # one of two tasks
    assert (by_name["mmlu"].over, by_name["ruler"].over) == ("samples", "tasks")


def test_interval_is_two_sided_at_twice_the_confidence(tmp_path: Path) -> None:
    done = compared(tmp_path, {"mmlu/a": ones(50)}, {"mmlu/a": ones(50)})
    found = row(done, "benchmark").interval
    # No pair differs: d with (50 d - 0.4) / sqrt(50 d (1 - d)) = 1.645, the continuity correction being 0.4.
    assert found.confidence == pytest.approx(0.9)
    assert found.high == -found.low
    d = found.high / 100
    assert (50 * d - 0.4) / (50 * d * (1 - d)) ** 0.5 == pytest.approx(1.6448536269514722)


def test_retention_of_an_original_that_scores_nothing_is_no_number(tmp_path: Path) -> None:
    done = compared(tmp_path, {"mmlu/a": ones(5, 5)}, {"mmlu/a": ones(5)})
    assert row(done, "benchmark").retention is None
    assert row(done, "benchmark").retention_interval is None


def test_samples_of_one_document_are_a_cluster(tmp_path: Path) -> None:
    name = "ruler/qa_1@4096"
    columns = {name: [{"document": f"d{i // 10}"} for i in range(40)]}
    paths = [
        fake_run(tmp_path / "a", {name: ones(40)}, columns=columns),
        fake_run(tmp_path / "b", {name: ones(40, 10)}, columns=columns),  # the whole of one document is lost
    ]
    sources = read_all(paths)
    found = compare_runs(sources[0], sources[1:])[0].pairs[0].differences[-1]
    assert found.clusters == 4
    # Totals -10, 0, 0, 0 around a mean of -.25: robust 75 * 4/3, naive 7.5.
    assert found.design_effect == pytest.approx(75 * 4 / 3 / 7.5)
    alone = [fake_run(tmp_path / "c", {name: ones(40)}), fake_run(tmp_path / "d", {name: ones(40, 10)})]
    sources = read_all(alone)
    independent = compare_runs(sources[0], sources[1:])[0].pairs[0].differences[-1]
    assert independent.clusters is None
    assert found.interval.low < independent.interval.low
    assert found.interval.high > 0 > independent.interval.high


def test_documents_cluster_across_lengths() -> None:
    shards = [
        PairedShard(f"ruler/qa_1@{n}", "ruler", "qa_1", n, np.ones(3), np.zeros(3), [], ["x", "y", None])
        for n in (4096, 8192)
    ]
    clusters = pool(shards, "tasks").clusters
    assert clusters is not None
    assert len(set(clusters.tolist())) == 4  # x, y, and two samples of their own


def test_weights_of_tasks() -> None:
    shards = [
        PairedShard(f"ruler/{task}@4096", "ruler", task, 4096, np.ones(n), np.full(n, value), [], [])
        for task, n, value in (("vt", 10, 0.0), ("cwe", 5, 1.0))
    ]
    assert pool(shards, "tasks").means() == pytest.approx((1, 0.5))
    assert pool(shards, "tasks", {"vt": 3.0}).means() == pytest.approx((1, 0.25))
    assert pool(shards, "samples").means() == pytest.approx((1, 1 / 3))


def test_groups_repeat_no_row() -> None:
    shard = PairedShard("ruler/vt@4096", "ruler", "vt", 4096, np.ones(3), np.ones(3), [], [])
    assert [key[0] for key in groups([shard], 4096)] == ["benchmark", "length", "shard"]


def test_lengths_beyond_the_window_are_rows_of_their_own(tmp_path: Path) -> None:
    lengths = (2048, 4096, 8192, 16384)
    before: dict[str, list[float | None]] = {f"ruler/{t}@{n}": ones(20) for t in ("vt", "cwe") for n in lengths[:2]}
    before |= {f"ruler/{t}@{n}": ones(20, 18) for t in ("vt", "cwe") for n in lengths[2:]} | {"mmlu/a": ones(20)}
    after = before | {f"ruler/{t}@{n}": ones(20) for t in ("vt", "cwe") for n in lengths[2:]}
    after["ruler/vt@4096"] = ones(20, 10)
    done = compare_runs(*opened(tmp_path, before, after, window=4096))[0]
    rows = done.pairs[0].differences
    assert {(r.benchmark, r.level, r.task, r.length, r.n) for r in rows if r.beyond and r.level != "shard"} == {
        ("ruler", "benchmark", None, None, 80), ("ruler", "length", None, 8192, 40),
        ("ruler", "length", None, 16384, 40), ("ruler", "task", "vt", None, 40), ("ruler", "task", "cwe", None, 40),
    }  # fmt: skip
    assert [r.beyond for r in rows] == sorted(r.beyond for r in rows)  # what fits comes first
    within, far = (r for r in rows if (r.level, r.benchmark) == ("benchmark", "ruler"))
    assert (within.n, within.difference, within.retention) == (80, -12.5, 0.875)
    assert (far.difference, far.retention, far.retention_interval) == (90, None, None)
    assert all((r.retention is None) == r.beyond for r in rows)
    # Holm's correction is over all shards: 8 of RULER and MMLU's. Four rose, one fell.
    shard = next(r for r in rows if (r.level, r.task, r.length) == ("shard", "vt", 4096))
    assert shard.p_holm == pytest.approx(5 * shard.p_changed)


def test_the_noise_floor_keeps_the_window_apart(tmp_path: Path) -> None:
    before: dict[str, list[float | None]] = {"ruler/vt@4096": ones(10), "ruler/vt@8192": ones(10)}
    repeat = fake_run(tmp_path / "r", before | {"ruler/vt@8192": ones(10, 4)}, model="original", window=4096)
    original, extended = opened(tmp_path, before, before, window=4096)
    rows = compare_runs(original, extended, noise=read_all([repeat]))[0].pairs[0].differences
    assert {(r.level, r.beyond): r.noise for r in rows} == {
        (level, beyond): 40 * beyond for level in ("benchmark", "length", "shard") for beyond in (False, True)
    }


def test_depth_cells(tmp_path: Path) -> None:
    name = "niah/single@4096"
    columns = {name: [{"depth": d} for d in (0.0, 0.0, 1.0, 1.0)]}
    paths = [
        fake_run(tmp_path / "a", {name: ones(4)}, columns=columns),
        fake_run(tmp_path / "b", {name: ones(4, 1)}, columns=columns),
    ]
    sources = read_all(paths)
    cells = compare_runs(sources[0], sources[1:])[0].pairs[0].differences[-1].cells
    assert [(c.depth, c.n, c.original, c.extended, c.difference) for c in cells] == [
        (0.0, 2, 100, 50, -50), (1.0, 2, 100, 100, 0)
    ]  # fmt: skip


def test_several_extended_models(tmp_path: Path) -> None:
    paths = [
        fake_run(tmp_path / "a", {"mmlu/a": ones(10)}, model="m"),
        fake_run(tmp_path / "b", {"mmlu/a": ones(10, 1)}, model="yarn"),
        fake_run(tmp_path / "c", {"mmlu/a": ones(10, 2)}, model="yarn"),
    ]
    sources = read_all(paths)
    done = compare_runs(sources[0], sources[1:])[0]
    assert [pair.extended.label for pair in done.pairs] == ["yarn (b)", "yarn (c)"]
    assert [pair.differences[0].difference for pair in done.pairs] == [-10, -20]


NEAR, FAR, FARTHER = "ruler/vt@4096", "ruler/vt@8192", "ruler/cwe@16384"


def ranked(tmp_path: Path, rules: dict[str, tuple[int, int, int]]) -> list[Rank]:
    """The ranking of rules by their wrong answers to 40 near, 40 far and 20 farther samples. The window is 4096."""
    paths = [fake_run(tmp_path / "original", {NEAR: ones(40)}, model="original", window=4096)]
    for name, (near, far, farther) in rules.items():
        scores = {NEAR: ones(40, near), FAR: ones(40, far), FARTHER: ones(20, farther)}
        paths.append(fake_run(tmp_path / name, scores, model=name))
    original, *extended = read_all(paths)
    return ranking(compare_runs(original, extended)[1])


def test_rules_are_ranked_beyond_the_window(tmp_path: Path) -> None:
    found = ranked(tmp_path, {"worst": (0, 40, 20), "good": (10, 4, 1), "best": (20, 0, 0)})
    assert [rank.label for rank in found] == ["best", "good", "worst"]
    assert [rank.score for rank in found] == [100, 92.5, 0]  # each shard counts the same, whatever its samples
    assert [rank.n for rank in found] == [60, 60, 60]
    assert [rank.difference for rank in found] == [None, -7.5, -100]
    assert [rank.retention for rank in found] == [0.5, 0.75, 1]  # which the ranking does not count
    first, second, third = found
    assert (first.difference_interval, first.p_holm) == (None, None)
    assert second.difference_interval is not None
    assert second.difference_interval.confidence == 0.95
    assert second.difference_interval.low < -7.5 < second.difference_interval.high
    assert third.p_holm is not None
    assert third.p_holm < 1e-6
    assert first.interval.low < 100 == first.interval.high


def test_a_rule_near_the_best_is_not_told_apart(tmp_path: Path) -> None:
    """p values are adjusted over every pair of rules, because the samples that are tested choose the best rule."""
    paths = [fake_run(tmp_path / "original", {NEAR: ones(40)}, model="original", window=4096)]
    missed = {"a": 0, "b": 5, "c": 9}
    for name, lost in missed.items():
        paths.append(fake_run(tmp_path / name, {NEAR: ones(40), FAR: ones(40, lost)}, model=name))
    original, *extended = read_all(paths)
    found = {rank.label: rank.p_holm for rank in ranking(compare_runs(original, extended)[1])}
    adjusted = holm([mcnemar(5, 0), mcnemar(9, 0), mcnemar(4, 0)])
    assert (found["b"], found["c"]) == (pytest.approx(adjusted[0]), pytest.approx(adjusted[1]))
    assert adjusted[0] > 0.05 > mcnemar(5, 0)


def test_one_rule_alone_is_the_best(tmp_path: Path) -> None:
    (only,) = ranked(tmp_path, {"only": (0, 10, 0)})
    assert (only.label, only.score, only.difference, only.p_holm) == ("only", 87.5, None, None)


def test_rules_that_answered_other_samples_are_not_ranked(tmp_path: Path) -> None:
    original = fake_run(tmp_path / "original", {NEAR: ones(40)}, model="original", window=4096)
    one = fake_run(tmp_path / "one", {NEAR: ones(40), FAR: ones(40)}, model="one")
    other = fake_run(tmp_path / "other", {NEAR: ones(40), FAR: ones(30)}, model="other")
    first, *rest = read_all([original, one, other])
    with pytest.raises(NotComparableError, match="10 samples are in one run only"):
        ranking(compare_runs(first, rest)[1])


def test_noise_floor_is_the_largest_move_between_repeats(tmp_path: Path) -> None:
    original = fake_run(tmp_path / "a", {"mmlu/a": ones(10), "mmlu/b": ones(10)})
    repeats = [fake_run(tmp_path / f"r{k}", {"mmlu/a": ones(10, k), "mmlu/b": ones(10)}) for k in (3, 1)]
    extended = fake_run(tmp_path / "b", {"mmlu/a": ones(10, 2), "mmlu/b": ones(10)}, model="extended")
    sources = read_all([original, extended])
    done = compare_runs(sources[0], sources[1:], noise=read_all(repeats))[0]
    assert {r.task: r.noise for r in done.pairs[0].differences} == {None: 15, "a": 30, "b": 0}
    assert done.noise_runs == ["r3", "r1"]
    with pytest.raises(NotComparableError, match="not a repeat of"):
        compare_runs(sources[0], sources[1:], noise=[sources[1]])


def test_effective_length_with_its_range(tmp_path: Path) -> None:
    shards = {f"ruler/vt@{n}": ones(100, lost) for n, lost in ((4096, 0), (8192, 14), (16384, 60))}
    for found in compared(tmp_path, shards, shards).effective_lengths:
        assert found.effective_length == 8192  # 86 > 85.6
        assert (found.low, found.high, found.confidence, found.n) == (4096, 8192, 0.95, 100)


def test_few_right_answers_show_no_effective_length(tmp_path: Path) -> None:
    shards = {f"ruler/vt@{n}": ones(8) for n in (4096, 8192)}
    for found in compared(tmp_path, shards, shards).effective_lengths:
        assert (found.effective_length, found.low, found.high, found.n) == (8192, None, 8192, 8)


def test_skipped_samples_and_shared_documents_widen_the_range(tmp_path: Path) -> None:
    before: dict[str, list[float | None]] = {f"ruler/qa_1@{n}": ones(40) for n in (4096, 8192)}
    assert [each.low for each in compared(tmp_path, before, before).effective_lengths] == [8192, 8192]
    skipped = before | {"ruler/qa_1@8192": [None] * 20 + ones(20)}
    found = compared(tmp_path / "skipped", skipped, skipped).effective_lengths[0]
    assert (found.effective_length, found.low, found.high, found.n) == (8192, 4096, 8192, 20)
    # 14 wrong of 40 exclude 8k, unless all of them are of one document.
    wrong, ranges = before | {"ruler/qa_1@8192": ones(40, 14)}, []
    shared = {"ruler/qa_1@8192": [{"document": f"d{i // 14}"} for i in range(40)]}
    for name, columns in (("alone", {}), ("shared", shared)):
        sources = read_all([fake_run(tmp_path / f"{name}{i}", wrong, columns=columns) for i in range(2)])
        ranges.append(compare_runs(sources[0], sources[1:])[0].effective_lengths[0].high)
    assert ranges == [4096, 8192]


def test_effective_length_is_over_lengths_that_have_every_task(tmp_path: Path) -> None:
    shards = {f"ruler/{task}@{n}": ones(50) for task in ("vt", "cwe") for n in (4096, 8192)}
    shards["ruler/vt@16384"] = ones(50)
    done = compared(tmp_path, shards, shards)
    assert [found.lengths for found in done.effective_lengths] == [[4096, 8192]] * 2
    assert {found.effective_length for found in done.effective_lengths} == {8192}


def test_confidence_is_checked(tmp_path: Path) -> None:
    sources = read_all([fake_run(tmp_path / "a", {"mmlu/a": ones(3)}), fake_run(tmp_path / "b", {"mmlu/a": ones(3)})])
    with pytest.raises(UsageError, match="--confidence 95"):
        compare_runs(sources[0], sources[1:], confidence=95)


def test_only_the_original_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    with pytest.raises(UsageError, match="only the original may be a baseline file"):
        read_all([fake_run(tmp_path / "a", {"mmlu/a": ones(3)}), tmp_path / "file"])


def test_one_sample_and_all_equal_scores_have_numbers(tmp_path: Path) -> None:
    done = compared(tmp_path, {"mmlu/a": [100.0], "mmlu/b": [50.0] * 9}, {"mmlu/a": [0.0], "mmlu/b": [50.0] * 9})
    one, equal = row(done, "shard", "a"), row(done, "shard", "b")
    assert one.interval.low == -100
    assert one.interval.high > 0  # one sample shows nothing
    assert equal.difference == 0
    assert equal.interval.low < 0 < equal.interval.high
    assert not equal.binary
