"""Charts as inline SVG that follow the page: text stays text, colours are CSS variables, equal data gives equal bytes.

matplotlib writes plain colours only, so each role of a colour is drawn in one unlikely colour of its own that is
replaced by ``currentColor`` or ``var(--...)`` afterwards. Names of models, tasks and rules never reach matplotlib:
a stand-in does, and :func:`named` replaces it by the escaped name.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Sequence
from typing import Any

import matplotlib.style
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lr2eval.base.visible import short, visible
from lr2eval.reports import formats

COLOURS = 8
"""Number of series colours the style sheet has."""
WIDTH = 7.4
"""Inches of a chart."""

INK, MUTED, GRID = "#0a0b01", "#0a0b02", "#0a0b03"
"""Drawn colours that stand for the page's own: text, secondary text and lines."""
VERDICT_COLOURS = {"pass": "#0a0b11", "regression": "#0a0b12", "inconclusive": "#0a0b13", "not comparable": "#0a0b14"}
"""Drawn colours that stand for the page's colour of each verdict of the gate."""

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
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
    "legend.frameon": False,
    "xtick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
}


def colour(number: int) -> str:
    return f"#0a0c{number % COLOURS:02x}"


def series_styles() -> itertools.cycle[dict[str, Any]]:
    """Line styles of many series: every colour first, then every colour dashed. The first one is left for the best."""
    dashes: tuple[Any, ...] = ("solid", (0, (5, 1.5)), (0, (1.5, 1.5)))
    return itertools.cycle(
        {"color": colour(n), "linestyle": dash, "linewidth": 1.3} for dash in dashes for n in range(1, COLOURS)
    )


def style(identity: str) -> Any:
    """matplotlib's own defaults, whatever the user's matplotlibrc says, with what the page needs on top."""
    return matplotlib.style.context(["default", _STYLE | {"svg.hashsalt": identity}])


def blank(height: float, rows: int = 1) -> tuple[Figure, Any]:
    """A figure with its axes, of several rows an array of them."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots(rows, sharex=True)


def stand_in(number: int, limit: int) -> str:
    """What matplotlib draws for the name of this number: as wide as a name of ``limit`` letters."""
    return f"@{number}@".ljust(limit, "n")


def named(svg: Markup, names: Sequence[str], limit: int) -> Markup:
    """``svg`` with every :func:`stand_in` replaced by its name, cut to ``limit`` columns and escaped."""

    def name(match: re.Match[str]) -> str:
        text = " ".join(names[int(match[1])].split())
        return f">{escape(short(text, limit))}<"

    return Markup(re.sub(r">@(\d+)@n*<", name, svg))


def to_svg(figure: Figure, identity: str, title: str, description: str) -> Markup:
    buffer = io.StringIO()
    blank_metadata: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=blank_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(?<=\bid=")|(?<=url\(#)|(?<=href="#)', f"{identity}-", text)
    for drawn, shown in ((INK, "currentColor"), (MUTED, "var(--muted)"), (GRID, "var(--line)")):
        text = text.replace(drawn, shown)
    text = re.sub(r"#0a0c0(\d)", r"var(--s\1)", text)
    for word, drawn in VERDICT_COLOURS.items():
        text = text.replace(drawn, f"var(--{word.replace(' ', '-')})")
    box = re.search(r'viewBox="[^"]*"', text)
    head = (
        f'<svg {box[0] if box else ""} role="img" aria-labelledby="{identity}-title {identity}-desc">'
        f'<title id="{identity}-title">{escape(visible(title))}</title>'
        f'<desc id="{identity}-desc">{escape(visible(formats.clip(description, 2000)))}</desc>'
    )
    return Markup(re.sub(r"<svg[^>]*>", lambda _: head, text, count=1))  # our own SVG, names escaped
