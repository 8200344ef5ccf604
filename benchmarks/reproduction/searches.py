"""The searches that the study runs itself, on the samples that ``search_strategies.py`` used for the published one.

``paper-q`` and ``free-q`` are LongRoPE2's: from the theoretical split on, factors in ``[s, 2s]``; the left side is the
paper's, or its exponent is searched too. ``longrope`` is LongRoPE's first version: every pair in ``[1, 1.25 s]``, from
PI, NTK and YaRN, scored on every token. (That version also searched how many first tokens stay unscaled; no model here
has such a rule.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lr2eval.method.rope.rules import longrope, ntk, ntk_aware, pi, yarn
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.search.journal import Journal
from lr2eval.method.search.needles import Sample
from lr2eval.method.search.perplexity import ModelExecutor
from lr2eval.method.search.run import search
from lr2eval.method.search.space import Candidate, Space


@dataclass(frozen=True)
class FreeSpace(Space):
    """Every pair between 1 and ``reach s``, rising; ``starts`` are vectors of factors to begin with."""

    starts: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.split:
            raise ValueError("all pairs are searched: the split is 0")

    @property
    def low(self) -> int:
        return round(1 / self.grid)

    def scaling(self, candidate: Candidate) -> RopeScaling:
        factors = [round(step * self.grid, 9) for step in candidate.right]
        return longrope(self.rope, self.target, factors=factors, attention_factor=self.attention_factor)

    def seeds(self) -> list[Candidate]:
        return list(dict.fromkeys(Candidate(0, self._rising(start)) for start in self.starts))

    def _rising(self, factors: Sequence[float]) -> tuple[int, ...]:
        found: list[int] = []
        for pair, factor in enumerate(factors):
            step = min(max(round(factor / self.grid), self.low), self.high - (self.size - 1 - pair))
            found.append(max(step, found[-1] + 1) if found else step)
        return tuple(found)


def space(name: str, rope: OriginalRope, target: int, settings: Mapping[str, Any]) -> Space:
    """What a search looks through. Raises :class:`KeyError` for an unknown one."""
    if name == "longrope":
        starts = tuple(rule(rope, target).long_factor for rule in (pi, ntk_aware, ntk, yarn))
        return FreeSpace(rope, target, 0, reach=1.25, starts=starts)
    powers = {"paper-q": lambda: None, "free-q": lambda: tuple(settings["powers"])}[name]()
    return Space(rope, target, rope.d_tcd, powers=powers)


def run(
    name: str, model: Any, rope: OriginalRope, target: int, seed: int, samples: Sequence[Sample],
    settings: Mapping[str, Any], work: Path,
) -> dict[str, Any]:  # fmt: skip
    """The line of a search: its factors and what it took. Every evaluation is journalled in ``work``."""
    own = {key: settings[key] for key in ("population", "initial", "iterations", "parents", "mutations", "crossovers")}
    config = SearchConfig(model="m", target_length=target, **own, seed=seed, samples=len(samples), race=True)
    if name == "longrope":
        samples = [replace(sample, scored=tuple(range(1, len(sample.ids)))) for sample in samples]
    work.mkdir(parents=True, exist_ok=True)
    with Journal.open(work) as journal:
        (best,) = search([space(name, rope, target, settings)], config, ModelExecutor(model, samples), journal)
        return {
            "factors": list(best.scaling.long_factor),
            "temperature": best.scaling.long_attention_factor,
            "split": best.split,
            "power": best.power,
            "nll": best.best_nll,
            "evaluations": len(journal),
        }
