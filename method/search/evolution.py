"""The LongRoPE2 search as a pure ask/tell core: it proposes candidates and is told their scores, and knows no model.

Algorithm and settings: arXiv 2502.20082, algorithms 1 and 2 and appendix B; what these leave open is taken from the
published code. Everything random comes from one seeded generator, so the same scores give the same search.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lr2eval.errors import BackendError
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.search.space import Candidate, Space, cross, draw, mutate

Stop = Literal["iterations", "patience", "exhausted", "steps", "behind", "not finite"]
"""Why a split, or a start of a gradient search, ends; :class:`lr2eval.record.search.SplitFacts` explains each."""


@dataclass(frozen=True)
class ScoredCandidate:
    """A candidate and its score (lower is better)."""

    candidate: Candidate
    score: float


class Strategy(ABC):
    """One search at one split: ask for candidates, score them, tell their scores, until it is done."""

    def __init__(self, space: Space, config: SearchConfig) -> None:
        self.space, self.config = space, config
        self.iteration = 0
        """Rounds told so far; the first one is the initial population."""
        self.discarded = 0
        """Candidates whose score was not a finite number."""
        self.population: list[ScoredCandidate] = []
        """The best so far, best first."""
        self._rng = np.random.default_rng([config.seed, space.split])
        self._seen: set[Candidate] = set()
        self._asked: list[Candidate] = []
        self._exhausted = False
        self._last_gain = 0
        self._reference = math.inf

    @property
    def stopped(self) -> Stop | None:
        """Why the search is done; ``None`` while it is not."""
        if self.iteration > self.config.iterations:
            return "iterations"
        if self._exhausted:
            return "exhausted"
        patience = self.config.patience
        late = patience is not None and self.iteration - self._last_gain > patience
        return "patience" if late else None

    def ask(self) -> list[Candidate]:
        """The next round's new candidates, none of them asked before."""
        if self._asked:
            raise RuntimeError("ask() again before tell()")
        for child in self._propose():
            if child is not None:
                self._seen.add(child)
                self._asked.append(child)
        self._exhausted = not self._asked
        return list(self._asked)

    def tell(self, scores: Sequence[float | None]) -> list[ScoredCandidate]:
        """The scores of the asked candidates, in order; ``None`` for one that racing has given up.

        A score that is not a finite number discards its candidate; the others are returned. Raises
        :class:`BackendError` while no candidate has a finite score.
        """
        pairs = zip(self._asked, scores, strict=True)
        found = [ScoredCandidate(each, score) for each, score in pairs if score is not None]
        finite = [each for each in found if math.isfinite(each.score)]
        self.discarded += len(found) - len(finite)
        # Of equal scores the older one stays in front, whatever order the executor worked in.
        self.population = sorted([*self.population, *finite], key=lambda each: each.score)[: self.config.population]
        self._asked = []
        if not self.population:
            raise BackendError(
                f"split {self.space.split}: none of {self.discarded} candidates has a finite perplexity; try --dtype "
                "float32, or check the model with `lr2eval run`"
            )
        best = self.population[0].score
        if best < self._reference * (1 - self.config.least_gain) or not math.isfinite(self._reference):
            self._reference, self._last_gain = best, self.iteration
        self.iteration += 1
        return finite

    @abstractmethod
    def _propose(self) -> Iterator[Candidate | None]:
        """New candidates, each asked before the next is made; ``None`` where none was found."""


class Evolution(Strategy):
    """The published evolutionary search."""

    def _propose(self) -> Iterator[Candidate | None]:
        return self._first() if self.iteration == 0 else self._children()

    def _first(self) -> Iterator[Candidate | None]:
        seeds = self.space.seeds()
        yield from seeds[: self.config.initial]
        while len(self._asked) < self.config.initial:  # member n is a mutation of member n - 8
            child = self._mutation(self._asked[len(self._asked) - len(seeds)])
            if child is None:
                return
            yield child

    def _children(self) -> Iterator[Candidate | None]:
        parents = self.population[: self.config.parents]
        for _ in range(self.config.mutations):
            yield self._mutation(parents[int(self._rng.integers(len(parents)))].candidate)
        for _ in range(self.config.crossovers):
            yield self._crossover(parents)

    def _crossover(self, parents: Sequence[ScoredCandidate]) -> Candidate | None:
        if len(parents) < 2:
            return self._mutation(parents[0].candidate)
        one, two = (int(place) for place in self._rng.choice(len(parents), size=2, replace=False))
        first, second = parents[one].candidate, parents[two].candidate
        child = cross(self.space, first, second, self._rng, self.config.rate, self._seen)
        return child or self._mutation(parents[min(one, two)].candidate)

    def _mutation(self, parent: Candidate) -> Candidate | None:
        return mutate(self.space, parent, self._rng, self.config.rate, self._seen)


class RandomSearch(Strategy):
    """The same number of candidates per round, drawn uniformly: what evolution has to beat."""

    def _propose(self) -> Iterator[Candidate | None]:
        for _ in range(self.config.initial if self.iteration == 0 else self.config.children):
            yield draw(self.space, self._rng, self._seen)
