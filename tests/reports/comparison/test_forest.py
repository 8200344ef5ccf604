"""Forest plots: every row with its own numbers, limits where the gate drew them, names that stay text."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lr2eval.record.comparison import Comparison, Gate
from lr2eval.reports import formats
from lr2eval.reports.comparison import forest


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_checks_come_first_then_short_inputs(comparison: Comparison, gate: Gate) -> None:
    retention, margin = forest.forests(comparison, gate)
    assert (retention.kind, margin.kind) == ("retention", "margin")
    said = texts(str(retention.svg))
    names = [text for text in said if re.match(r"[✓✗?≠] ", text)]
    marks = {"pass": "✓", "regression": "✗", "inconclusive": "?", "not comparable": "≠"}
    checks = [check for check in gate.checks if check.kind == "retention"]
    assert names == [f"{marks[check.verdict]} {formats.title(check.name)}" for check in checks]
    for check in checks:
        assert any(text.startswith(formats.percent(check.retention)) for text in said)
    # The original's window is 8k: at 16k a ratio says nothing about loss.
    assert {"RULER at 4k", "RULER at 8k"} <= set(said)
    assert not {"RULER at 16k", "RULER at 32k"} & set(said)
    assert retention.window == 8192
    assert "98.5\u00a0%" in said
    assert "\u22122.0" in texts(str(margin.svg))


def test_without_gate_there_is_no_limit(comparison: Comparison) -> None:
    (one,) = forest.forests(comparison, None)
    assert not one.limits
    assert "MMLU" in texts(str(one.svg))


def test_rows_that_have_no_ratio_are_left_to_the_table(comparison: Comparison) -> None:
    pair = comparison.pairs[0]
    rows = [row.model_copy(update={"retention": None, "retention_interval": None}) for row in pair.differences]
    changed = comparison.model_copy(update={"pairs": [pair.model_copy(update={"differences": rows})]})
    assert forest.forests(changed, None) == []


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "\u202ename\x00", "@0@ @1@", "漢字" * 30, "a" * 500, "$x$ &amp;", "\\g<0>\\1"]
)
def test_names_are_escaped_and_clipped(name: str, comparison: Comparison, gate: Gate) -> None:
    checks = [check.model_copy(update={"name": name}) for check in gate.checks]
    svg = str(forest.forests(comparison, gate.model_copy(update={"checks": checks}))[0].svg)
    assert "<script" not in svg
    assert not re.search("[\x00\u202e]", svg)
    assert max(len(text) for text in texts(svg)) < 80


@pytest.mark.parametrize(("low", "high"), [(0.0, None), (3.0, 4.0), (0.0, 0.0), (1.0, 1.0), (0.9, 900.0)])
def test_what_does_not_fit_is_cut(low: float, high: float | None, comparison: Comparison) -> None:
    pair = comparison.pairs[0]
    [row] = [row for row in pair.differences if row.level == "benchmark" and row.benchmark == "mmlu"]
    assert row.retention_interval is not None
    ratio = row.retention_interval.model_copy(update={"low": low, "high": high})
    changed = pair.model_copy(update={"differences": [row.model_copy(update={"retention_interval": ratio})]})
    (one,) = forest.forests(comparison.model_copy(update={"pairs": [changed]}), None)
    svg = str(one.svg)
    assert "∞" in svg if high is None else formats.score(100 * high) in svg
    assert "nan" not in svg


def test_colours_follow_the_page(comparison: Comparison, gate: Gate) -> None:
    for one in forest.forests(comparison, gate):
        assert not re.search("#0a0[bcdef]", str(one.svg))
        assert "var(--regression)" in one.svg or "var(--pass)" in one.svg or "var(--inconclusive)" in one.svg


def test_few_tasks_without_lengths_are_rows(comparison: Comparison) -> None:
    pair = comparison.pairs[0]
    mmlu = [row for row in pair.differences if row.benchmark == "mmlu"]
    tasks = [row for row in mmlu if row.level == "shard" and row.retention and "number" in str(row.task)]
    few: Any = [row for row in mmlu if row.level == "benchmark"] + tasks[:3]
    changed = comparison.model_copy(update={"pairs": [pair.model_copy(update={"differences": few})]})
    said = texts(str(forest.forests(changed, None)[0].svg))
    assert sum(text.startswith("MMLU subject_number") for text in said) == 3
    assert not any(text.startswith("MMLU subject") for text in texts(str(forest.forests(comparison, None)[0].svg)))
