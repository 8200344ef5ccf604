"""A stored comparison into the rows and sentences of the report. Arranges and words; every number is a stored one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lr2eval.record.comparison import Comparison, Difference, EffectiveLength, Gain, Gate, Pair, Verdict
from lr2eval.reports import formats
from lr2eval.reports.load import Key, Run, keys
from lr2eval.reports.run.tables import ScoreTable

FEW_TASKS = 12

_SIGNS: dict[Verdict, str] = {"pass": "✓", "regression": "✗", "inconclusive": "?", "not comparable": "≠"}


def sign(verdict: Verdict) -> str:
    """The sign that goes with the word, for eyes that do not tell the colours apart."""
    return _SIGNS[verdict]


def significant(row: Difference, alpha: float) -> bool:
    """Whether the models differ here, adjusted for the many places one looks at."""
    return row.p_holm is not None and row.p_holm < alpha


def alpha(comparison: Comparison) -> float:
    """The level that goes with the confidence of the comparison."""
    return round(1 - comparison.confidence, 10)


@dataclass(frozen=True)
class DifferenceRow:
    """One task; ``cells`` follow the table's columns."""

    name: str
    category: str
    cells: tuple[Difference | None, ...]


@dataclass(frozen=True)
class DifferenceTable:
    """Extended minus original in one benchmark, task by length like the score table beside it."""

    benchmark: str
    original: Key
    extended: Key
    lengths: tuple[int | None, ...]
    whole: bool
    """Whether a last column holds each task over all its lengths."""
    rows: tuple[DifferenceRow, ...]
    means: tuple[Difference | None, ...]
    alpha: float

    @property
    def grid(self) -> bool:
        return self.lengths != (None,)

    @property
    def categories(self) -> bool:
        return any(row.category for row in self.rows)

    @property
    def changed(self) -> int:
        """Cells marked as significant."""
        return sum(
            significant(cell, self.alpha) for row in self.rows for cell in row.cells[: len(self.lengths)] if cell
        )

    @property
    def noisy(self) -> bool:
        """Whether repeats of the original say how much a number moves by itself."""
        return any(cell.noise is not None for row in self.rows for cell in row.cells if cell)


@dataclass(frozen=True)
class Effective:
    """The effective length of one model, and how sure it is, in words."""

    key: Key
    found: EffectiveLength
    words: str


def difference_tables(scores: ScoreTable, comparison: Comparison | None) -> list[DifferenceTable]:
    """One table beside ``scores`` for every extended model that has the benchmark, its tasks in the same order."""
    if comparison is None:
        return []
    original, *extended = keys(comparison)
    found = [
        _table(scores, original, key, [row for row in pair.differences if row.benchmark == scores.benchmark], level)
        for level in (alpha(comparison),)
        for key, pair in zip(extended, comparison.pairs, strict=True)
    ]
    return [table for table in found if table.rows]


def _table(
    scores: ScoreTable, original: Key, extended: Key, rows: Sequence[Difference], level: float
) -> DifferenceTable:
    shards = {(formats.task(row.benchmark, str(row.task)), row.length): row for row in rows if row.level == "shard"}
    over_lengths = {formats.task(row.benchmark, str(row.task)): row for row in rows if row.level == "task"}
    lengths = tuple(sorted({length for _, length in shards}, key=lambda length: length or 0))
    whole = lengths != (None,) and bool(over_lengths)
    means = {row.length: row for row in rows if row.level == "length"}
    mean = next((row for row in rows if row.level == "benchmark"), None)
    names = {name for name, _ in shards}
    found = [
        DifferenceRow(
            name=row.name,
            category=row.category,
            cells=tuple(shards.get((row.name, length)) for length in lengths)
            + ((over_lengths.get(row.name),) if whole else ()),
        )
        for row in scores.rows
        if row.name in names
    ]
    if lengths == (None,):
        found.sort(key=lambda row: row.cells[0].difference if row.cells[0] else 0.0)
    return DifferenceTable(
        benchmark=scores.benchmark,
        original=original,
        extended=extended,
        lengths=lengths,
        whole=whole,
        rows=tuple(found),
        means=tuple(means.get(length) for length in lengths if length is not None)
        + ((mean,) if whole or lengths == (None,) else ()),
        alpha=level,
    )


@dataclass(frozen=True)
class GainTable:
    """What the longer window brought one extended model in one benchmark; ``total`` over all its data sets."""

    original: Key
    extended: Key
    total: Gain
    rows: tuple[Gain, ...]
    alpha: float


def gain_tables(benchmark: str, comparison: Comparison | None) -> list[GainTable]:
    """One table for every extended model and pair of windows; none where no item was asked at two windows."""
    if comparison is None:
        return []
    original, *extended = keys(comparison)
    found = []
    for key, pair in zip(extended, comparison.pairs, strict=True):
        for total in (row for row in pair.gains if row.level == "benchmark" and row.benchmark == benchmark):
            same = [row for row in pair.gains if row.level == "task" and row.benchmark == benchmark]
            rows = tuple(row for row in same if (row.window, row.length) == (total.window, total.length))
            found.append(GainTable(original, key, total, rows, alpha(comparison)))
    return found


def effective(comparison: Comparison | None) -> list[Effective]:
    """In the order of the sides; a side without RULER at two lengths has none."""
    if comparison is None:
        return []
    by_label = {found.label: found for found in comparison.effective_lengths}
    return [
        Effective(key, by_label[key.label], _shares(by_label[key.label]))
        for key in keys(comparison)
        if key.label in by_label
    ]


def _shares(found: EffectiveLength) -> str:
    shares = sorted(found.shares, key=lambda pair: -pair[1])
    return ", ".join(
        f"{'none' if length is None else formats.length(length)} "
        f"({formats.share(share)}{' of resamples' * (not place)})"
        for place, (length, share) in enumerate(shares)
        if share > 0
    )


def changes(comparison: Comparison | None, gate: Gate | None) -> list[str]:
    """A sentence for every side; empty for the original and for the model whose verdict says it all."""
    if comparison is None:
        return []
    original, *extended = keys(comparison)
    judged = gated(gate, comparison)
    return [""] + [
        "" if key == judged else sentence(pair, key, original, alpha(comparison))
        for key, pair in zip(extended, comparison.pairs, strict=True)
    ]


def sentence(pair: Pair, key: Key, original: Key, level: float) -> str:
    """What changed, in one plain sentence: each benchmark's own row, then how many shards differ beyond chance."""
    parts = [_said(row) for row in pair.differences if row.level == "benchmark"]
    if not parts:
        return f"{key.label} and {original.label} have no samples in common."
    shards = [row for row in pair.differences if row.level == "shard" and row.p_holm is not None]
    down = sum(significant(row, level) and row.difference < 0 for row in shards)
    up = sum(significant(row, level) and row.difference > 0 for row in shards)
    text = f"Against {original.label}: " + "; ".join(parts) + "."
    text += "".join(f" {_gained(row, key, original)}" for row in pair.gains if row.level == "benchmark")
    if len(shards) > 1:
        text += (
            f" Of {len(shards)} shards {down or 'none'} {'is' if down == 1 else 'are'} significantly lower and "
            f"{up or 'none'} higher after Holm's adjustment."
        )
    return text


def _said(row: Difference) -> str:
    name, before, after = formats.title(row.benchmark), formats.score(row.original), formats.score(row.extended)
    if row.interval.low > 0:
        what = f"{name} rose from {before} to {after} ("
    elif row.interval.high < 0:
        what = f"{name} fell from {before} to {after} ("
    else:
        what = f"{name} shows no difference ({before} → {after}, "
    low, high = formats.signed(row.interval.low), formats.signed(row.interval.high)
    kept = "" if row.retention is None else f", {formats.percent(row.retention)} retained"
    return (
        f"{what}{formats.signed(row.difference)} points, {formats.level(row.interval.confidence)} interval "
        f"{low} to {high}{kept}, n = {formats.count(row.n)} pairs)"
    )


def _gained(row: Gain, key: Key, original: Key) -> str:
    """What a longer window is worth, in one sentence."""
    low, high = formats.signed(row.interval.low), formats.signed(row.interval.high)
    shown = "gains" if row.interval.low > 0 else "loses" if row.interval.high < 0 else "is not shown to gain:"
    return (
        f"With {formats.length(row.length or 0)} instead of {formats.length(row.window)} tokens of the same "
        f"{formats.title(row.benchmark)} questions, {key.label} {shown} {formats.signed(row.difference)} points "
        f"({formats.score(row.original)} → {formats.score(row.extended)}, "
        f"{formats.level(row.interval.confidence)} interval {low} to {high}, "
        f"n = {formats.count(row.n)} questions, of which {formats.count(row.cut)} were cut for {original.label})."
    )


def gated(gate: Gate | None, comparison: Comparison | None) -> Key | None:
    """The extended model the gate judged, as a side of the comparison."""
    if gate is None or gate.extended is None or comparison is None:
        return None
    digest, label = gate.extended.digest, gate.extended.label
    sides = zip(keys(comparison)[1:], comparison.pairs, strict=True)
    matching = [key for key, pair in sides if pair.extended.digest == digest]
    return next((key for key in matching if key.label == label), matching[0] if matching else None)


def known_original(runs: Sequence[Run]) -> bool:
    """Whether the first of several runs is the original, so that answers can be set side by side."""
    return len(runs) > 1 and runs[0].number == 0
