"""What was kept: one row per check or benchmark, its estimate with interval, and the limit of the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from lr2eval.record.comparison import SIGNS, Check, Comparison, Difference, Gate
from lr2eval.reports import figures, formats
from lr2eval.reports.comparison import tables
from lr2eval.reports.load import Key, keys
from lr2eval.reports.plots import Estimate, forest


@dataclass(frozen=True)
class Forest:
    """The plot of one extended model on one scale."""

    key: Key
    kind: Literal["retention", "margin"]
    svg: Markup
    limits: bool
    window: int | None
    """The original's window, where rows by length are among the rows: only lengths within it are."""


def forests(comparison: Comparison, gate: Gate | None) -> list[Forest]:
    """Retention of every extended model; where the gate asked for margins in points, those on a scale of their own."""
    judged = tables.gated(gate, comparison)
    window = comparison.original.model.window
    found = []
    for key, pair in zip(keys(comparison)[1:], comparison.pairs, strict=True):
        checks = gate.checks if gate is not None and key == judged else []
        checked = [check for check in checks if check.kind == "retention"]
        named = {check.name for check in checked}
        short = [row for row in pair.differences if _short(row, pair.differences, window) and row.name not in named]
        both: list[Check | Difference] = [*checked, *short]
        rows = [estimate for row in both if (estimate := _retention(row))]
        if rows:
            svg = forest(
                rows,
                f"forest{key.number}-retention",
                f"Retention of {key.label}",
                unchanged=1.0,
                axis="retention: extended / original",
                tick=lambda share: f"{round(100 * share, 6):g}\u00a0%",
                widest=(0.0, 1.25),
            )
            by_length = any(row.level == "length" for row in short)
            found.append(Forest(key, "retention", svg, bool(checked), window if by_length else None))
        if margins := [_margin(check) for check in checks if check.kind == "margin"]:
            svg = forest(
                margins,
                f"forest{key.number}-margin",
                f"Difference of {key.label}",
                unchanged=0.0,
                axis="difference in points",
                tick=formats.signed,
                widest=(-100.0, 100.0),
            )
            found.append(Forest(key, "margin", svg, True, None))
    return found


def _short(row: Difference, rows: Sequence[Difference], window: int) -> bool:
    """What a short input is: within the original's window, or of a benchmark without lengths."""
    shards = [r for r in rows if r.level == "shard" and r.benchmark == row.benchmark]
    if row.level == "length":
        return row.length is not None and row.length <= window
    if any(shard.length is not None for shard in shards):
        return False
    few = 1 < len({shard.task for shard in shards}) <= tables.FEW_TASKS
    return row.level == "benchmark" or (row.level == "shard" and few)


def _label(row: Check | Difference) -> str:
    """The name of a check or row in plain words, after the sign of its verdict."""
    full, _, length = row.name.partition("@")
    benchmark, _, task = full.partition(":")
    label = formats.title(benchmark) + (f" {formats.task(benchmark, task)}" if task else "")
    label += f" at {length}" if length else ""
    return f"{SIGNS[row.verdict]} {label}" if isinstance(row, Check) else label


def _retention(row: Check | Difference) -> Estimate | None:
    """``None`` where the original scores 0, so that there is nothing to retain."""
    ratio = row.retention_interval
    if row.retention is None or ratio is None:
        return None
    high = "∞" if ratio.high is None else formats.score(100 * ratio.high)
    words = f"{formats.percent(row.retention)} ({formats.score(100 * ratio.low)}–{high})"
    judged = (figures.VERDICT_COLOURS[row.verdict], row.limit) if isinstance(row, Check) else ()
    return Estimate(_label(row), words, row.retention, ratio.low, ratio.high, *judged)


def _margin(check: Check) -> Estimate:
    low, high = check.interval.low, check.interval.high
    words = f"{formats.signed(check.difference)} ({formats.signed(low)} to {formats.signed(high)})"
    colour = figures.VERDICT_COLOURS[check.verdict]
    return Estimate(_label(check), words, check.difference, low, high, colour, -abs(check.limit))
