"""Labels of figures that do not overlap, and names that enter a figure as stand-ins only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D, Transform

from lr2eval.reports import figures, formats

LINE, LETTER = 0.17, 0.078
"""Inches between two lines of text, and about the width of a letter."""


@dataclass(frozen=True)
class Label:
    """Words beside the right edge of a plot, at a height in inches above its lower edge."""

    text: str
    at: float
    colour: str
    dash: tuple[float, tuple[float, ...] | None] = (0, None)


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places at least ``gap`` from each other and as near to the wanted ones as that allows, in the same order.

    Within ``low`` and ``high`` while there is room; closer together than ``gap`` where there is not.
    """
    if len(wanted) > 1:
        gap = min(gap, (high - low) / (len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda n: wanted[n])
    # Neighbours that are too near become a block around the mean of what they want (pool adjacent violators).
    blocks: list[list[int]] = []
    starts: list[float] = []
    for place in order:
        block = [place]
        start = _start(block, wanted, gap, low, high)
        while blocks and start < starts[-1] + gap * len(blocks[-1]) - 1e-9:
            block = [*blocks.pop(), *block]
            starts.pop()
            start = _start(block, wanted, gap, low, high)
        blocks.append(block)
        starts.append(start)
    found = [0.0] * len(wanted)
    for block, start in zip(blocks, starts, strict=True):
        for step, place in enumerate(block):
            found[place] = start + gap * step
    return found


def _start(block: Sequence[int], wanted: Sequence[float], gap: float, low: float, high: float) -> float:
    middle = sum(wanted[place] - gap * step for step, place in enumerate(block)) / len(block)
    return max(low, min(middle, high - gap * (len(block) - 1)))


def stacked(labels: Sequence[tuple[float, str]], high: float) -> list[tuple[float, int]]:
    """For words that begin at ascending places above a plot: where they begin, and a row, 0 lowest.

    Inches. Words to the left stand higher, so that neither words nor the lines up to them cross; ``high`` is where
    the longest must end, and what would go beyond it begins further left.
    """
    found: list[tuple[float, int]] = []
    for place, (at, text) in reversed([*enumerate(labels)]):
        width = LETTER * (len(text) + 1)
        begin = max(0.0, min(at, high - width))
        later = zip(labels[place + 1 :], reversed(found), strict=True)
        rows = [row for (other, _), (start, row) in later if min(other, start) < begin + width]
        found.append((begin, max(rows, default=-1) + 1))
    return found[::-1]


def figure_of(axes: Axes) -> Figure:
    """The figure of a plot."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    return figure


def inches(axes: Axes) -> Transform:
    """From inches right of and above the lower left corner of the plot to where they are drawn."""
    figure = figure_of(axes)
    box = axes.get_position()
    width, height = figure.get_size_inches()
    return Affine2D().translate(box.x0 * width, box.y0 * height) + figure.dpi_scale_trans


def size(axes: Axes) -> tuple[float, float]:
    """Width and height of the plot, inches."""
    box = axes.get_position()
    width, height = figure_of(axes).get_size_inches()
    return float(box.width * width), float(box.height * height)


def beside(axes: Axes, labels: Sequence[Label]) -> None:
    """Write labels right of the plot, each with a thin line to the height it belongs to."""
    width, height = size(axes)
    to = inches(axes)
    places = apart([label.at for label in labels], LINE, 0.0, height)
    for label, place in zip(labels, places, strict=True):
        axes.plot(
            [width + 0.03, width + 0.07, width + 0.32, width + 0.45], [label.at, label.at, place, place],
            color=label.colour, linewidth=0.9, linestyle=label.dash, clip_on=False, transform=to,
            scalex=False, scaley=False,
        )  # fmt: skip
        axes.text(width + 0.49, place, label.text, color=label.colour, va="center", transform=to)


def height_of(axes: Axes, value: float) -> float:
    """How many inches above the lower edge a value stands."""
    share = axes.transLimits.transform(axes.transScale.transform((1.0, value)))[1]
    return float(share) * size(axes)[1]


def named(svg: Markup, names: Sequence[str], limit: int) -> Markup:
    """``svg`` with its stand-ins ``@0@``, ``@1@`` ... replaced by names, cut to ``limit`` columns and escaped."""

    def name(match: re.Match[str]) -> str:
        text = " ".join(names[int(match[1])].split())
        return f">{escape(formats.visible(formats.wide_clip(text, limit)))}<"

    return Markup(re.sub(r">@(\d+)@<", name, svg))


def axes_of(figure_size: tuple[float, float], left: float, right: float, below: float, above: float) -> Axes:
    """A plot with fixed margins, in inches, so that labels know where they stand."""
    figure, axes = figures.blank(figure_size)
    figure.set_layout_engine("none")
    width, height = figure_size
    axes.set_position((left / width, below / height, 1 - (left + right) / width, 1 - (below + above) / height))
    return axes
