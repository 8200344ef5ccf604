"""The two plots that several pages share: estimates with intervals, and RoPE factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lr2eval.model.rope_facts import CLIPPED
from lr2eval.reports import figures

_NAME, _RULE_NAME = 28, 14
"""Columns that the name of an estimate, and that of a line of factors, may take."""


@dataclass(frozen=True)
class Estimate:
    """One row of a forest plot, on the plot's own scale. No ``mean``: the row has a name and words only."""

    name: str
    words: str
    mean: float | None
    low: float | None
    high: float | None
    colour: str = figures.INK
    limit: float | None = None
    """What the interval is compared with, drawn as a dashed line."""

    @property
    def ends(self) -> list[float]:
        return [end for end in (self.mean, self.low, self.high, self.limit) if end is not None]


def forest(
    rows: Sequence[Estimate],
    identity: str,
    title: str,
    *,
    unchanged: float,
    axis: str,
    tick: Callable[[float], str],
    widest: tuple[float, float] = (-math.inf, math.inf),
    symlog: float | None = None,
) -> Markup:
    """A forest plot: a row for each estimate, a line at ``unchanged``. What lies beyond ``widest`` is cut off.

    With ``symlog`` the axis is logarithmic beyond that distance from zero.
    """
    ends = [unchanged, *(end for row in rows for end in row.ends)]
    low, high = max(min(ends), widest[0]), min(max(ends), widest[1])
    room = 0.06 * (high - low) or 0.02
    with figures.style(identity):
        figure, axes = figures.blank(0.33 * len(rows) + 0.84)
        if symlog is not None:
            axes.set_xscale("symlog", linthresh=symlog)
            low, high = (end * 1.4 if abs(end) > symlog else end for end in (low, high))
        else:
            axes.locator_params(axis="x", nbins=6)
        axes.set_xlim(low - room, high + room)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.axvline(unchanged, color=figures.MUTED, linewidth=1.0)
        for place, row in enumerate(rows):
            if row.mean is not None:
                axes.plot([row.mean], [place], color=row.colour, marker="o", markersize=6.5)
            if row.low is not None:
                end = high + room if row.high is None else row.high
                axes.hlines(place, row.low, end, color=row.colour, linewidth=1.8)
                caps = [end for end in (row.low, row.high) if end is not None]
                axes.plot(caps, [place] * len(caps), "|", color=row.colour, markersize=8)
            if row.limit is not None:
                axes.vlines(row.limit, place - 0.45, place + 0.45, color=figures.INK, linewidth=1.4, linestyles="--")
        for limit in {row.limit for row in rows if row.limit is not None}:
            axes.text(limit, -0.62, tick(limit), ha="right", va="bottom")
        axes.set_yticks(range(len(rows)), [figures.stand_in(n, _NAME) for n in range(len(rows))])
        axes.secondary_yaxis("right").set_yticks(range(len(rows)), [row.words for row in rows], color=figures.MUTED)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_formatter(lambda value, _: tick(value))
        axes.set_xlabel(axis)
        svg = figures.to_svg(figure, identity, title, "; ".join(f"{row.name}: {row.words}" for row in rows))
    return figures.named(svg, [row.name for row in rows], _NAME)


@dataclass(frozen=True)
class FactorLine:
    """The RoPE factors of one rule or window, and how matplotlib draws them."""

    name: str
    factors: Sequence[float]
    style: Mapping[str, Any]


def factor_plot(
    lines: Sequence[FactorLine],
    identity: str,
    title: str,
    *,
    levels: Mapping[str, float],
    marks: Mapping[str, int | None],
    band: tuple[int, float, float] | None = None,
) -> Markup:
    """RoPE factors by rotary pair: level lines, marked pairs, and a ``band`` (first pair, lowest, highest factor).

    A pair without a position (:data:`CLIPPED`) is a triangle at the upper edge.
    """
    pairs = len(lines[0].factors)
    every = [1.0, *levels.values(), *(factor for line in lines for factor in line.factors if factor < CLIPPED)]
    at: dict[int, list[str]] = {}
    for name, index in marks.items():
        if index is not None and 0 <= index < pairs:
            at.setdefault(index, []).append(name)
    with figures.style(identity):
        figure, axes = figures.blank(max(3.4, 0.21 * (len(lines) + len(levels) + len(at)) + 0.6))
        axes.set_yscale("log", base=2)
        top = max(every) * 1.25
        axes.set_ylim(min(every) / 1.15, top)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlim(-0.5, pairs - 0.5)
        for number, line in enumerate(lines):
            shown = [factor if factor < CLIPPED else math.nan for factor in line.factors]
            axes.plot(range(pairs), shown, label=figures.stand_in(number, _RULE_NAME), **line.style)
            clipped = [pair for pair, factor in enumerate(line.factors) if factor >= CLIPPED]
            axes.plot(clipped, [top] * len(clipped), "^", color=line.style["color"], markersize=6, clip_on=False)
        if band is not None:
            axes.fill_between([band[0] - 0.5, pairs - 0.5], *band[1:], color=figures.GRID, alpha=0.8, linewidth=0)
        for (name, level), dash in zip(levels.items(), ("--", ":"), strict=False):
            axes.axhline(level, color=figures.MUTED, linewidth=1.0, linestyle=dash, label=f"{name} = {level:g}")
        for (index, names), dash in zip(sorted(at.items()), (":", "--", "-.", "-"), strict=False):
            label = f"{' = '.join(names)} = {index}"
            axes.axvline(index, color=figures.INK, linewidth=1.0, linestyle=dash, label=label)
        figure.legend(loc="outside right upper")
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("rotary pair (0 turns fastest)")
        axes.set_ylabel("factor")
        said = ", ".join(f"{factor:g}" if factor < CLIPPED else "no position" for factor in lines[-1].factors)
        svg = figures.to_svg(figure, identity, title, f"{lines[-1].name}: {said}")
    return figures.named(svg, [line.name for line in lines], _RULE_NAME)
