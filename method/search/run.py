"""Runs a search: rounds of candidates through an executor, racing, and a sweep over splits; the journal keeps all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import pstdev

from lr2eval.listener import Listener
from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.search.evolution import Evolution, RandomSearch, ScoredCandidate, Stop, Strategy
from lr2eval.method.search.journal import Executor, Journal, Trial, factors_key
from lr2eval.method.search.space import Candidate, Space
from lr2eval.record.search import RoundFacts


@dataclass(frozen=True)
class SplitDone:
    """One split, searched; or one start of a gradient search, which has no split."""

    split: int | None
    best_nll: float
    scaling: RopeScaling
    """The best factors."""
    seed: tuple[float, RopeScaling] | None
    """The best of the unsearched starting vectors; ``None`` if there was none, or all were given up or discarded."""
    rounds: tuple[RoundFacts, ...]
    stopped: Stop
    power: float | None = None
    """Exponent of the left side."""
    start: str | None = None
    """The rule where a gradient search starts."""


class JournalScorer:
    """Scores and gradients of factors on samples: from the journal if known, else from the executor."""

    def __init__(self, executor: Executor, journal: Journal, listener: Listener | None = None) -> None:
        self._executor, self._journal, self._listener = executor, journal, listener or Listener()

    def nlls(self, scalings: Sequence[RopeScaling], samples: Sequence[int]) -> list[list[float]]:
        """For each vector of factors its score on each sample."""
        self._evaluate([Trial(scaling, sample) for scaling in scalings for sample in samples])
        keys = [factors_key(scaling) for scaling in scalings]
        return [[self._journal.scores[key, sample] for sample in samples] for key in keys]

    def known(self, scaling: RopeScaling, samples: Sequence[int]) -> bool:
        """Whether the journal has the score of this vector on every one of the samples."""
        key = factors_key(scaling)
        return all((key, sample) in self._journal.scores for sample in samples)

    def gradients(self, scaling: RopeScaling, samples: Sequence[int]) -> tuple[list[float], list[tuple[float, ...]]]:
        """The scores of one vector of factors, and their gradients, one for each sample."""
        self._evaluate([Trial(scaling, sample, gradient=True) for sample in samples])
        key, journal = factors_key(scaling), self._journal
        return [journal.scores[key, each] for each in samples], [journal.gradients[key, each] for each in samples]

    def _evaluate(self, trials: Sequence[Trial]) -> None:
        """Make the trials that the journal does not have."""
        wanted: dict[tuple[str, int], Trial] = {}
        for trial in trials:
            key = factors_key(trial.scaling)
            if (key, trial.sample) in (self._journal.gradients if trial.gradient else self._journal.scores):
                self._listener.evaluated(0.0, known=True)
            else:
                wanted.setdefault((key, trial.sample), trial)
        for result in self._executor.run(list(wanted.values())) if wanted else ():
            self._journal.add(result)
            del wanted[result.factors, result.sample]
            self._listener.evaluated(result.seconds, known=False)
        if wanted:
            raise RuntimeError(f"the executor returned no result for {len(wanted)} evaluations")

    def by_spread(self, scalings: Sequence[RopeScaling], samples: int) -> list[int]:
        """Numbers of the samples; the ones on which these (already scored) vectors differ most come first."""
        keys = [factors_key(scaling) for scaling in scalings]
        scores = self._journal.scores
        spread = [pstdev([scores[key, sample] for key in keys]) if keys else 0.0 for sample in range(samples)]
        return sorted(range(samples), key=lambda sample: -spread[sample])


def search(
    spaces: Sequence[Space],
    config: SearchConfig,
    executor: Executor,
    journal: Journal,
    listener: Listener | None = None,
) -> list[SplitDone]:
    """Search every space (one per split), one after the other, in the given order.

    Deterministic: equal spaces, settings and scores give an equal result, so a killed search is repeated with its
    journal. Raises :class:`BackendError` for a split without any finite score, and whatever the executor raises.
    """
    listener = listener or Listener()
    scorer = JournalScorer(executor, journal, listener)
    done = []
    for number, space in enumerate(spaces):
        later = (len(spaces) - 1 - number) * config.split_cost()
        done.append(_search_split(space, config, scorer, later, listener))
    return done


def _search_split(
    space: Space, config: SearchConfig, scorer: JournalScorer, later: int, listener: Listener
) -> SplitDone:
    strategy: Strategy = (RandomSearch if config.strategy == "random" else Evolution)(space, config)
    seeds = set(space.seeds())
    seed: ScoredCandidate | None = None
    rounds: list[RoundFacts] = []
    while strategy.stopped is None and (asked := strategy.ask()):
        discarded = strategy.discarded
        order = list(range(config.samples))
        if config.race:
            # A sample on which all parents score alike says nothing about a child of theirs, so it comes last.
            parents = strategy.population[: config.parents]
            order = scorer.by_spread([space.scaling(each.candidate) for each in parents], config.samples)
        scores, evaluations = _score_round(space, asked, config, scorer, order)
        finite = strategy.tell(scores)
        if strategy.iteration == 1:
            started = [each for each in finite if each.candidate in seeds]
            seed = min(started, key=lambda each: each.score, default=None)
        made = RoundFacts(
            split=space.split,
            iteration=strategy.iteration - 1,
            asked=len(asked),
            given_up=sum(score is None for score in scores),
            discarded=strategy.discarded - discarded,
            evaluations=evaluations,
            best_nll=strategy.population[0].score,
            round_nll=min((each.score for each in finite), default=None),
        )
        rounds.append(made)
        rounds_left = 0 if strategy.stopped else config.iterations + 1 - strategy.iteration
        left = later + rounds_left * config.round_cost(config.children)
        listener.round_done(f"split {made.split}", made.iteration, made.best_nll, left)
    best, stopped = strategy.population[0], strategy.stopped
    assert stopped is not None
    begun = None if seed is None else (seed.score, space.scaling(seed.candidate))
    return SplitDone(
        space.split, best.score, space.scaling(best.candidate), begun, tuple(rounds), stopped,
        best.candidate.power / 100,
    )  # fmt: skip


def _score_round(
    space: Space, asked: Sequence[Candidate], config: SearchConfig, scorer: JournalScorer, order: Sequence[int]
) -> tuple[list[float | None], int]:
    """Mean scores in the order asked (``None``: given up) over samples in this order, and the number of evaluations.

    A race scores all candidates on the first samples only. After each rung, the share ``race_keep`` with the lowest
    means goes on; the others get no score and become no parents.
    """
    scalings = [space.scaling(candidate) for candidate in asked]
    totals: list[list[float]] = [[] for _ in asked]
    alive = list(range(len(asked)))
    evaluations = done = 0
    for stop in (*(config.race_rungs if config.race else ()), config.samples):
        found = scorer.nlls([scalings[place] for place in alive], order[done:stop])
        evaluations += len(alive) * (stop - done)
        for place, nlls in zip(alive, found, strict=True):
            totals[place] += nlls
        done = stop
        if stop < config.samples:
            # Candidates without a finite score so far go first; equal scores stay in the order asked.
            ranked = sorted(alive, key=lambda place: finite_mean(totals[place]))
            alive = sorted(ranked[: config.survivors(len(alive))])
    means = [finite_mean(nlls) for nlls in totals]
    return [None if n not in alive and math.isfinite(mean) else mean for n, mean in enumerate(means)], evaluations


def finite_mean(nlls: Sequence[float]) -> float:
    """The mean loss; infinite if a loss is not a finite number."""
    mean = sum(nlls) / len(nlls)
    return mean if math.isfinite(mean) else math.inf
