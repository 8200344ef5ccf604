"""Forest plots: one row per check or benchmark, its estimate with interval, and the line it must not cross."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lr2eval.record.comparison import Check, Comparison, Difference, Gate, Verdict
from lr2eval.reports import figures, formats
from lr2eval.reports.comparison import tables
from lr2eval.reports.load import Key, keys

Kind = Literal["retention", "margin"]
_WIDTH, _ROW, _BELOW, _ABOVE = 7.4, 0.33, 0.6, 0.24
_LEFT, _RIGHT = 0.3, 0.71
"""Shares of the width at which the plot begins and ends; names stand left of it, numbers right."""
_WIDEST = {"retention": (0.0, 1.25), "margin": (-100.0, 100.0)}
_NAME = 28


@dataclass(frozen=True)
class Row:
    """Estimate and interval on the plot's own scale: a ratio, or points."""

    name: str
    n: int
    estimate: float
    low: float
    high: float | None
    limit: float | None = None
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Forest:
    """The plot of one extended model on one scale."""

    key: Key
    kind: Kind
    svg: Markup
    limits: bool
    window: int | None
    """The original's window, where rows by length are among the rows: only lengths within it are."""


def forests(comparison: Comparison | None, gate: Gate | None) -> list[Forest]:
    """Retention of every extended model; where the gate asked for margins in points, those on a scale of their own."""
    if comparison is None:
        return []
    judged = tables.gated(gate, comparison)
    window = comparison.original.model.window
    found = []
    for key, pair in zip(keys(comparison)[1:], comparison.pairs, strict=True):
        checks = gate.checks if gate is not None and key == judged else []
        named = {check.name for check in checks if check.kind == "retention"}
        kept = [row for check in checks if check.kind == "retention" and (row := _check(check))]
        short = [row for row in pair.differences if _short(row, pair.differences, window) and _name(row) not in named]
        context = [_row(row) for row in short if row.retention is not None and row.retention_interval is not None]
        by_length = any(row.level == "length" for row in short)
        margins = [row for check in checks if check.kind == "margin" and (row := _check(check))]
        for kind, rows in (("retention", kept + context), ("margin", margins)):
            if rows:
                identity = f"forest{key.number}-{kind}"
                svg = _draw(rows, kind, identity, key)  # type: ignore[arg-type]
                limits = any(row.limit is not None for row in rows)
                found.append(Forest(key, kind, svg, limits, window if by_length and kind == "retention" else None))  # type: ignore[arg-type]
    return found


def _short(row: Difference, rows: Sequence[Difference], window: int) -> bool:
    """What a short input is: within the original's window, or of a benchmark without lengths."""
    tasks = {r.task for r in rows if r.level == "shard" and r.benchmark == row.benchmark}
    lengths = {r.length for r in rows if r.level == "shard" and r.benchmark == row.benchmark} != {None}
    if row.level == "benchmark":
        return not lengths
    if row.level == "length":
        return row.length is not None and row.length <= window
    return row.level == "shard" and not lengths and 1 < len(tasks) <= tables.FEW_TASKS


def _name(row: Difference) -> str:
    """The name a check of this row would have."""
    name = row.benchmark if row.task is None else f"{row.benchmark}:{row.task}"
    return name if row.length is None else f"{name}@{formats.length(row.length)}"


def _check(check: Check) -> Row | None:
    full, _, length = check.name.partition("@")
    benchmark, _, task = full.partition(":")
    label = formats.title(benchmark) + (f" {formats.task(benchmark, task)}" if task else "")
    label += f" at {length}" if length else ""
    if check.kind == "margin":
        interval = check.interval
        return Row(label, check.n, check.difference, interval.low, interval.high, -abs(check.limit), check.verdict)
    if check.retention is None or check.retention_interval is None:
        return None
    ratio = check.retention_interval
    return Row(label, check.n, check.retention, ratio.low, ratio.high, check.limit, check.verdict)


def _row(row: Difference) -> Row:
    ratio = row.retention_interval
    assert row.retention is not None
    assert ratio is not None
    label = formats.title(row.benchmark)
    if row.task is not None:
        label += f" {formats.task(row.benchmark, row.task)}"
    if row.length is not None:
        label += f" at {formats.length(row.length)}"
    return Row(label, row.n, row.retention, ratio.low, ratio.high)


def _draw(rows: Sequence[Row], kind: Kind, identity: str, key: Key) -> Markup:
    height = _BELOW + _ROW * len(rows) + _ABOVE
    with figures.style(identity):
        figure = Figure(figsize=(_WIDTH, height))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((_LEFT, _BELOW / height, _RIGHT - _LEFT, _ROW * len(rows) / height))
        low, high = _limits(rows, kind)
        axes.set_xlim(low, high)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.axvline(1.0 if kind == "retention" else 0.0, color=figures.MUTED, linewidth=1.0)
        for place, row in enumerate(rows):
            _one(axes, place, row, kind, (low, high))
        limits = {row.limit for row in rows if row.limit is not None}
        if len(limits) == 1:
            (one,) = limits
            said = formats.percent(one) if kind == "retention" else formats.signed(one)
            axes.text(one, -0.62, said, ha="right", va="bottom")
        axes.set_yticks([])
        axes.grid(axis="y", visible=False)
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        labels = [f"{100 * t:g} %" if kind == "retention" else formats.signed(t) for t in ticks]
        axes.set_xticks(ticks, labels)
        axes.set_xlabel("retention: extended / original" if kind == "retention" else "difference in points")
        said = "; ".join(f"{row.name}: {_numbers(row, kind)}" for row in rows)
        what = "retention" if kind == "retention" else "difference"
        svg = figures.to_svg(figure, identity, f"Forest plot of {what}, {key.label}", said)
    # The drawn stand-ins of names become the names here, escaped like all text of the page.
    return Markup(re.sub(r">@(\d+)@<", lambda m: f">{_label(rows[int(m[1])])}<", svg))


def _label(row: Row) -> Markup:
    sign = "" if row.verdict is None else f"{tables.sign(row.verdict)} "
    return escape(sign + formats.visible(formats.wide_clip(" ".join(row.name.split()), _NAME)))


def _one(axes: Axes, place: int, row: Row, kind: Kind, span: tuple[float, float]) -> None:
    colour = figures.INK if row.verdict is None else figures.VERDICT_COLOURS[row.verdict]
    low, high = (min(max(end, span[0]), span[1]) for end in (row.low, span[1] if row.high is None else row.high))
    axes.hlines(place, low, high, color=colour, linewidth=1.8)
    for end, true in ((low, row.low), (high, row.high)):
        marker = "|" if end == true else "<" if end == span[0] else ">"  # an arrow where the interval goes on
        axes.plot([end], [place], color=colour, marker=marker, markersize=8 if marker == "|" else 6, clip_on=False)
    if span[0] <= row.estimate <= span[1]:
        axes.plot([row.estimate], [place], color=colour, marker="o", markersize=6.5)
    if row.limit is not None:
        axes.vlines(row.limit, place - 0.45, place + 0.45, color=figures.INK, linewidth=1.4, linestyles=(0, (3, 2)))
    beside = axes.get_yaxis_transform()
    axes.text(-0.03, place, f"@{place}@", ha="right", va="center", transform=beside)
    axes.text(1.03, place, _numbers(row, kind), ha="left", va="center", color=figures.MUTED, transform=beside)


def _numbers(row: Row, kind: Kind) -> str:
    if kind == "margin":
        return f"{formats.signed(row.estimate)} ({formats.signed(row.low)} to {formats.signed(row.high)})"
    high = "∞" if row.high is None else formats.score(100 * row.high)
    return f"{formats.percent(row.estimate)} ({formats.score(100 * row.low)}–{high})"


def _limits(rows: Sequence[Row], kind: Kind) -> tuple[float, float]:
    """Room for every interval and limit and for "no change", within what is worth drawing."""
    none = 1.0 if kind == "retention" else 0.0
    ends = [none, *(row.low for row in rows), *(row.estimate for row in rows)]
    ends += [row.high for row in rows if row.high is not None] + [row.limit for row in rows if row.limit is not None]
    least, most = _WIDEST[kind]
    low, high = max(min(ends), least), min(max(ends), most)
    room = max(high - low, 0.02 if kind == "retention" else 2.0)
    return low - 0.06 * room, high + 0.06 * room
