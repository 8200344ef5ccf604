"""A search of RoPE factors along the gradient of the needle loss, knowing no model.

Weights stay frozen. The logarithms of the long factors and of the attention factor move; every step uses samples that
no step has used before, so a step cannot fit its samples. Which start and which step win is decided by other samples.

Shape suffixes: S samples of a step; R rotary pairs; D = R + 1, the pairs and then the attention factor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from lr2eval.errors import BackendError
from lr2eval.listener import Listener
from lr2eval.method.rope.rules import longrope, longrope2
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.search.evolution import Stop
from lr2eval.method.search.run import JournalScorer, SplitDone
from lr2eval.record.search import RoundFacts

_CLIP = 0.5
"""A sample moves a number by at most this share of what an average one does: few samples have gradients 100 times as
large as the others, and the others agree better on the direction."""
_KEPT, _SQUARE_KEPT = 0.8, 0.9
"""Shares of the running means of direction and squared gradient that a step keeps."""
_SMOOTH = (0.25, 0.5, 0.25)
"""Weights of a pair and its neighbours: their gradients agree, their noise does not."""
CANDIDATES = 2
"""Starts that are scored on all samples of the search, for each one that descends."""
SKIPS = 3
"""Steps in a row without a finite loss that end a descent."""


def slow_pairs(rope: OriginalRope, turns: float) -> int:
    """The first pair that turns at most ``turns`` times in the window; at least the slowest quarter comes behind it."""
    fast = sum(period * turns <= rope.window for period in rope.periods)
    return min(fast, rope.pairs - -(-rope.pairs // 4))


def composed(rope: OriginalRope, target: int, turns: float) -> dict[str, RopeScaling]:
    """Starts beside the rules: all slow pairs at s, 1.25s, 2s or 4s, and before them one of three left sides.

    ``step``: the pairs that turn more than ``turns`` times in the window as they were trained. ``q1.5`` and ``q2``:
    ``S^((i/d_tcd)^q)``, LongRoPE2's with a larger exponent, so that fast pairs change less.
    """
    first, s = slow_pairs(rope, turns), target / rope.window
    made = {}
    for times in (1, 1.25, 2, 4):
        slow = times * s
        made[f"step-{times}s"] = longrope(rope, target, factors=[1.0] * first + [slow] * (rope.pairs - first))
        for power in (1.5, 2) if 0 < rope.d_tcd < rope.pairs else ():
            right = [slow] * (rope.pairs - rope.d_tcd)
            made[f"q{power}-{times}s"] = longrope2(rope, target, split=rope.d_tcd, right=right, power=power)
    return made


class Descent:
    """One descent from one start.

    Each step is gradient descent with momentum. The gradient of each sample is divided by its running root mean square
    and clipped, and averaged over neighbouring pairs. Pairs that turn more than ``config.turns`` times in the original
    window stay where the start has them, as at long positions their gradient is noise; the slowest quarter moves
    always. Factors never fall below 1 or below the factor of a faster pair. The attention factor moves unless
    ``config.attention_factor`` is given; the start then has it.
    """

    def __init__(self, start: RopeScaling, config: SearchConfig) -> None:
        self._start, self._config = start, config
        rope = start.original
        self._first = slow_pairs(rope, config.turns)
        self._moves_D = np.arange(rope.pairs + 1) >= self._first
        self._moves_D[-1] = config.attention_factor is None
        logs_D = np.log([*start.long_factor, start.long_attention_factor])
        self._logs_D = self._allowed(logs_D)
        self._momentum_D, self._square_D = np.zeros_like(logs_D), np.zeros_like(logs_D)
        self._before: tuple[Any, ...] | None = None
        self._rate = config.learning_rate
        self.step = 0
        """Steps taken or skipped."""
        self.skipped = 0
        """Steps without a finite loss or gradient."""
        self._skipped_in_a_row = self._taken = 0

    @property
    def ended(self) -> bool:
        """Whether all steps are done, or too many in a row had no finite loss."""
        return self.step >= self._config.steps or self._skipped_in_a_row >= SKIPS

    @property
    def scaling(self) -> RopeScaling:
        """Where the descent is."""
        factors = [float(factor) for factor in np.exp(self._logs_D)]
        start = self._start
        return longrope(start.original, start.target_window, factors=factors[:-1], attention_factor=factors[-1])

    def take(self, nlls: Sequence[float], gradients: Sequence[Sequence[float]]) -> float:
        """One step from the losses and gradients (D numbers each) of the samples of this step; their mean loss.

        If that is not a finite number, the step that led here is undone instead.
        """
        nll, gradient_SD = float(np.mean(nlls)), np.where(self._moves_D, np.asarray(gradients, float), 0.0)
        self.step += 1
        if not (math.isfinite(nll) and np.isfinite(gradient_SD).all()):
            self.skipped += 1
            self._skipped_in_a_row += 1
            if self._before is not None:
                self._logs_D, self._momentum_D, self._square_D, self._taken = self._before
            return nll
        self._before = self._logs_D, self._momentum_D, self._square_D, self._taken
        square_D = np.mean(gradient_SD**2, axis=0)
        if self._taken:
            square_D = _SQUARE_KEPT * self._square_D + (1 - _SQUARE_KEPT) * square_D
        self._square_D = square_D
        scaled_SD = gradient_SD / np.sqrt(np.where(square_D > 0, square_D, 1.0))
        direction_D = np.mean(np.clip(scaled_SD / _CLIP, -1, 1), axis=0)
        self._momentum_D = _KEPT * self._momentum_D + (1 - _KEPT) * direction_D
        self._taken, self._skipped_in_a_row = self._taken + 1, 0
        rate = self._rate * 0.5 * (1 + math.cos(math.pi * (self.step - 1) / self._config.steps))
        self._logs_D = self._allowed(self._logs_D - rate * self._smooth(self._momentum_D / (1 - _KEPT**self._taken)))
        return nll

    def back_to(self, scaling: RopeScaling) -> None:
        """Go on from where the descent was before, with half the rate: the steps since then made it worse."""
        self._logs_D = np.log([*scaling.long_factor, scaling.long_attention_factor])
        self._momentum_D, self._taken, self._before = np.zeros_like(self._logs_D), 0, None
        self._rate /= 2

    def _smooth(self, direction_D: np.ndarray) -> np.ndarray:
        slow_R = direction_D[self._first : -1]
        mean_R = np.convolve(slow_R, _SMOOTH, "same") / np.convolve(np.ones_like(slow_R), _SMOOTH, "same")
        return np.concatenate((direction_D[: self._first], mean_R, direction_D[-1:]))

    def _allowed(self, logs_D: np.ndarray) -> np.ndarray:
        """The nearest factors that are at least 1 and do not fall, the fast pairs held; the attention factor as is."""
        first, logs_R = self._first, logs_D[:-1]
        least = max(0.0, float(logs_R[first - 1])) if first else 0.0
        rising_R = np.maximum(isotonic_regression(logs_R[first:]).x, least)
        return np.concatenate((logs_R[:first], rising_R, logs_D[-1:]))


class _Lane:
    """One start: its descent, and the checks of it so far."""

    def __init__(self, name: str, start: RopeScaling, config: SearchConfig) -> None:
        self.name, self.config = name, config
        self.descent = Descent(start, config)
        self.rounds: list[RoundFacts] = []
        self.best: tuple[float, RopeScaling] = math.inf, start
        self.first: tuple[float, RopeScaling] | None = None
        self.stopped: Stop = "steps"
        self._step_nll: list[float] = []
        self._skipped = 0

    def run(self, until: int, scorer: JournalScorer, fresh: Sequence[int], later: int, listener: Listener) -> None:
        """Take steps until ``until`` of them are done, and check the factors at every ``check_every``-th."""
        config, descent = self.config, self.descent
        while descent.step < until and not descent.ended:
            samples = fresh[descent.step * config.batch : (descent.step + 1) * config.batch]
            self._step_nll.append(descent.take(*scorer.gradients(descent.scaling, samples)))
            if descent.step % config.check_every == 0 or descent.ended:
                self._check(scorer)
                left = 0 if descent.ended else run_cost(config, until - descent.step)
                listener.round_done(f"from {self.name}", descent.step, self.best[0], later + left)
        if descent.step < config.steps and descent.ended:
            self.stopped = "not finite"

    def begin(self, scorer: JournalScorer) -> bool:
        """Check the start; whether its loss is a finite number."""
        self._check(scorer)
        return bool(self.rounds)

    def _check(self, scorer: JournalScorer) -> None:
        scaling, step_nll = self.descent.scaling, self._step_nll
        (nlls,) = scorer.nlls([scaling], range(self.config.samples))
        nll = float(np.mean(nlls))
        finite = math.isfinite(nll)
        if not self.rounds:
            if not finite:
                return
            self.first = nll, replace(scaling, provenance=f"start {self.name}")
        if finite and nll < self.best[0]:
            self.best = nll, scaling
        elif self.rounds:
            self.descent.back_to(self.best[1])
        facts = RoundFacts(
            split=None,
            iteration=self.descent.step,
            asked=1,
            given_up=0,
            discarded=self.descent.skipped - self._skipped + (not finite),
            evaluations=len(nlls) + len(step_nll) * self.config.batch,
            best_nll=self.best[0],
            round_nll=nll if finite else None,
            step_nll=[each if math.isfinite(each) else None for each in step_nll],
            factors=list(scaling.long_factor),
            temperature=scaling.long_attention_factor,
        )
        self.rounds.append(facts)
        self._step_nll, self._skipped = [], self.descent.skipped


def run_cost(config: SearchConfig, steps: int) -> int:
    """Evaluations of this number of steps, and of the checks among them."""
    return steps * config.batch + -(-steps // config.check_every) * config.samples


def _race(config: SearchConfig) -> int:
    """Steps after which only the best start goes on: those of a check, near a third of all."""
    return min(config.steps, max(1, round(config.steps / 3 / config.check_every)) * config.check_every)


def descent_cost(config: SearchConfig) -> int:
    """Evaluations of :func:`descend`."""
    begin = _race(config) if config.starts > 1 else 0
    first = CANDIDATES * config.starts * config.samples
    return first + config.starts * run_cost(config, begin) + run_cost(config, config.steps - begin)


def descend(
    starts: Mapping[str, RopeScaling], config: SearchConfig, scorer: JournalScorer, listener: Listener | None = None
) -> list[SplitDone]:
    """A descent from each of the best starts for about a third of the steps; then the best so far goes on to the end.

    Samples 0 to ``config.samples - 1`` choose the start and the step; the steps use those behind the held-out ones,
    each once in a descent. Deterministic: equal starts, settings and scores give an equal result. Raises
    :class:`BackendError` if no start has a finite loss.
    """
    first = config.samples + config.held_out
    fresh = [first + int(place) for place in np.random.default_rng([config.seed, first]).permutation(config.fresh)]
    every = [lane for name, start in starts.items() if (lane := _Lane(name, start, config)).begin(scorer)]
    if not every:
        raise BackendError("no start of the search has a finite perplexity; try --dtype float32")
    lanes = sorted(every, key=lambda lane: lane.best[0])[: config.starts]
    listener = listener or Listener()
    begin = _race(config) if len(lanes) > 1 else config.steps
    rest = run_cost(config, config.steps - begin)
    for waiting, lane in zip(reversed(range(len(lanes))), lanes, strict=True):
        lane.run(begin, scorer, fresh, rest + waiting * run_cost(config, begin), listener)
    best = min(lanes, key=lambda lane: lane.best[0])
    best.run(config.steps, scorer, fresh, 0, listener)
    for lane in every:
        if lane is not best and lane.stopped == "steps":
            lane.stopped = "behind"
    return [
        SplitDone(None, lane.best[0], replace(lane.best[1], provenance=f"gradient from {lane.name}"), lane.first,
                  tuple(lane.rounds), lane.stopped, start=lane.name)
        for lane in every
    ]  # fmt: skip
