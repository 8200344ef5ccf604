"""Few samples: the effective length, and exact sums that show that no verdict claims more than it may."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import gammaln

from lr2eval.stats.paired import Array, Paired, contrast_z, effective_range, mean_tails
from tests.lr2eval.stats.paired_samples import Z90

RULER = 0.856
SIZES = [1, 2, 3, 5, 6, 8, 14, 20, 30]


def right(n: int, wrong: int = 0) -> Paired:
    scores = np.r_[np.zeros(wrong), np.ones(n - wrong)]
    return Paired(scores, scores)


# --- the tails ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 30])
def test_tails_of_binary_scores_are_binomial(n: int) -> None:
    k = np.arange(n + 1)
    low, high = mean_tails(k / n, n, RULER)
    assert low == pytest.approx(stats.binom.cdf(k, n, RULER), abs=1e-10)
    assert high == pytest.approx(stats.binom.sf(k - 1, n, RULER), abs=1e-10)


def test_tails_are_the_bounds_of_clopper_and_pearson() -> None:
    bounds = stats.binomtest(13, 17).proportion_ci(0.9, method="exact")
    assert float(mean_tails(13 / 17, 17, bounds.low)[1]) == pytest.approx(0.05)
    assert float(mean_tails(13 / 17, 17, bounds.high)[0]) == pytest.approx(0.05)


# --- the range ---------------------------------------------------------------------------------------------------


def test_eight_right_answers_show_no_effective_length() -> None:
    # .856 ** 8 = .29: a length at the threshold gives eight right answers in 29 % of runs.
    assert effective_range({4096: right(8), 8192: right(8)}, RULER, 0.95) == (None, 8192)


def test_how_many_right_answers_show_an_effective_length() -> None:
    # One length: .856 ** n <= .025 from n = 24 on. Two lengths share the error: .856 ** n <= .0125 from n = 29 on.
    for lengths, enough in ((1, 24), (2, 29)):
        assert math.ceil(math.log(0.025 / lengths) / math.log(RULER)) == enough
        for n, low in ((enough, 4096 * lengths), (enough - 1, None)):
            scores = {4096 * (i + 1): right(n) for i in range(lengths)}
            assert effective_range(scores, RULER, 0.95) == (low, 4096 * lengths)


def test_range_from_what_is_shown_to_what_is_not_excluded() -> None:
    scores = {4096: right(100), 8192: right(100, 14), 16384: right(100, 60)}
    assert effective_range(scores, RULER, 0.95) == (4096, 8192)
    assert effective_range({4096: right(100, 60), 8192: right(100, 90)}, RULER, 0.95) == (None, None)
    # A longer length may be effective though a shorter one is not, as RULER defines it.
    assert effective_range({4096: right(100, 60), 8192: right(100)}, RULER, 0.95) == (8192, 8192)


def test_more_confidence_gives_a_wider_range() -> None:
    scores = {4096: right(30), 8192: right(30, 11)}
    assert effective_range(scores, RULER, 0.95) == (4096, 4096)
    assert effective_range(scores, RULER, 0.999) == (None, 8192)


def test_a_task_with_few_samples_decides_as_few_samples_do() -> None:
    # Two tasks of equal weight, one of them with a single sample: the mean is no surer than two samples make it.
    scores = np.r_[0.0, np.ones(99)]
    weights = np.r_[50.0, np.full(99, 50 / 99)]
    assert effective_range({4096: Paired(scores, scores, weights)}, RULER, 0.95) == (None, 4096)
    assert effective_range({4096: Paired(scores, scores)}, RULER, 0.95) == (4096, 4096)


def test_samples_of_one_document_count_less() -> None:
    scores = np.r_[np.zeros(10), np.ones(20)]
    assert effective_range({4096: Paired(scores, scores)}, RULER, 0.95) == (None, None)
    documents = np.repeat(np.arange(3), 10)
    assert effective_range({4096: Paired(scores, scores, clusters=documents)}, RULER, 0.95) == (None, 4096)


# --- error rates by exact sums (all sizes, more settings: benchmarks/gate_power.py) ------------------------------


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("lengths", [1, 6])
def test_the_effective_length_is_wrong_in_at_most_five_percent(n: int, lengths: int) -> None:
    """At each end 2.5 %: each length's mean is just the threshold (none is effective), or just above (the last is)."""
    chance = stats.binom.pmf(np.arange(n + 1), n, RULER)
    # The other lengths are hopeless, which neither helps nor harms: only what is just at the threshold can be wrong.
    others = {i: right(n, n) for i in range(1, lengths)}
    found = [effective_range(others | {lengths: right(n, n - k)}, RULER, 0.95) for k in range(n + 1)]
    too_long = sum(p for p, (low, _) in zip(chance, found, strict=True) if low is not None)
    too_short = sum(p for p, (_, high) in zip(chance, found, strict=True) if high != lengths)
    assert too_long <= 0.025 / lengths
    assert too_short <= 0.025


def passes(n: int, limit: float, base: float, gained: float) -> float:
    """Chance that retention of just ``limit`` passes at confidence .95: sum over all outcomes of ``n`` binary pairs."""
    outcomes = np.array([
        (a, b, c, n - a - b - c) for a in range(n + 1) for b in range(n + 1 - a) for c in range(n + 1 - a - b)
    ], float)  # fmt: skip
    pairs: tuple[Array, Array, Array] = (np.ones(4), np.array([1.0, 1, 0, 0]), np.array([1.0, 0, 1, 0]))
    z = contrast_z(pairs, outcomes, limit)
    passed = (z >= Z90) & (outcomes[:, :2].sum(1) > 0)  # an original that scores 0 is never passed
    lost = gained + base * (1 - limit)
    shares = np.array([base - lost, lost, gained, 1 - base - gained])
    assert shares.min() > -1e-12
    log = gammaln(n + 1) - gammaln(outcomes + 1).sum(1) + outcomes @ np.log(shares.clip(1e-300))
    return float(np.exp(log[passed]).sum())


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("limit", [0.985, 0.9, 0.5])
def test_a_loss_of_just_the_limit_passes_in_at_most_five_percent(n: int, limit: float) -> None:
    for base, most in ((0.3, 0.1), (0.45, 0.3), (0.6, 0.3), (0.8, 0.2), (0.95, 0.01), (1.0, 0.0)):
        gained = min(most, base * limit)  # no more can be lost than the original has
        assert passes(n, limit, base, gained) <= 0.05
