"""Runs searches: rounds of candidates through an executor, every evaluation journalled, racing, a sweep over splits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import pstdev

from lr2eval.listener import Listener
from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.search.evolution import Evolution, RandomSearch, Scored, SearchSettings, Stop, Strategy
from lr2eval.method.search.executors import Executor, Job
from lr2eval.method.search.journal import Evaluation, Journal, factors_key
from lr2eval.method.search.space import Candidate, Space


@dataclass(frozen=True)
class Racing:
    """Score all new candidates on a few samples and go on with the promising ones only.

    After ``rungs`` samples (ascending) the share ``keep`` of the candidates, those with the lowest mean there, goes on.
    The others are given up: they have no score and become no parents. From the second round on, the samples on which
    the current parents differ most come first: one that all of them answer alike tells nothing about a child of theirs.
    """

    rungs: tuple[int, ...] = (2, 4)
    keep: float = 1 / 3

    def __post_init__(self) -> None:
        if not self.rungs or self.rungs[0] < 1 or sorted(set(self.rungs)) != list(self.rungs):
            raise ValueError(f"racing rungs {self.rungs} are not ascending numbers of samples")
        if not 0 < self.keep < 1:
            raise ValueError(f"racing keeps the share {self.keep:g}; give one between 0 and 1")

    def survivors(self, candidates: int) -> int:
        """How many of them go on after a rung; never none."""
        return max(1, math.ceil(candidates * self.keep))


@dataclass(frozen=True)
class Round:
    """What one round of one split found; numbers only, so that a resumed search has the very same ones."""

    split: int
    iteration: int
    asked: int
    given_up: int
    """By racing."""
    discarded: int
    """No finite score."""
    evaluations: int
    """Candidates times samples of this round, known ones included."""
    best_nll: float
    """The best so far of this split, nats per scored token."""
    round_nll: float | None
    """The best of this round; ``None`` if none got a finite score."""


@dataclass(frozen=True)
class SplitDone:
    """One split, searched."""

    split: int
    best: Scored
    scaling: RopeScaling
    seed: Scored | None
    """The best of the unsearched starting vectors; ``None`` where all were given up, discarded or never there."""
    rounds: tuple[Round, ...]
    stopped: Stop


@dataclass(frozen=True)
class Plan:
    """A search over splits. ``samples`` is the number of samples each candidate is scored on."""

    settings: SearchSettings
    samples: int
    racing: Racing | None = None
    random: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError("a search needs at least one sample")
        if self.racing is not None and self.racing.rungs[-1] >= self.samples:
            raise ValueError(
                f"racing looks at {self.racing.rungs[-1]} samples before its last choice, so it needs more than the "
                f"{self.samples} there are"
            )

    def round_cost(self, candidates: int) -> int:
        """Evaluations of a round of so many candidates."""
        if self.racing is None:
            return candidates * self.samples
        cost, done = 0, 0
        for rung in self.racing.rungs:
            cost += candidates * (rung - done)
            candidates, done = self.racing.survivors(candidates), rung
        return cost + candidates * (self.samples - done)

    def split_cost(self) -> int:
        """Evaluations of a split, if it is not stopped early."""
        settings = self.settings
        return self.round_cost(settings.initial) + settings.iterations * self.round_cost(settings.children)


class Scorer:
    """Mean scores of factors over samples: from the journal where it knows them, else from the executor."""

    def __init__(self, executor: Executor, journal: Journal, listener: Listener | None = None) -> None:
        self._executor, self._journal, self._listener = executor, journal, listener
        self.new = 0
        """Evaluations that this session computed."""

    def nlls(self, scalings: Sequence[RopeScaling], samples: Sequence[int]) -> list[list[float]]:
        """For each vector of factors its score on each sample."""
        keys = [factors_key(scaling) for scaling in scalings]
        jobs: list[Job] = []
        wanted: set[tuple[str, int]] = set()
        for key, scaling in zip(keys, scalings, strict=True):
            for sample in samples:
                known = self._journal.known(key, sample)
                if known is not None:
                    self._tell(Evaluation(key, sample, known, 0, 0.0), known=True)
                elif (key, sample) not in wanted:
                    wanted.add((key, sample))
                    jobs.append(Job(len(jobs), scaling, sample))
        for result in self._executor.run(jobs) if jobs else ():
            key = factors_key(result.job.scaling)
            found = Evaluation(key, result.job.sample, result.nll, result.tokens, result.seconds)
            self._journal.add(found)
            wanted.discard((key, result.job.sample))
            self.new += 1
            self._tell(found, known=False)
        if wanted:
            raise RuntimeError(f"the executor left {len(wanted)} of {len(jobs)} jobs without a result")
        return [[self._score(key, sample) for sample in samples] for key in keys]

    def by_spread(self, scalings: Sequence[RopeScaling], samples: int) -> list[int]:
        """Numbers of the samples, those first on which these (already scored) vectors differ most."""
        keys = [factors_key(scaling) for scaling in scalings]
        spread = [pstdev([self._score(key, sample) for key in keys]) if keys else 0.0 for sample in range(samples)]
        return sorted(range(samples), key=lambda sample: -spread[sample])

    def _score(self, key: str, sample: int) -> float:
        found = self._journal.known(key, sample)
        assert found is not None
        return found

    def _tell(self, found: Evaluation, *, known: bool) -> None:
        if self._listener is not None:
            self._listener.evaluated(found.seconds, known=known)


def search(
    spaces: Sequence[Space], plan: Plan, executor: Executor, journal: Journal, listener: Listener | None = None
) -> list[SplitDone]:
    """Search every space (one per split), one after the other, in the given order.

    Deterministic: equal spaces, plan and scores give an equal result, so a search that was killed is repeated with its
    journal. Raises :class:`BackendError` for a split without any finite score, and whatever the executor raises.
    """
    scorer = Scorer(executor, journal, listener)
    done = []
    for number, space in enumerate(spaces):
        later = (len(spaces) - 1 - number) * plan.split_cost()
        done.append(_search_split(space, plan, scorer, later, listener))
    return done


def _search_split(space: Space, plan: Plan, scorer: Scorer, later: int, listener: Listener | None) -> SplitDone:
    strategy: Strategy = (RandomSearch if plan.random else Evolution)(space, plan.settings)
    seeds = set(space.seeds())
    seed: Scored | None = None
    rounds: list[Round] = []
    while not strategy.done:
        asked = strategy.ask()
        if not asked:
            break
        discarded = strategy.discarded
        order = list(range(plan.samples))
        if plan.racing is not None:
            parents = strategy.population[: plan.settings.parents]
            order = scorer.by_spread([space.scaling(each.candidate) for each in parents], plan.samples)
        scores, evaluations = _score_round(space, asked, plan, scorer, order)
        strategy.tell(scores)
        finite = [score for score in scores if score is not None and math.isfinite(score)]
        if strategy.iteration == 1:
            pairs = zip(asked, scores, strict=True)
            started = [Scored(each, s) for each, s in pairs if each in seeds and s is not None and math.isfinite(s)]
            seed = min(started, key=lambda each: each.score, default=None)
        assert strategy.best is not None
        rounds.append(
            Round(
                split=space.split,
                iteration=strategy.iteration - 1,
                asked=len(asked),
                given_up=sum(score is None for score in scores),
                discarded=strategy.discarded - discarded,
                evaluations=evaluations,
                best_nll=strategy.best.score,
                round_nll=min(finite, default=None),
            )
        )
        if listener is not None:
            rest = (plan.settings.iterations + 1 - strategy.iteration) * plan.round_cost(plan.settings.children)
            made = rounds[-1]
            listener.round_done(made.split, made.iteration, made.best_nll, later + (0 if strategy.done else rest))
    assert strategy.best is not None
    assert strategy.stopped is not None
    best = strategy.best
    return SplitDone(space.split, best, space.scaling(best.candidate), seed, tuple(rounds), strategy.stopped)


def _score_round(
    space: Space, asked: Sequence[Candidate], plan: Plan, scorer: Scorer, order: Sequence[int]
) -> tuple[list[float | None], int]:
    """Mean scores as asked (``None``: given up) over the samples in this order, and how many evaluations they took."""
    scalings = [space.scaling(candidate) for candidate in asked]
    totals: list[list[float]] = [[] for _ in asked]
    alive = list(range(len(asked)))
    evaluations = done = 0
    rungs = plan.racing.rungs if plan.racing is not None else ()
    for stop in (*rungs, plan.samples):
        found = scorer.nlls([scalings[place] for place in alive], order[done:stop])
        evaluations += len(alive) * (stop - done)
        for place, nlls in zip(alive, found, strict=True):
            totals[place] += nlls
        done = stop
        if plan.racing is not None and stop < plan.samples:
            # Those without a finite score so far are out first; equal ones stay in the order they were asked.
            ranked = sorted(alive, key=lambda place: _mean(totals[place]))
            alive = sorted(ranked[: plan.racing.survivors(len(alive))])
    finished = set(alive)
    scores: list[float | None] = []
    for place, nlls in enumerate(totals):
        mean = _mean(nlls)
        scores.append(mean if place in finished or not math.isfinite(mean) else None)
    return scores, evaluations


def _mean(nlls: Sequence[float]) -> float:
    mean = sum(nlls) / len(nlls)
    return mean if math.isfinite(mean) else math.inf
