"""Charts as inline SVG that follow the page: text stays text, colours are CSS variables, equal data gives equal bytes.

matplotlib writes plain colours only, so each role of a colour is drawn in one unlikely colour of its own that is
replaced by ``currentColor`` or ``var(--...)`` afterwards. Names of models and tasks never enter a figure: the page
writes them beside it, where they wrap and are escaped like all other text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lr2eval._stats import RULER_THRESHOLD
from lr2eval.reports import _text
from lr2eval.reports._compared import DEEPEST, Effective
from lr2eval.reports._load import Run
from lr2eval.reports._tables import Cell, ScoreTable, headlines

COLOURS = 6
"""Number of series colours the style sheet has."""

INK, MUTED, GRID, PAGE = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
"""Drawn colours that stand for the page's own: text, secondary text, lines and the background."""
VERDICT_COLOURS = {"pass": "#0a0b11", "regression": "#0a0b12", "inconclusive": "#0a0b13", "not comparable": "#0a0b14"}
"""Drawn colours that stand for the page's colour of each verdict of the gate."""
_MARKERS = "osDvpP"
_SIZE = (7.4, 3.3)
_BLANK: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))


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
        axes.set_xticks(lengths, [_text.length(length) for length in lengths])
        axes.set_xticks([], minor=True)
        axes.set_xlim(lengths[0] / 1.12, lengths[-1] * 1.12)
        axes.set_ylim(0, 103)
        axes.set_xlabel("tokens in the prompt and the answer")
        axes.set_ylabel("score")
        name = _text.title(table.benchmark)
        said = "; ".join(
            f"{run.label}: "
            + ", ".join(f"{_text.score(s.score)} at {_text.length(s.length)}" for s in headlines(run, table.benchmark))
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
        axes.text(window, 1.01, f"Lt {_text.length(window)}", color=MUTED, ha="center", va="bottom",
                  transform=axes.get_xaxis_transform())  # fmt: skip
    return bool(drawn)


def _effective(axes: Axes, effective: Sequence[Effective]) -> None:
    for place, one in enumerate(effective):
        if one.found.effective_length is not None:
            x = one.found.effective_length * 2 ** (0.09 * (place - (len(effective) - 1) / 2))
            axes.plot([x], [0], color=colour(one.key.number), marker="^", markersize=9, clip_on=False, zorder=4)


def colour(number: int) -> str:
    return f"#0a0c{number % COLOURS:02x}"


def shade(score: float) -> str:
    """The drawn colour of a heat map's cell: one hue, deeper with the score (0..100)."""
    return f"#0a0d{round(min(max(score, 0), 100)):02x}"


def _mixed(match: re.Match[str]) -> str:
    # A zero is a cell too, and on a hundred the number must stay readable, light and dark.
    return f"color-mix(in srgb, var(--cell) {round(8 + 0.82 * int(match[1], 16))}%, var(--page))"


def shade_difference(difference: float) -> str:
    """The drawn colour of a difference: one hue for gains, another for losses, deeper with its size up to a point."""
    depth = round(100 * min(abs(difference), DEEPEST) / DEEPEST)
    return f"#0a0{'e' if difference < 0 else 'f'}{depth:02x}"


def _diverging(match: re.Match[str]) -> str:
    hue = "--down" if match[1] == "e" else "--up"
    return f"color-mix(in srgb, var({hue}) {round(0.75 * int(match[2], 16))}%, var(--card))"


def style(identity: str) -> Any:
    """matplotlib's own defaults, whatever the user's matplotlibrc says, with what the page needs on top."""
    ours: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": identity,
        "text.parse_math": False,
        "font.size": 9.5,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": GRID,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "xtick.color": GRID,
        "xtick.labelcolor": INK,
        "ytick.color": GRID,
        "ytick.labelcolor": INK,
        "ytick.major.size": 0,
    }
    keep = ("backend", "backend_fallback", "interactive", "toolbar", "timezone", "webagg.address")
    defaults: Any = matplotlib.rcParamsDefault
    clean: Any = {key: value for key, value in defaults.items() if key not in keep} | ours
    return matplotlib.rc_context(clean)


def blank(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def to_svg(figure: Figure, identity: str, title: str, description: str) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=_BLANK)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(?<=\bid=")|(?<=url\(#)|(?<=href="#)', f"{identity}-", text)
    for drawn, shown in ((INK, "currentColor"), (MUTED, "var(--muted)"), (GRID, "var(--line)"), (PAGE, "var(--page)")):
        text = text.replace(drawn, shown)
    text = re.sub(r"#0a0c0(\d)", r"var(--s\1)", text)
    text = re.sub(r"#0a0d([0-9a-f]{2})", _mixed, text)
    text = re.sub(r"#0a0([ef])([0-9a-f]{2})", _diverging, text)
    for word, drawn in VERDICT_COLOURS.items():
        text = text.replace(drawn, f"var(--{word.replace(' ', '-')})")
    box = re.search(r'viewBox="[^"]*"', text)
    head = (
        f'<svg {box[0] if box else ""} role="img" aria-labelledby="{identity}-title {identity}-desc">'
        f'<title id="{identity}-title">{escape(_text.visible(title))}</title>'
        f'<desc id="{identity}-desc">{escape(_text.visible(description))}</desc>'
    )
    return Markup(re.sub(r"<svg[^>]*>", lambda _: head, text, count=1))  # our own SVG, names escaped
