"""A stored comparison into the rows and sentences of the report. Arranges and words; every number is a stored one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lr2eval.record.comparison import SIGNS as SIGNS  # noqa: PLC0414  # for templates and the report of a search
from lr2eval.record.comparison import Comparison, Difference, EffectiveLength, Gain, Gate, Pair
from lr2eval.reports import formats
from lr2eval.reports.load import Key, keys
from lr2eval.reports.run.tables import ScoreTable, TableRow, TaskTable

FEW_TASKS = 12


def significant(row: Difference, alpha: float) -> bool:
    """Whether the models differ here, adjusted for the many places one looks at."""
    return row.p_holm is not None and row.p_holm < alpha


def alpha(comparison: Comparison) -> float:
    """The level that goes with the confidence of the comparison."""
    return round(1 - comparison.confidence, 10)


@dataclass(frozen=True)
class DifferenceTable(TaskTable[Difference]):
    """Extended minus original in one benchmark, task by length like the score table beside it."""

    original: Key
    extended: Key
    beyond: bool
    """Whether its samples are longer than the original's window."""
    whole: bool
    """Whether a last column holds each task over all lengths of this table."""
    means: Sequence[Difference | None]
    changed: int
    """Cells marked as significant."""


def difference_tables(scores: ScoreTable, comparison: Comparison) -> list[DifferenceTable]:
    """Tables beside ``scores`` for every extended model that has the benchmark, their tasks in the same order.

    Lengths beyond the original's window have a table of their own, after the others.
    """
    original, *extended = keys(comparison)
    found = [
        _table(scores, original, key, pair, alpha(comparison), beyond)
        for beyond in (False, True)
        for key, pair in zip(extended, comparison.pairs, strict=True)
    ]
    return [table for table in found if table.rows]


def _table(scores: ScoreTable, original: Key, extended: Key, pair: Pair, level: float, beyond: bool) -> DifferenceTable:
    of: dict[str, list[Difference]] = {"shard": [], "task": [], "length": [], "benchmark": []}
    for row in pair.differences:
        if (row.benchmark, row.beyond) == (scores.benchmark, beyond):
            of[row.level].append(row)
    shards = {(formats.task(row.benchmark, str(row.task)), row.length): row for row in of["shard"]}
    over_lengths = {formats.task(row.benchmark, str(row.task)): row for row in of["task"]}
    lengths = sorted({length for _, length in shards}, key=lambda length: length or 0)
    single, whole = lengths == [None], lengths != [None] and bool(over_lengths)
    means: list[Difference | None] = []
    if not single:
        by_length = {row.length: row for row in of["length"]}
        means += [by_length.get(length) for length in lengths]
    if single or whole:
        means.append(next(iter(of["benchmark"]), None))
    rows = []
    for name, category in ((row.name, row.category) for row in scores.rows):
        cells = [shards.get((name, length)) for length in lengths]
        if any(cells):
            rows.append(TableRow(name, category, cells + [over_lengths.get(name)] * whole))
    if single:
        rows.sort(key=lambda row: row.cells[0].difference if row.cells[0] else 0.0)
    changed = sum(cell is not None and significant(cell, level) for row in rows for cell in row.cells)
    return DifferenceTable(scores.benchmark, lengths, rows, original, extended, beyond, whole, means, changed)


@dataclass(frozen=True)
class GainTable:
    """What the longer window brought one extended model in one benchmark; ``total`` over all its data sets."""

    original: Key
    extended: Key
    total: Gain
    rows: Sequence[Gain]


def gain_tables(benchmark: str, comparison: Comparison) -> list[GainTable]:
    """One table for every extended model and pair of windows; none where no item was asked at two windows."""
    original, *extended = keys(comparison)
    found = []
    for key, pair in zip(extended, comparison.pairs, strict=True):
        mine = [row for row in pair.gains if row.benchmark == benchmark]
        for total in (row for row in mine if row.level == "benchmark"):
            windows = total.window, total.length
            rows = [row for row in mine if row.level == "task" and (row.window, row.length) == windows]
            found.append(GainTable(original, key, total, rows))
    return found


def effective(comparison: Comparison) -> list[tuple[Key, EffectiveLength]]:
    """The effective length of every side that has RULER at two lengths or more."""
    by_label = {found.label: found for found in comparison.effective_lengths}
    return [(key, by_label[key.label]) for key in keys(comparison) if key.label in by_label]


def shown_range(found: EffectiveLength) -> str:
    """What the samples show of an effective length, in words."""
    level = f"{formats.level(found.confidence)} confidence"
    if found.high is None:
        return f"{level}: none of these lengths"
    if found.low is None:
        return f"{level}: at most {formats.length(found.high)}; no length is shown to be effective"
    if found.low == found.high:
        return f"{level}: {formats.length(found.low)}"
    return f"{level}: {formats.length(found.low)} to {formats.length(found.high)}"


def changes(comparison: Comparison, gate: Gate | None) -> list[str]:
    """A sentence for every side; empty for the original and for the model whose verdict says it all."""
    original, *extended = keys(comparison)
    judged = gated(gate, comparison)
    return [""] + [
        "" if key == judged else sentence(pair, key, original, alpha(comparison))
        for key, pair in zip(extended, comparison.pairs, strict=True)
    ]


def sentence(pair: Pair, key: Key, original: Key, level: float) -> str:
    """What changed: each benchmark's own row, then how many shards differ beyond chance."""
    parts = [_said(row) for row in pair.differences if row.level == "benchmark" and not row.beyond]
    far = [_said(row) for row in pair.differences if row.level == "benchmark" and row.beyond]
    if not parts + far:
        return f"{key.label} and {original.label} have no samples in common."
    shards = [row for row in pair.differences if row.level == "shard" and row.p_holm is not None]
    changed = [row.difference for row in shards if significant(row, level)]
    down, up = sum(gap < 0 for gap in changed), sum(gap > 0 for gap in changed)
    text = f"Against {original.label}: {'; '.join(parts)}." if parts else ""
    text += f" Beyond the window of {original.label}: {'; '.join(far)}." if far else ""
    text += "".join(f" {_gained(row, key, original)}" for row in pair.gains if row.level == "benchmark")
    if len(shards) > 1:
        text += (
            f" Of {len(shards)} shards, {down or 'none'} {'is' if down == 1 else 'are'} significantly lower and "
            f"{up or 'none'} higher after Holm's correction."
        )
    return text.strip()


def _said(row: Difference) -> str:
    name, before, after = formats.title(row.benchmark), formats.score(row.original), formats.score(row.extended)
    if row.interval.low > 0:
        what = f"{name} rose from {before} to {after} ("
    elif row.interval.high < 0:
        what = f"{name} fell from {before} to {after} ("
    else:
        what = f"{name} shows no significant change ({before} → {after}, "
    kept = "" if row.retention is None else f", {formats.percent(row.retention)} retained"
    points = f"{formats.signed(row.difference)} points, {_interval(row)}"
    return f"{what}{points}{kept}, n = {formats.count(row.n)} pairs)"


def _interval(row: Difference) -> str:
    low, high = formats.signed(row.interval.low), formats.signed(row.interval.high)
    return f"{formats.level(row.interval.confidence)} interval {low} to {high}"


def _gained(row: Gain, key: Key, original: Key) -> str:
    """What a longer window is worth, in two sentences."""
    what = f"does not change significantly: {formats.signed(row.difference)}"
    if row.interval.low > 0 or row.interval.high < 0:
        what = f"{'gains' if row.interval.low > 0 else 'loses'} {formats.score(abs(row.difference))}"
    return (
        f"With {formats.length(row.length)} instead of {formats.length(row.window)} tokens of the same "
        f"{formats.title(row.benchmark)} questions, {key.label} {what} points ({formats.score(row.original)} → "
        f"{formats.score(row.extended)}, {_interval(row)}, n = {formats.count(row.n)} questions). "
        f"For {original.label}, {formats.count(row.cut)} of these questions were cut."
    )


def gated(gate: Gate | None, comparison: Comparison) -> Key | None:
    """The extended model the gate judged, as a side of the comparison."""
    if gate is None or gate.extended is None:
        return None
    judged = (gate.extended.digest, gate.extended.label)
    sides = zip(keys(comparison)[1:], comparison.pairs, strict=True)
    return next((key for key, pair in sides if (pair.extended.digest, key.label) == judged), None)
