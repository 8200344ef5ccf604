"""Charts as inline SVG that follow the page: text stays text, colours are CSS variables, equal data gives equal bytes.

matplotlib writes plain colours only, so each role of a colour is drawn in one unlikely colour of its own that is
replaced by ``currentColor`` or ``var(--...)`` afterwards. Names of models and tasks never enter a figure: the page
writes them beside it, where they wrap and are escaped like all other text.
"""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from lr2eval.reports import formats

DEEPEST = 25.0
"""Points of difference beyond which the shading stays the same."""
COLOURS = 6
"""Number of series colours the style sheet has."""

INK, MUTED, GRID, PAGE = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
"""Drawn colours that stand for the page's own: text, secondary text, lines and the background."""
VERDICT_COLOURS = {"pass": "#0a0b11", "regression": "#0a0b12", "inconclusive": "#0a0b13", "not comparable": "#0a0b14"}
"""Drawn colours that stand for the page's colour of each verdict of the gate."""


_BLANK: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))


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
        f'<title id="{identity}-title">{escape(formats.visible(title))}</title>'
        f'<desc id="{identity}-desc">{escape(formats.visible(description))}</desc>'
    )
    return Markup(re.sub(r"<svg[^>]*>", lambda _: head, text, count=1))  # our own SVG, names escaped
