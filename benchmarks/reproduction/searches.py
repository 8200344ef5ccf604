"""The searches of the study: one size and one set of texts for all, so that they differ in what they are called after.

``needles``, ``left-q``, ``left-2`` and ``splits`` are LongRoPE2's (from the split on, factors in ``[s, 2s]``), ``all``
lets every pair move in ``[1, 2s]`` from the same starts, ``plain`` scores every token of the texts instead of the
answers. ``longrope`` is LongRoPE's first version: every pair in ``[1, 1.25 s]``, from PI, NTK and YaRN, scored on every
token. (That version also searched how many first tokens stay unscaled; no model here has such a rule.)
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

SEARCHES = ("longrope", "needles", "plain", "all", "splits", "left-q", "left-2")
PLAIN = ("longrope", "plain")


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


@dataclass(frozen=True)
class SquaredSpace(Space):
    """The left side is ``S^((i/split)^2)`` throughout: children keep their parent's power."""

    def seeds(self) -> list[Candidate]:
        return [replace(seed, power=200) for seed in super().seeds()]


def spaces(
    name: str, rope: OriginalRope, target: int, settings: Mapping[str, Any], splits: Sequence[int]
) -> list[Space]:
    """What a search looks through; several for ``splits``."""
    theory = Space(rope, target, rope.d_tcd)
    if name == "longrope":
        rules = (pi, ntk_aware, ntk, yarn)
        starts = tuple(rule(rope, target).long_factor for rule in rules)
        return [FreeSpace(rope, target, 0, reach=1.25, starts=starts)]
    if name == "all":
        return [FreeSpace(rope, target, 0, starts=tuple(theory.scaling(seed).long_factor for seed in theory.seeds()))]
    if name == "left-q":
        return [replace(theory, powers=tuple(settings["powers"]))]
    if name == "left-2":
        return [SquaredSpace(rope, target, rope.d_tcd)]
    return [Space(rope, target, split) for split in splits] if name == "splits" else [theory]


def run(
    name: str, model: Any, rope: OriginalRope, target: int, seed: int, samples: Sequence[Sample],
    settings: Mapping[str, Any], splits: Sequence[int], work: Path,
) -> dict[str, Any]:  # fmt: skip
    """The line of a search: its factors and what it took. Every evaluation is journalled in ``work``."""
    own = {key: settings[key] for key in ("population", "initial", "iterations", "parents", "mutations", "crossovers")}
    config = SearchConfig(
        model="m", target_length=target, **own, seed=seed, samples=len(samples), race=True, race_rungs=settings["rungs"]
    )
    if name in PLAIN:
        samples = [replace(sample, scored=tuple(range(1, len(sample.ids)))) for sample in samples]
    work.mkdir(parents=True, exist_ok=True)
    with Journal.open(work) as journal:
        done = search(spaces(name, rope, target, settings, splits), config, ModelExecutor(model, samples), journal)
        best = min(done, key=lambda each: each.best_nll)
        scale = target / rope.window
        return {
            "factors": best.scaling.to_json(),
            "split": best.split,
            "power": best.power,
            "d_rcd": next((i for i, factor in enumerate(best.scaling.long_factor) if factor >= scale), None),
            "nll": best.best_nll,
            "nll_by_split": {str(each.split): each.best_nll for each in done},
            "evaluations": len(journal),
        }
