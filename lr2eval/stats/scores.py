"""Intervals (of scores on the 0..1 scale) and RULER's numbers over lengths (on its 0..100 scale): numbers in, numbers
out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

RULER_THRESHOLD = 85.6
"""RULER calls a length effective while its mean over tasks exceeds this (Llama-2-7B-chat at 4k)."""
RULER_LENGTHS = tuple(1024 * 2**step for step in range(2, 8))
"""The six lengths RULER's weighted averages are defined over: 4k to 128k."""


def wilson(mean: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927) from its mean and number of samples.

    Also used for graded scores in [0, 1]: no such score varies more than a coin with the same mean, so the
    interval is then conservative (too wide, never too narrow).
    """
    if n < 1:
        raise ValueError("an interval needs at least one sample")
    if not 0.0 <= mean <= 1.0:
        raise ValueError(f"mean {mean} is not in [0, 1]")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = mean + z * z / (2 * n)
    spread = z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The limits are exactly 0 and 1 at the ends; rounding must not leave 1e-17 behind.
    low = 0.0 if mean == 0 else max(0.0, (centre - spread) / scale)
    high = 1.0 if mean == 1 else min(1.0, (centre + spread) / scale)
    return low, high


def mover_mean(means: Sequence[float], ns: Sequence[int], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the unweighted mean of independent means (MOVER: Zou & Donner 2008, from Wilson limits)."""
    if not means or len(means) != len(ns):
        raise ValueError("one number of samples for each mean is needed")
    k = len(means)
    limits = [wilson(mean, n, confidence) for mean, n in zip(means, ns, strict=True)]
    centre = math.fsum(means) / k
    below = math.sqrt(math.fsum((mean - low) ** 2 for mean, (low, _) in zip(means, limits, strict=True))) / k
    above = math.sqrt(math.fsum((high - mean) ** 2 for mean, (_, high) in zip(means, limits, strict=True))) / k
    return max(0.0, centre - below), min(1.0, centre + above)


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of independent ``values`` of any size, such as paired differences."""
    from scipy import stats  # the command line starts without it

    n = len(values)
    if n < 2:
        raise ValueError("a t interval needs at least two values")
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * error
    return mean - half, mean + half


def effective_length(means: Mapping[int, float], threshold: float = RULER_THRESHOLD) -> int | None:
    """The largest length whose mean over tasks (0..100) exceeds ``threshold``; ``None`` when none does."""
    return max((length for length, mean in means.items() if mean > threshold), default=None)


def weighted_averages(means: Mapping[int, float]) -> tuple[float, float] | None:
    """RULER's wAvg (inc, dec): weights 1..6 over the six lengths, and 6..1. ``None`` unless all six are there."""
    if not all(length in means for length in RULER_LENGTHS):
        return None
    scores = [means[length] for length in RULER_LENGTHS]
    weights = range(1, len(scores) + 1)
    total = sum(weights)
    rising = math.fsum(weight * score for weight, score in zip(weights, scores, strict=True)) / total
    falling = math.fsum(weight * score for weight, score in zip(reversed(weights), scores, strict=True)) / total
    return rising, falling
