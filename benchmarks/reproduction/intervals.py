"""Shares of right answers with intervals: of one cell over its documents, and over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lr2eval.stats.paired import Paired, difference_interval
from lr2eval.stats.scores import t_interval, wilson


@dataclass(frozen=True)
class Estimate:
    """``n``: what the interval was computed from, answers or seeds."""

    mean: float
    low: float
    high: float
    n: int


def documents(questions: Sequence[int]) -> np.ndarray:
    """The document of each answer, ``(answers,)``."""
    return np.repeat(np.arange(len(questions)), questions)


def share(right: np.ndarray, document: np.ndarray) -> Estimate:
    """Share of right answers with its 95 % interval: Wilson's, for so many fewer answers as those of one document go
    together (the cluster-robust variance over that of independent answers, never below 1)."""
    mean, n = float(right.mean()), len(right)
    totals = np.bincount(np.unique(document, return_inverse=True)[1], weights=right - mean)
    plain, clusters = n * mean * (1 - mean), len(totals)
    effect = max(1.0, float((totals**2).sum()) * clusters / (clusters - 1) / plain) if plain and clusters > 1 else 1.0
    low, high = wilson(mean, max(1, round(n / effect)))
    return Estimate(mean, low, high, n)


def paired(new: np.ndarray, old: np.ndarray, document: np.ndarray, confidence: float) -> Estimate:
    """New minus old on the same answers, clustered by document, as the gate computes it."""
    low, high = difference_interval(Paired(old, new, None, document), confidence)
    return Estimate(float((new - old).mean()), low, high, len(new))


def pooled(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], confidence: float) -> Estimate:
    """As :func:`paired`, for several seeds as one set of answers: ``(new, old, document)`` of each. Documents of
    different seeds are different ones. It speaks for these models; :func:`over_seeds` for models like them."""
    new, old, document = ([part[which] for part in parts] for which in range(3))
    firsts = np.cumsum([0, *(each.max() + 1 for each in document)])
    apart = np.concatenate([each + first for each, first in zip(document, firsts, strict=False)])
    return paired(np.concatenate(new), np.concatenate(old), apart, confidence)


def over_seeds(
    values: Sequence[float], bounds: tuple[float, float] | None = None, confidence: float = 0.95
) -> Estimate:
    """Mean of one value a seed with Student's t interval, inside ``bounds``; ``nan`` for limits of a single seed."""
    mean = float(np.mean(values))
    low, high = t_interval(values, confidence) if len(values) > 1 else (float("nan"), float("nan"))
    if bounds and len(values) > 1:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Estimate(mean, low, high, len(values))
