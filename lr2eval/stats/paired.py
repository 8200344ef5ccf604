"""Statistics of paired samples: arrays in, numbers out. Scores are on the 0..1 scale throughout.

One method carries every interval here: the *score interval with constrained maximum likelihood*. To test whether a
bounded quantity has the mean ``m``, its distribution is fitted under that constraint (a multinomial over the values
seen and the values that were possible), and the variance of that fit, not of the sample, judges the distance. On one
proportion it is Wilson's interval (1927), on the difference of paired proportions Tango's (1998), on their ratio
Nam and Blackwelder's (2002); graded scores (RULER's recall) go through the same function. Where no pair differs it
still gives an interval of the right width, where a t interval or a bootstrap would claim certainty.

Two corrections keep the error of a verdict below its level: 0.4 of a sample for continuity (a whole one where every
pair differs), and Student's t where samples come in clusters. ``benchmarks/gate_power.py`` measures what they do.

Shapes: ``n`` samples, ``m`` distinct values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Literal

import numpy as np
import scipy  # it imports its parts when they are first used, so a refusal does not wait for them
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

CONTINUITY = 0.4
"""How much of a sample the sum must lie beyond what is tested where few pairs differ, rising to 1 where all do. Then a
loss of just the margin passes no more often than the confidence allows, from .90 up. Without it, it passes in up to
7 % of data sets at .95 where few samples differ; the usual half sample would cost power for nothing there (exact sums
in ``benchmarks/gate_power.py`` and ``gate_few.py``)."""
PRIOR = 5.0
"""Discordant pairs that the clustering of the scores themselves counts for, in the design effect of a difference."""
_STEPS = 200
"""Most steps for the multiplier; Newton's method kept inside a shrinking bracket takes about ten."""


def score_z(values: ArrayLike, counts: ArrayLike, mean: ArrayLike = 0.0) -> Array:
    """Score statistic of ``H0: E[v] = mean``, standard normal under it; positive where the sample lies above.

    ``values`` ``(..., m)``: every value that is possible, the extremes included; ``counts`` ``(..., m)``: how often
    each was seen (0 for possible ones that were not; fractions are allowed). ``mean`` broadcasts against the leading
    axes and must lie strictly inside the range of ``values``; outside, the statistic is infinite.
    """
    v, c, target = np.broadcast_arrays(
        np.asarray(values, float), np.asarray(counts, float), np.asarray(mean, float)[..., None]
    )
    n = c.sum(-1)
    u = v - target
    low, high = u.min(-1), u.max(-1)
    inside = (low < 0) & (high > 0)
    # Values never seen take no part in the likelihood; 0 keeps them out of the sums below.
    s = np.where(c > 0, u, 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # The multiplier lambda of the constraint keeps every 1 + lambda u >= 0; the slope is decreasing in it.
        left, right = np.where(inside, -1 / high, -1.0), np.where(inside, -1 / low, 1.0)
        # Where the extreme itself was not seen the root may lie beyond the bound: then the bound is the answer.
        over = inside & (s.min(-1) > low) & ((c * s / (1 + right[..., None] * s)).sum(-1) >= 0)
        under = inside & (s.max(-1) < high) & ((c * s / (1 + left[..., None] * s)).sum(-1) <= 0)
        left, right = np.where(over, right, left), np.where(under, left, right)
        multiplier = np.clip(0.0, left, right)
        for _ in range(_STEPS):
            t = s / (1 + multiplier[..., None] * s)
            slope, bend = (c * t).sum(-1), (c * t * t).sum(-1)
            left, right = np.where(slope > 0, multiplier, left), np.where(slope > 0, right, multiplier)
            newton = multiplier + slope / bend
            step = np.where((newton >= left) & (newton <= right), newton, (left + right) / 2)
            # A slope of rounding size would send the multiplier to and fro for ever.
            done = (np.abs(step - multiplier) <= 1e-13 * np.abs(step)) | (np.abs(slope) <= 1e-13 * np.sqrt(bend * n))
            multiplier = step
            if done.all():
                break
        p = c / (n[..., None] * (1 + multiplier[..., None] * s))
        # Where the sample cannot reach the mean by itself, the rest of the mass lies on the possible extreme beyond it.
        rest = np.clip(1 - p.sum(-1), 0.0, None)
        variance = (p * s * s).sum(-1) + rest * np.where(multiplier > 0, low, high) ** 2
        distance = (c * u).sum(-1) / n
        z = np.where(distance == 0, 0.0, distance * np.sqrt(n / variance))
    return np.where(inside, z, np.where(distance == 0, 0.0, np.copysign(np.inf, distance)))


@dataclass(frozen=True)
class Paired:
    """Scores of two models on the same samples, with what the headline number weighs them by.

    ``original``, ``extended`` ``(n,)`` in [0, 1]; ``weights`` ``(n,)`` positive, mean 1 (``None``: all equal);
    ``clusters`` ``(n,)`` labels of samples that share a document (``None``: all independent).
    """

    original: Array
    extended: Array
    weights: Array | None = None
    clusters: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        for name, scores in (("original", self.original), ("extended", self.extended)):
            if not len(scores):
                raise ValueError("a comparison needs at least one pair")
            if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
                raise ValueError(f"{name}: scores must be numbers in [0, 1]")
        if len(self.original) != len(self.extended):
            raise ValueError("pairs need as many original as extended scores")
        for name, column in (("weights", self.weights), ("clusters", self.clusters)):
            if column is not None and len(column) != self.n:
                raise ValueError(f"{name}: one for each pair is needed")
        if self.weights is not None and not (
            np.isfinite(self.weights).all() and (self.weights > 0).all() and abs(self.weights.mean() - 1) < 1e-9
        ):
            raise ValueError("weights must be positive numbers of mean 1")

    @property
    def n(self) -> int:
        return len(self.original)

    @property
    def w(self) -> Array:
        return np.ones(self.n) if self.weights is None else self.weights

    @property
    def binary(self) -> bool:
        """Whether every score is 0 or 1."""
        return all(bool(np.isin(scores, (0.0, 1.0)).all()) for scores in (self.original, self.extended))

    @property
    def lost(self) -> int:
        """Samples on which the extended model scores lower."""
        return int((self.extended < self.original).sum())

    @property
    def gained(self) -> int:
        return int((self.extended > self.original).sum())

    def means(self) -> tuple[float, float]:
        """Weighted mean score of (original, extended)."""
        return _mean(self.w * self.original), _mean(self.w * self.extended)

    def contrast(self, ratio: float = 1.0) -> Array:
        """``w (extended - ratio * original)`` ``(n,)``: its mean is 0 when the extended model keeps just ``ratio``."""
        return self.w * (self.extended - ratio * self.original)

    @cached_property
    def kinds(self) -> tuple[Array, Array, Array, Array]:
        """(weights, original, extended, counts) of the distinct pairs, each ``(m,)``."""
        rows, counts = np.unique(np.stack([self.w, self.original, self.extended], -1), axis=0, return_counts=True)
        return rows[:, 0], rows[:, 1], rows[:, 2], counts.astype(float)

    @cached_property
    def clustered(self) -> int | None:
        """Number of clusters; ``None`` where samples are independent."""
        return None if self.clusters is None else len(np.unique(self.clusters))

    @cached_property
    def _centred(self) -> tuple[Array, Array]:
        """Weighted centred scores (extended, original): sample by sample ``(2, n)``, summed by cluster ``(2, C)``."""
        before, after = self.means()
        rows = np.stack([self.w * (self.extended - after), self.w * (self.original - before)])
        labels = np.arange(self.n) if self.clusters is None else self.clusters
        _, index = np.unique(labels, return_inverse=True)
        return rows, np.stack([np.asarray(np.bincount(index, weights=row), float) for row in rows])

    def design_effect(self, ratio: float = 1.0) -> float:
        """How many times wider than of independent samples the variance of the mean is; never below 1."""
        return self.clustering(ratio)[0]

    def clustering(self, ratio: float = 1.0) -> tuple[float, float | None]:
        """(design effect, degrees of freedom) of the contrast; (1, ``None``) where samples are independent."""
        if self.clustered is None:
            return 1.0, None
        if self.clustered < 2:
            # One cluster says nothing about others: all its samples count as one.
            return float(self.n), 1.0
        samples, totals = self._centred
        mixed, scores = np.array([1.0, -ratio]), np.array([1.0, 1.0])
        own, prior = ((float(((mix @ samples) ** 2).sum()), mix @ totals) for mix in (mixed, scores))
        return float(cluster_effect(*own, *prior)), self.clustered - 1.0


def cluster_effect(naive: ArrayLike, totals: ArrayLike, score_naive: ArrayLike, score_totals: ArrayLike) -> Array:
    """Design effect ``(...)`` of a contrast: how many times wider the variance of its mean is; at least 1.

    ``naive`` ``(...)``: sum of squares of the centred contrast over samples, ``totals`` ``(..., C)`` its sums by
    cluster; then the same of the two models' added scores. The effect is the cluster-robust variance of a mean (Miller
    2024, section 2.2) over the naive one, with ``C / (C - 1)`` for few clusters. While few pairs differ it cannot be
    told (one loss is never clustered): then the scores' own effect counts as much as ``PRIOR`` discordant pairs.
    """
    t, s = np.asarray(totals, float), np.asarray(score_totals, float)
    plain, score_plain = np.asarray(naive, float), np.asarray(score_naive, float)
    few = t.shape[-1] / (t.shape[-1] - 1)
    robust, score_robust = (t**2).sum(-1) * few, (s**2).sum(-1) * few
    # What rounding leaves where nothing varies is no variance.
    with np.errstate(divide="ignore", invalid="ignore"):
        alone = np.where(plain > 1e-12, robust / plain, 1.0)
        scores = np.where(score_plain > 1e-12, np.maximum(1.0, score_robust / score_plain), 1.0)
    together = (robust + PRIOR * scores) / (plain + PRIOR)
    return np.asarray(np.maximum(1.0, np.maximum(alone, together)), float)


def _mean(values: Array) -> float:
    return math.fsum(values) / len(values)


def contrast_z(
    pairs: tuple[ArrayLike, ArrayLike, ArrayLike],
    counts: ArrayLike,
    ratio: float = 1.0,
    difference: float = 0.0,
    design_effect: ArrayLike = 1.0,
    freedom: ArrayLike | None = None,
) -> Array:
    """Statistic ``(...)`` of ``E[w (extended - ratio * original - difference)] = 0``, standard normal under it.

    ``pairs``: the distinct (weights, original, extended), each ``(m,)``; ``counts`` ``(..., m)``: how often each was
    seen; ``design_effect`` and ``freedom`` ``(...)``: as :meth:`Paired.clustering` gives them.
    """
    w, original, extended = (np.asarray(part, float) for part in pairs)
    effective = np.asarray(counts, float) / np.asarray(design_effect, float)[..., None]
    contrast = w * (extended - ratio * original - difference)
    possible = w.max() * np.array([-ratio - difference, 1 - difference])
    unseen = np.zeros((*effective.shape[:-1], 2))
    z = score_z(np.concatenate([contrast, possible]), np.concatenate([effective, unseen], -1))
    # One sample moves the sum by about its weight: on average, by samples' shares of it, the mean squared weight.
    # Where every pair differs, a loss can only become a gain: the sum moves in steps of two.
    part = CONTINUITY + (1 - CONTINUITY) * np.abs(extended - original)
    step = (effective * w**2 * part).sum(-1) / effective.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # a sum of all but 0 keeps nothing
        kept = np.clip(1 - step / np.abs((effective * contrast).sum(-1)), 0.0, 1.0)
        z = np.where(np.isfinite(z) & (z != 0), z * kept, z)
    if freedom is None:
        return z
    # The spread between clusters is itself estimated, from few: Student's t, carried over to the normal scale.
    tail = scipy.stats.t.sf(np.abs(z), np.asarray(freedom, float))
    return np.asarray(np.copysign(scipy.stats.norm.isf(tail), z), float)


def _z(paired: Paired, ratio: float, difference: float) -> float:
    *pairs, counts = paired.kinds
    return float(contrast_z((pairs[0], pairs[1], pairs[2]), counts, ratio, difference, *paired.clustering(ratio)))


def difference_interval(paired: Paired, confidence: float) -> tuple[float, float]:
    """Two-sided score interval of extended minus original.

    For binary scores of equal weight Tango's, with a continuity correction of 0.4 of a sample.
    """
    z = _quantile(confidence)
    before, after = paired.means()
    distance = partial(difference_z, paired)
    return _crossing(distance, -1.0, after - before, z), _crossing(distance, 1.0, after - before, -z)


def retention_interval(paired: Paired, confidence: float) -> tuple[float, float | None]:
    """Two-sided score interval of extended / original; ``None`` for an upper end that is unbounded.

    Inverts the test of ``E[extended - ratio * original] = 0``. An original that scores 0 everywhere bounds nothing:
    (0, ``None``).
    """
    before, after = paired.means()
    if before <= 0:
        return 0.0, None
    z = _quantile(confidence)
    distance = partial(retention_z, paired)
    point = after / before
    low = 0.0 if point <= 0 else _crossing(distance, 0.0, point, z)
    high = max(1.0, 2 * point)
    while distance(high) > -z:
        high *= 2
        if high > 1e6:
            return low, None
    return low, _crossing(distance, high, point, -z)


def retention_z(paired: Paired, ratio: float) -> float:
    """Score statistic of ``extended = ratio * original``; large and positive: more is retained."""
    return _z(paired, ratio, 0.0)


def difference_z(paired: Paired, difference: float) -> float:
    """Score statistic of ``extended - original = difference``."""
    return _z(paired, 1.0, difference)


Decision = Literal["pass", "regression", "inconclusive"]


def decide(low: float, high: float | None, estimate: float, limit: float, equal: float = 0.0) -> Decision:
    """The gate's rule on an interval ``low..high`` whose ends are one-sided bounds; ``high`` ``None``: unbounded.

    ``limit`` is the least value that is still good: minus the margin for a difference, the least retention for a
    ratio; ``equal`` is the value at which nothing is lost: 0 for a difference, 1 for a ratio. Pass: all of the
    interval is good. Regression: the estimate is not good and the loss is certain, or no part of it is good.
    """
    if any(math.isnan(value) for value in (low, estimate, limit, equal, 0.0 if high is None else high)):
        raise ValueError("a verdict needs numbers, not NaN")
    if low >= limit:
        return "pass"
    # An estimate that reaches the limit by counting (-2 of 100 at -.02) must not fall below it by rounding.
    if high is not None and ((estimate < limit - 1e-9 and high < equal) or high < limit):
        return "regression"
    return "inconclusive"


def _quantile(confidence: float) -> float:
    return float(scipy.stats.norm.ppf(0.5 + confidence / 2))


def _crossing(statistic: Callable[[float], float], far: float, near: float, level: float) -> float:
    """Where the statistic takes ``level`` between the estimate ``near`` (0 there) and ``far``; ``far`` if never."""

    @cache  # the root finder asks for its ends again
    def above(place: float) -> float:
        # Infinite at the bounds of the range, which the root finder cannot take.
        return min(abs(statistic(place)), 1e3) - abs(level)

    if far == near or above(far) <= 0:
        return far
    # Nearly linear in between: a probe close by tells where to look, and spares most steps of the root finder.
    inner, share = near, 1e-3
    for _ in range(60):
        outer = near + share * (far - near)
        excess = above(outer)
        if excess > 0 or share >= 1:
            break
        inner, share = outer, min(1.0, share * max(1.25, 1.05 * abs(level) / max(excess + abs(level), abs(level) / 50)))
    return float(scipy.optimize.brentq(above, inner, outer if excess > 0 else far, xtol=1e-13, rtol=1e-12))


def mcnemar(lost: int, gained: int) -> float:
    """Two-sided mid-p value of McNemar's test that ``lost`` and ``gained`` are equally likely (Fagerland 2013).

    1 where no pair is discordant.
    """
    pairs, fewer = lost + gained, min(lost, gained)
    if lost == gained:
        return 1.0
    return float(min(1.0, 2 * scipy.stats.binom.cdf(fewer, pairs, 0.5) - scipy.stats.binom.pmf(fewer, pairs, 0.5)))


def paired_t(differences: ArrayLike) -> float:
    """Two-sided p value that the mean difference is 0; 1 where all are 0, 0 where all are the same other number."""
    d = np.asarray(differences, float)
    if np.ptp(d) == 0:
        return 1.0 if len(d) < 2 or d[0] == 0 else 0.0
    return float(scipy.stats.ttest_1samp(d, 0.0).pvalue)


def changed(paired: Paired) -> tuple[float, str]:
    """(two-sided p value that anything changed, its test): McNemar's mid-p for binary scores, paired t for graded."""
    if paired.binary and paired.weights is None and paired.clusters is None:
        return mcnemar(paired.lost, paired.gained), "mcnemar mid-p"
    if paired.clusters is not None or paired.weights is not None:
        return float(2 * scipy.stats.norm.sf(abs(difference_z(paired, 0.0)))), "score"
    return paired_t(paired.extended - paired.original), "paired t"


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (1979), in the order given: a task is named at level a when its value is below a."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def required_n(spread: float, distance: float, confidence: float, power: float = 0.8) -> int | None:
    """Samples at which a one-sided test at ``confidence`` decides with probability ``power``; ``None`` if never.

    ``spread`` is the standard deviation of one sample's contrast (times the root of the design effect, where samples
    come in clusters), ``distance`` that of the true mean from the limit. Normal approximation, but never fewer than
    the score test needs when no pair differs at all: that nothing was seen of a rare loss proves little.
    """
    if distance == 0:
        return None
    quantile, gap = float(scipy.stats.norm.ppf(confidence)), min(1.0, abs(distance))
    normal = ((quantile + float(scipy.stats.norm.ppf(power))) * spread / gap) ** 2
    # The greater root of (n gap - CONTINUITY)^2 = quantile^2 n gap (1 - gap).
    half = CONTINUITY + quantile**2 * (1 - gap) / 2
    least = (half + math.sqrt(half**2 - CONTINUITY**2)) / gap
    return max(1, math.ceil(max(normal, least)))


def mean_tails(mean: ArrayLike, n: ArrayLike, target: float) -> tuple[Array, Array]:
    """Chance of a mean this low or lower, and of one this high or higher, if the true mean is ``target`` ``(...)``.

    ``mean`` and ``n`` ``(...)``: mean and number of independent scores in [0, 1]. The binomial tails of Clopper and
    Pearson (1934), which the beta distribution carries over to graded scores and to fractions of a sample.
    """
    size = np.asarray(n, float)
    right = np.clip(np.asarray(mean, float) * size, 0.0, size)
    # The beta distribution has no parameter 0; the tail is 1 there.
    low = scipy.special.betainc(np.maximum(size - right, 1e-12), right + 1, 1 - target)
    return low, scipy.special.betainc(np.maximum(right, 1e-12), size - right + 1, target)


def effective_range(scores: Mapping[int, Paired], threshold: float, confidence: float) -> tuple[int | None, int | None]:
    """(low, high): with ``confidence`` the true effective length of the extended model is one of ``low .. high``.

    ``scores``: for each length the samples of all tasks; ``threshold`` in (0, 1). The effective length is the largest
    length whose true mean exceeds the threshold, ``None`` if none does. ``low`` is the largest length whose mean is
    shown to lie above (Bonferroni over the lengths), ``high`` the largest whose mean is not shown to lie below.
    """
    each = (1 - confidence) / 2
    above, possible = [], []
    for length, paired in scores.items():
        effect, freedom = paired.clustering(0.0)
        # The samples of every task count as the fewest that a task has: one task alone may decide the mean.
        n = paired.n / paired.w.max() / effect
        low, high = (float(tail) for tail in mean_tails(paired.means()[1], n, threshold))
        if freedom is not None:
            low, high = (float(scipy.stats.t.sf(scipy.stats.norm.isf(tail), freedom)) for tail in (low, high))
        above += [length] if high <= each / len(scores) else []
        possible += [length] if low > each else []
    return max(above, default=None), max(possible, default=None)
