"""The chart of scores by length, one line per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes

from lr2eval.reports import formats
from lr2eval.reports.comparison.tables import Effective
from lr2eval.reports.figures import MUTED, blank, colour, style, to_svg
from lr2eval.reports.load import Run
from lr2eval.reports.run.tables import Cell, ScoreTable, headlines
from lr2eval.stats.scores import RULER_THRESHOLD

_MARKERS = "osDvpP"
_SIZE = (7.4, 3.3)


@dataclass(frozen=True)
class Chart:
    """An inline SVG and the words around it."""

    svg: Markup
    caption: str


def chart(table: ScoreTable, runs: Sequence[Run], identity: str, effective: Sequence[Effective] = ()) -> Chart | None:
    """Score by length, or ``None`` for a table without lengths: its rows carry bars with intervals themselves.

    ``identity`` keeps the SVG ids of several charts on one page apart. ``effective`` lengths are marked on the axis.
    """
    lengths = [length for length in table.lengths if length]
    if len(lengths) < 2:
        return None
    with style(identity):
        figure, axes = blank(_SIZE)
        if len(runs) == 1:
            for row in table.rows:
                known = [(n, c.score) for n, c in zip(table.lengths, row.cells, strict=True) if n and c and c.n]
                axes.plot(*zip(*known, strict=True), color=MUTED, linewidth=0.7, alpha=0.45) if known else None
        for number, run in enumerate(runs):
            means = [s for s in headlines(run, table.benchmark) if s.length]
            if means:
                xs = [float(s.length or 0) for s in means]
                _series(
                    axes, run.number, number - (len(runs) - 1) / 2, xs, [Cell(s.score, s.interval, s.n) for s in means]
                )
        drawn = _windows(axes, runs, lengths)
        if table.benchmark == "ruler":
            _effective(axes, effective)
            axes.axhline(RULER_THRESHOLD, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
            axes.text(
                1.005,
                RULER_THRESHOLD,
                str(RULER_THRESHOLD),
                color=MUTED,
                va="center",
                transform=axes.get_yaxis_transform(),
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [formats.length(length) for length in lengths])
        axes.set_xticks([], minor=True)
        axes.set_xlim(lengths[0] / 1.12, lengths[-1] * 1.12)
        axes.set_ylim(0, 103)
        axes.set_xlabel("tokens in the prompt and the answer")
        axes.set_ylabel("score")
        name = formats.title(table.benchmark)
        said = "; ".join(
            f"{run.label}: "
            + ", ".join(
                f"{formats.score(s.score)} at {formats.length(s.length)}" for s in headlines(run, table.benchmark)
            )
            for run in runs
        )
        svg = to_svg(figure, identity, f"{name} score by length", said)
    caption = f"{name} mean by length. Bars: intervals of the mean."
    if len(runs) == 1:
        caption += " Thin lines: the single tasks."
    if table.benchmark == "ruler":
        caption += f" Dotted line: {RULER_THRESHOLD}, above which RULER calls a length effective."
    if table.benchmark == "ruler" and any(one.found.effective_length for one in effective):
        caption += " Triangles on the axis: effective length."
    if drawn:
        caption += " Dashed line: the original window Lt."
    return Chart(svg, caption)


def _series(axes: Axes, number: int, place: float, xs: Sequence[float], cells: Sequence[Cell]) -> None:
    colour_, marker = colour(number), _MARKERS[number % len(_MARKERS)]
    spread = [x * 2 ** (0.05 * place) for x in xs]  # side by side where they would overlap
    axes.plot(spread, [c.score or 0.0 for c in cells], color=colour_, marker=marker, markersize=5.5, linewidth=1.9)
    for x, cell in zip(spread, cells, strict=True):
        if cell.interval is not None:
            low, high = cell.interval.low, cell.interval.high
            axes.vlines(x, low, high, color=colour_, linewidth=1.3)
            axes.plot([x, x], [low, high], color=colour_, marker="_", markersize=7, linestyle="none")


def _windows(axes: Axes, runs: Sequence[Run], lengths: Sequence[int]) -> bool:
    """Mark the original windows that lie within the figure; whether there are any."""
    found = {run.results.model.original_window for run in runs}
    drawn = sorted(window for window in found if window is not None and lengths[0] <= window <= lengths[-1])
    for window in drawn:
        axes.axvline(window, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.text(window, 1.01, f"Lt {formats.length(window)}", color=MUTED, ha="center", va="bottom",
                  transform=axes.get_xaxis_transform())  # fmt: skip
    return bool(drawn)


def _effective(axes: Axes, effective: Sequence[Effective]) -> None:
    for place, one in enumerate(effective):
        if one.found.effective_length is not None:
            x = one.found.effective_length * 2 ** (0.09 * (place - (len(effective) - 1) / 2))
            axes.plot([x], [0], color=colour(one.key.number), marker="^", markersize=9, clip_on=False, zorder=4)
