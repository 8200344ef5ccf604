"""RoPE factors by rotary pair, with the lines that say whether they reach far enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lr2eval.record.results import ModelFacts
from lr2eval.reports import figures, formats
from lr2eval.reports.load import Key

_SIZE = (7.4, 3.0)


@dataclass(frozen=True)
class Rope:
    """The figure of one longrope model."""

    key: Key
    model: ModelFacts
    pairs: int
    svg: Markup


def ropes(models: Sequence[tuple[Key, ModelFacts]]) -> list[Rope]:
    """One for every model whose stored RoPE parameters hold factors."""
    found = []
    for key, model in models:
        long, short = (_factors(model, name) for name in ("long_factor", "short_factor"))
        if model.rope_type == "longrope" and long:
            found.append(Rope(key, model, len(long), _draw(key, model, long, short, f"rope{key.number}")))
    return found


def _factors(model: ModelFacts, name: str) -> list[float]:
    value = model.rope.get(name)
    whole = isinstance(value, list) and all(isinstance(f, int | float) and 0 < f < float("inf") for f in value)
    return [float(f) for f in value] if whole and isinstance(value, list) else []


def _draw(key: Key, model: ModelFacts, long: list[float], short: list[float], identity: str) -> Markup:
    scale = model.rope_scale
    with figures.style(identity):
        figure, axes = figures.blank(_SIZE)
        if short:
            axes.plot(range(len(short)), short, color=figures.MUTED, linewidth=1.2, linestyle=(0, (1, 1.5)))
        colour = figures.colour(key.number)
        axes.plot(range(len(long)), long, color=colour, marker="o", markersize=3.2, linewidth=1.4)
        axes.set_yscale("log", base=2)
        highest = max([*long, *short, scale or 1.0])
        lowest = min([*long, *short, 1.0])
        axes.set_ylim(lowest / 1.15, highest * 1.25)
        ticks = [2.0**n for n in range(-6, 12) if lowest <= 2.0**n <= highest * 1.2]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_yticks([], minor=True)
        axes.set_xlim(-0.5, len(long) - 0.5)
        if scale is not None:
            axes.axhline(scale, color=figures.MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
            axes.text(1.005, scale, f"s = {scale:g}", color=figures.MUTED, va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
        lines = [("d_rcd", model.d_rcd, (1, 1)), ("d_tcd", model.d_tcd, (4, 3))]
        shown = sorted(((i, name, dash) for name, i, dash in lines if i is not None and i < len(long)))
        for place, (index, name, dash) in enumerate(shown):
            axes.axvline(index, color=figures.INK, linewidth=1.0, linestyle=(0, dash))
            side = "right" if place == 0 and len(shown) == 2 else "left"  # away from each other
            axes.text(index, 1.01, f"{name} {index}", ha=side, va="bottom", transform=axes.get_xaxis_transform())
        axes.set_xlabel("rotary pair (0 turns fastest)")
        axes.set_ylabel("factor")
        said = ", ".join(f"{factor:g}" for factor in long)
        name = f"RoPE factors by rotary pair, {key.label}"
        return figures.to_svg(figure, identity, name, f"long factors: {formats.clip(said, 2000)}")
