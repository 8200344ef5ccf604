"""The gain of a longer window: the same items at two windows, of the original at its own and the extended beyond it."""

from __future__ import annotations

import csv
import io
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lr2eval.comparisons import baseline, exports
from lr2eval.comparisons.compare import compare_runs, read_all
from lr2eval.comparisons.scores import RunScores
from lr2eval.record.comparison import Comparison, Gain
from lr2eval.reports import render
from lr2eval.stats.paired import Paired, difference_interval, mcnemar
from tests.fake_runs import Scores, fake_run, ones

NEAR, FAR = 8192, 131072


def items(n: int, documents: int | None = None) -> list[dict[str, Any]]:
    return [{"item": f"{i}:d{i}", **({"document": f"d{i % documents}"} if documents else {})} for i in range(n)]


def runs(
    tmp_path: Path, before: dict[str, Scores], after: dict[str, Scores], columns: Any = None, **more: Any
) -> tuple[RunScores, RunScores]:
    given = {name: items(len(scores)) for name, scores in {**before, **after}.items()} if columns is None else columns
    a = fake_run(tmp_path / "a", before, model="original", columns=given, **more)
    b = fake_run(tmp_path / "b", after, model="extended", columns=given, **more)
    first, second = read_all([a, b])
    return first, second


def gains(original: RunScores, extended: RunScores, **more: Any) -> list[Gain]:
    return compare_runs(original, [extended], **more)[0].pairs[0].gains


def test_items_are_paired_across_the_windows(tmp_path: Path) -> None:
    """12 of 40 right at 8k, 30 at 128k: whatever the extended model does at 8k takes no part."""
    near, far = ones(40, 28), ones(40, 10, at=30)
    total, trec = gains(*runs(
        tmp_path,
        {f"longbench/trec@{NEAR}": near},
        {f"longbench/trec@{NEAR}": ones(40, 40), f"longbench/trec@{FAR}": far},
        truncated={f"longbench/trec@{NEAR}": [100] * 25 + [0] * 15},
    ))  # fmt: skip
    assert (trec.level, trec.task, trec.window, trec.length, trec.n) == ("task", "trec", NEAR, FAR, 40)
    assert (trec.original, trec.extended, trec.difference) == (30, 75, 45)
    assert (trec.lost, trec.gained, trec.cut) == (10, 28, 25)
    low, high = difference_interval(Paired(np.array(near, float) / 100, np.array(far, float) / 100), 0.9)
    assert (trec.interval.low, trec.interval.high) == (pytest.approx(100 * low), pytest.approx(100 * high))
    assert trec.p_changed == trec.p_holm == pytest.approx(mcnemar(10, 28))
    assert (total.level, total.task, total.difference, total.p_holm) == ("benchmark", None, 45, None)


def test_the_item_decides_not_the_place(tmp_path: Path) -> None:
    near, far = ones(30, 11, at=3), ones(30, 5, at=20)
    order = random.Random(1).sample(range(30), 30)
    shuffled = {f"longbench/trec@{NEAR}": items(30), f"longbench/trec@{FAR}": [items(30)[i] for i in order]}
    before = {f"longbench/trec@{NEAR}": near}
    straight = gains(*runs(tmp_path / "1", before, {**before, f"longbench/trec@{FAR}": far}))
    moved = gains(*runs(tmp_path / "2", before, {**before, f"longbench/trec@{FAR}": [far[i] for i in order]}, shuffled))
    assert moved == straight
    wrong = gains(*runs(tmp_path / "3", before, {**before, f"longbench/trec@{FAR}": [far[i] for i in order]}))
    assert wrong != straight  # the order of the samples is not what pairs them


def test_means_weigh_data_sets_and_holm_looks_at_all(tmp_path: Path) -> None:
    before = {f"longbench/trec@{NEAR}": ones(30, 20), f"longbench/lcc@{NEAR}": ones(10, 10)}
    after = {**before, f"longbench/trec@{FAR}": ones(30), f"longbench/lcc@{FAR}": ones(10, 9)}
    original, extended = runs(tmp_path, before, after)
    extended = replace(extended, headline={"longbench": "tasks"})
    total, *sets = gains(original, extended)
    assert [(row.task, row.difference) for row in sets] == [("trec", pytest.approx(200 / 3)), ("lcc", 10)]
    assert total.difference == pytest.approx((200 / 3 + 10) / 2)
    assert (total.over, total.n, total.shards) == ("tasks", 40, 2)
    by_samples = gains(original, replace(extended, headline={"longbench": "samples"}))[0]
    assert by_samples.difference == pytest.approx(100 * 21 / 40)
    assert sets[0].p_holm == pytest.approx(2 * sets[0].p_changed)
    assert sets[1].p_holm == pytest.approx(max(sets[1].p_changed, 2 * sets[0].p_changed))


def test_documents_are_clusters(tmp_path: Path) -> None:
    names = f"longbench/trec@{NEAR}", f"longbench/trec@{FAR}"
    before, after = {names[0]: ones(40, 8)}, {names[0]: ones(40, 8), names[1]: ones(40)}
    columns = {name: [{"item": str(i), "document": f"d{i // 8}"} for i in range(40)] for name in names}
    clustered = gains(*runs(tmp_path / "1", before, after, columns))[1]
    alone = gains(*runs(tmp_path / "2", before, after))[1]
    assert (clustered.clusters, alone.clusters) == (5, None)
    assert clustered.design_effect > 1.5
    assert clustered.interval.low < alone.interval.low


@pytest.mark.parametrize(
    ("before", "after", "columns"),
    [
        # One window only; the original's window as long as the other's; lengths with questions of their own.
        ([f"longbench/trec@{NEAR}"], [f"longbench/trec@{NEAR}"], None),
        ([f"longbench/trec@{n}" for n in (NEAR, FAR)], [f"longbench/trec@{n}" for n in (NEAR, FAR)], None),
        ([f"ruler/vt@{NEAR}"], [f"ruler/vt@{NEAR}", f"ruler/vt@{FAR}"], {}),
        (["mmlu/a"], ["mmlu/a"], None),
    ],
)
def test_absent_without_two_windows(tmp_path: Path, before: list[str], after: list[str], columns: Any) -> None:
    pair = runs(tmp_path, dict.fromkeys(before, ones(10)), dict.fromkeys(after, ones(10)), columns)
    comparison = compare_runs(pair[0], [pair[1]])[0]
    assert comparison.pairs[0].gains == []
    assert "Gain" not in exports.to_markdown(comparison)
    page = render([tmp_path / "a", tmp_path / "b"], tmp_path / "report.html", comparison=comparison).read_text()
    assert "Gain from" not in page
    assert "<dt>Gain</dt>" not in page


def test_the_original_stands_at_the_longest_window_within_its_own(tmp_path: Path) -> None:
    """It was run at 4k, 8k and, beyond its window, at 128k; the gain is from 8k, its window."""
    lengths = (4096, NEAR, FAR)
    scores = {f"longbench/trec@{n}": ones(20, zeros) for n, zeros in zip(lengths, (20, 10, 15), strict=True)}
    original, extended = runs(tmp_path, scores, scores)
    facts = original.side.model.model_copy(update={"window": NEAR})
    original = replace(original, side=original.side.model_copy(update={"model": facts}))
    found = gains(original, extended)[1]
    assert (found.window, found.length, found.original, found.extended) == (NEAR, FAR, 50, 25)


def test_what_has_no_partner_is_left_out_and_said(tmp_path: Path) -> None:
    near, far = f"longbench/trec@{NEAR}", f"longbench/trec@{FAR}"
    original, extended = runs(
        tmp_path, {near: [None, None, *ones(8)]}, {near: [None, None, *ones(8)], far: [*ones(9), None]}
    )
    done = compare_runs(original, [extended])[0].pairs[0]
    assert done.gains[1].n == 7
    (said,) = [item for item in done.left_out if item.what.startswith("gain of longbench/trec")]
    assert (said.n, "skipped" in said.reason, f"{NEAR} to {FAR}" in said.what) == (3, True, True)


def test_items_of_another_prompt_take_no_part(tmp_path: Path) -> None:
    """With --common the two runs may have been given other texts at the original's window: no pair, no gain."""
    near, far = f"longbench/trec@{NEAR}", f"longbench/trec@{FAR}"
    columns = {near: items(10), far: items(10)}
    a = fake_run(tmp_path / "a", {near: ones(10), "mmlu/a": ones(3)}, columns=columns, prompts="one", model="original")
    b = fake_run(tmp_path / "b", {near: ones(10), far: ones(10)}, columns=columns, prompts="two", model="extended")
    c = fake_run(tmp_path / "c", {"mmlu/a": ones(3)}, prompts="one", model="extended")
    original, extended, same = read_all([a, b, c])
    mixed = replace(extended, shards={**extended.shards, **same.shards})
    done = compare_runs(original, [mixed], common=True)[0].pairs[0]
    assert done.gains == []
    assert sum(item.n for item in done.left_out if item.what.startswith("gain")) == 10


def test_a_baseline_file_will_do_for_the_original(tmp_path: Path) -> None:
    near, far = f"longbench/trec@{NEAR}", f"longbench/trec@{FAR}"
    original, extended = runs(
        tmp_path, {near: ones(20, 9)}, {near: ones(20), far: ones(20)}, truncated={near: [5] * 6 + [0] * 14}
    )
    saved = baseline.load_baseline(baseline.save_baseline(original, tmp_path / "baseline.json"))
    assert gains(saved, extended) == gains(original, extended)
    assert gains(saved, extended)[0].cut == 6


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    near, far = f"longbench/trec@{NEAR}", f"longbench/trec@{FAR}"
    original, extended = runs(
        tmp_path, {near: ones(40, 28)}, {near: ones(40, 30), far: ones(40, 4)}, truncated={near: [9] * 21 + [0] * 19}
    )
    return compare_runs(original, [extended])[0]


def test_exports_tell_gains_from_differences(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(exports.to_csv(comparison))))
    found = [row for row in rows if row["level"] == "gain of task"]
    assert [(row["task"], row["original_length"], row["length"], row["difference"]) for row in found] == [
        ("trec", str(NEAR), str(FAR), "60.0")
    ]
    assert {row["original_length"] for row in rows if not row["level"].startswith("gain")} == {""}
    text = exports.to_markdown(comparison)
    assert "extended at its longest length against original at its own window" in text
    assert "| `longbench:trec@8k-128k` | 40 | 30.0 | 90.0 | +60.00 |" in text


def test_the_report_says_it_in_words_and_shows_every_number(comparison: Comparison, tmp_path: Path) -> None:
    page = render([tmp_path / "a", tmp_path / "b"], tmp_path / "report.html", comparison=comparison).read_text()
    gain = comparison.pairs[0].gains[0]
    assert (
        "With 128k instead of 8k tokens of the same LongBench questions, extended gains 60.0 points (30.0 → 90.0, "
        in page
    )
    assert "n = 40 questions). For original, 21 of these questions were cut." in page
    assert f'data-v="{gain.difference}"' in page
    assert "<dt>Gain</dt>" in page
    for value, word in ((ones(40, 28), "does not change significantly: "), (ones(40, 40), "loses")):
        low, high = sorted(((value.count(100.0) - 12) * 2.5 - 1, 1.0)) if word != "loses" else (-40.0, -20.0)
        span = gain.interval.model_copy(update={"low": low, "high": high})
        changed = [row.model_copy(update={"interval": span}) for row in comparison.pairs[0].gains]
        pair = comparison.pairs[0].model_copy(update={"gains": changed})
        other = comparison.model_copy(update={"pairs": [pair]})
        html = render([tmp_path / "a", tmp_path / "b"], tmp_path / "other.html", comparison=other).read_text()
        assert f"extended {word}" in html
