"""The LongRoPE2 search as a pure ask/tell core: it proposes candidates and is told their scores, and knows no model.

Algorithm and settings: arXiv 2502.20082, algorithms 1 and 2 and appendix B; what these leave open is taken from the
published code. Everything random comes from one seeded generator, so the same scores give the same search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np

from lr2eval.errors import BackendError
from lr2eval.method.search.space import Candidate, Space, cross, draw, mutate, shift

Stop = Literal["iterations", "patience", "exhausted"]
"""Why a search at one split ends: all iterations done, no gain for ``patience`` of them, no unseen candidate left."""


@dataclass(frozen=True)
class SearchSettings:
    """Published values as defaults; numbers of candidates unless said otherwise."""

    population: int = 64
    """Kept after an iteration; must hold the parents."""
    initial: int = 128
    """Of the first round, before any iteration."""
    iterations: int = 40
    parents: int = 32
    mutations: int = 16
    crossovers: int = 16
    rate: float = 0.3
    """Probability that a factor is changed, in a mutation and in a crossover."""
    shifts: float = 0.0
    """Share of the mutations that raise or lower all factors from a pair on together; the paper has none."""
    crossover_tries: int = 20
    patience: int | None = None
    """Stop a split after so many iterations in which the best score did not fall by ``least_gain``; ``None``: never."""
    least_gain: float = 0.001
    """Share of the best score."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"population": 1, "initial": 1, "parents": 1, "iterations": 0, "mutations": 0, "crossovers": 0}
        for name, bound in {**least, "crossover_tries": 1}.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}; give {bound} or more")
        if self.parents > self.population:
            raise ValueError(f"{self.parents} parents out of a population of {self.population}")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate is {self.rate:g}, no probability above 0")
        if not 0 <= self.shifts <= 1:
            raise ValueError(f"shifts is {self.shifts:g}, no share")
        if self.iterations and not self.mutations + self.crossovers:
            raise ValueError("an iteration without mutations and crossovers makes no candidates")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}; give 1 or more iterations")

    @property
    def children(self) -> int:
        """New candidates of an iteration."""
        return self.mutations + self.crossovers

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a manifest."""
        return asdict(self)


@dataclass(frozen=True)
class Scored:
    """A candidate and its score (lower is better)."""

    candidate: Candidate
    score: float


class Strategy(Protocol):
    """One search at one split. Ask, score, tell, until it is done."""

    space: Space
    iteration: int
    """Rounds told so far; the first one is the initial population."""
    discarded: int
    """Candidates whose score was no number."""
    population: list[Scored]
    """The best so far, best first."""

    @property
    def done(self) -> bool: ...

    @property
    def stopped(self) -> Stop | None:
        """Why it is done; ``None`` while it is not."""

    @property
    def best(self) -> Scored | None: ...

    def ask(self) -> list[Candidate]:
        """The next round's new candidates, none of them asked before."""

    def tell(self, scores: Sequence[float | None]) -> None:
        """Their scores in order; ``None`` for a candidate that was given up early (racing).

        A score that is no finite number discards its candidate. Raises :class:`BackendError` as long as no candidate
        at all has a finite score.
        """


class _Rounds:
    """What evolution and random search have in common."""

    def __init__(self, space: Space, settings: SearchSettings) -> None:
        self.space, self.settings = space, settings
        self.iteration = self.discarded = 0
        self.population: list[Scored] = []
        self._rng = np.random.default_rng([settings.seed, space.split])
        self._seen: set[Candidate] = set()
        self._asked: list[Candidate] = []
        self._exhausted = False
        self._last_gain = 0
        self._reference = math.inf

    @property
    def done(self) -> bool:
        return self.stopped is not None

    @property
    def stopped(self) -> Stop | None:
        settings = self.settings
        if self.iteration > settings.iterations:
            return "iterations"
        if self._exhausted:
            return "exhausted"
        late = settings.patience is not None and self.iteration - self._last_gain > settings.patience
        return "patience" if late else None

    @property
    def best(self) -> Scored | None:
        return self.population[0] if self.population else None

    def ask(self) -> list[Candidate]:
        if self._asked:
            raise RuntimeError("ask() again before tell()")
        self._asked = self._propose()
        self._exhausted = not self._asked
        return list(self._asked)

    def tell(self, scores: Sequence[float | None]) -> None:
        found = [Scored(each, score) for each, score in zip(self._asked, scores, strict=True) if score is not None]
        finite = [each for each in found if math.isfinite(each.score)]
        self.discarded += len(found) - len(finite)
        # Equal scores keep the older one in front, whatever order the executor worked in.
        self.population = sorted([*self.population, *finite], key=lambda each: each.score)[: self.settings.population]
        self._asked = []
        if not self.population:
            raise BackendError(
                f"split {self.space.split}: every one of {self.discarded} candidates has a perplexity that is no "
                "finite number; try --dtype float32, or look at the model with `lr2eval run`"
            )
        best = self.population[0].score
        if best < self._reference * (1 - self.settings.least_gain) or not math.isfinite(self._reference):
            self._reference, self._last_gain = best, self.iteration
        self.iteration += 1

    def _propose(self) -> list[Candidate]:
        raise NotImplementedError

    def _add(self, made: list[Candidate], child: Candidate | None) -> bool:
        if child is None:
            return False
        self._seen.add(child)
        made.append(child)
        return True


class Evolution(_Rounds):
    """The published evolutionary search."""

    def _propose(self) -> list[Candidate]:
        return self._first() if self.iteration == 0 else self._children()

    def _first(self) -> list[Candidate]:
        made: list[Candidate] = []
        seeds = self.space.seeds()
        for seed in seeds[: self.settings.initial]:
            self._add(made, seed)
        while len(made) < self.settings.initial:  # member n is a mutation of member n - 8
            parent = made[len(made) - len(seeds)]
            if not self._add(made, self._mutation(parent)):
                break
        return made

    def _children(self) -> list[Candidate]:
        parents = self.population[: self.settings.parents]
        made: list[Candidate] = []
        for _ in range(self.settings.mutations):
            self._add(made, self._mutation(parents[int(self._rng.integers(len(parents)))].candidate))
        for _ in range(self.settings.crossovers):
            self._add(made, self._crossover(parents))
        return made

    def _crossover(self, parents: Sequence[Scored]) -> Candidate | None:
        if len(parents) < 2:
            return self._mutation(parents[0].candidate)
        one, two = (int(place) for place in self._rng.choice(len(parents), size=2, replace=False))
        settings = self.settings
        child = cross(
            self.space,
            parents[one].candidate,
            parents[two].candidate,
            self._rng,
            settings.rate,
            self._seen,
            settings.crossover_tries,
        )
        return child or self._mutation(parents[min(one, two)].candidate)

    def _mutation(self, parent: Candidate) -> Candidate | None:
        if self.settings.shifts and self._rng.random() < self.settings.shifts:
            shifted = shift(self.space, parent, self._rng, self._seen)
            if shifted is not None:
                return shifted
        return mutate(self.space, parent, self._rng, self.settings.rate, self._seen)


class RandomSearch(_Rounds):
    """As many candidates in the same rounds, drawn uniformly: what evolution has to beat."""

    def _propose(self) -> list[Candidate]:
        wanted = self.settings.initial if self.iteration == 0 else self.settings.children
        made: list[Candidate] = []
        for _ in range(wanted):
            self._add(made, draw(self.space, self._rng, self._seen))
        return made
