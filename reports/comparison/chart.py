"""The chart of scores by length, one line per model."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from lr2eval.record.comparison import EffectiveLength
from lr2eval.record.results import Summary
from lr2eval.reports import formats
from lr2eval.reports.figures import MUTED, blank, colour, style, to_svg
from lr2eval.reports.load import Key
from lr2eval.reports.run.tables import ScoreTable, headlines
from lr2eval.stats.scores import RULER_THRESHOLD

_MARKERS = "osDvpPX*"


def chart(table: ScoreTable, identity: str, effective: Sequence[tuple[Key, EffectiveLength]] = ()) -> Markup | None:
    """Score by length, or ``None`` for a table without lengths: its rows carry bars with intervals themselves.

    ``identity`` keeps the SVG ids of several charts on one page apart. ``effective`` lengths and their
    ranges are marked on the axis.
    """
    lengths, runs = [length for length in table.lengths if length], table.runs
    if len(lengths) < 2:
        return None
    with style(identity):
        figure, axes = blank(3.3)
        if len(runs) == 1:
            for row in table.rows:
                known = [(n, c.score) for n, c in zip(table.lengths, row.cells, strict=True) if n and c and c.n]
                axes.plot(*zip(*known, strict=True), color=MUTED, linewidth=0.7, alpha=0.45) if known else None
        means = [[s for s in headlines(run, table.benchmark) if s.length] for run in runs]
        for place, (run, summaries) in enumerate(zip(runs, means, strict=True)):
            _series(axes, run.number, place - (len(runs) - 1) / 2, summaries)
        for window in {run.results.model.original_window for run in runs}:
            if window is not None and lengths[0] <= window <= lengths[-1]:
                axes.axvline(window, color=MUTED, linewidth=0.9, linestyle="--")
                words, above = f"original window {formats.length(window)}", axes.get_xaxis_transform()
                axes.text(window, 1.01, words, color=MUTED, ha="center", va="bottom", transform=above)
        if table.benchmark == "ruler":
            for place, (key, found) in enumerate(effective):
                beside, ink = 2 ** (0.09 * (place - (len(effective) - 1) / 2)), colour(key.number)
                if found.effective_length is not None:
                    x = found.effective_length * beside
                    axes.plot([x], [0], color=ink, marker="^", markersize=9, clip_on=False, zorder=4)
                if found.high is not None:
                    ends = [(found.low or lengths[0] / 1.12) * beside, found.high * beside]
                    axes.plot(ends, [1 + 1.5 * place] * 2, color=ink, linewidth=3, alpha=0.5, solid_capstyle="butt")
            axes.axhline(RULER_THRESHOLD, color=MUTED, linewidth=0.9, linestyle=":")
            right = axes.get_yaxis_transform()
            axes.text(1.005, RULER_THRESHOLD, str(RULER_THRESHOLD), color=MUTED, va="center", transform=right)
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [formats.length(length) for length in lengths])
        axes.set_xticks([], minor=True)
        axes.set_xlim(lengths[0] / 1.12, lengths[-1] * 1.12)
        axes.set_ylim(0, 103)
        axes.set_xlabel("tokens in the prompt and the answer")
        axes.set_ylabel("score")
        said = "; ".join(
            f"{run.label}: " + ", ".join(f"{formats.score(s.score)} at {formats.length(s.length)}" for s in summaries)
            for run, summaries in zip(runs, means, strict=True)
        )
        return to_svg(figure, identity, f"{formats.title(table.benchmark)} score by length", said)


def _series(axes: Axes, number: int, place: float, summaries: Sequence[Summary]) -> None:
    xs = [(s.length or 0) * 2 ** (0.05 * place) for s in summaries]  # side by side where they would overlap
    low, high = [s.interval.low for s in summaries], [s.interval.high for s in summaries]
    marker = _MARKERS[number % len(_MARKERS)]
    axes.plot(xs, [s.score for s in summaries], color=colour(number), marker=marker, markersize=5.5, linewidth=1.9)
    axes.vlines(xs, low, high, color=colour(number), linewidth=1.3)
    axes.plot(xs + xs, low + high, "_", color=colour(number), markersize=7)
