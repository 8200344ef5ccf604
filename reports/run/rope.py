"""RoPE factors of an evaluated model, with the lines that say whether they reach far enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lr2eval.record.results import ModelFacts
from lr2eval.reports import figures
from lr2eval.reports.load import Key
from lr2eval.reports.plots import FactorLine, factor_plot


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
            lines = [FactorLine("long", long, {"color": figures.colour(key.number), "marker": "o", "markersize": 3.2})]
            if len(short) == len(long):
                lines.insert(0, FactorLine("short", short, {"color": figures.MUTED, "linewidth": 1.2}))
            levels = {} if model.rope_scale is None else {"s": model.rope_scale}
            marks = {"d_rcd": model.d_rcd, "d_tcd": model.d_tcd}
            title = f"RoPE factors by rotary pair, {key.label}"
            svg = factor_plot(lines, f"rope{key.number}", title, levels=levels, marks=marks)
            found.append(Rope(key, model, len(long), svg))
    return found


def _factors(model: ModelFacts, name: str) -> list[float]:
    value = model.rope.get(name)
    whole = isinstance(value, list) and all(isinstance(f, int | float) and 0 < f < float("inf") for f in value)
    return [float(f) for f in value] if whole and isinstance(value, list) else []
