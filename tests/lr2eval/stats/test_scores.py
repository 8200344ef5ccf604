from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binomtest

from lr2eval.stats.scores import RULER_LENGTHS, effective_length, mover_mean, t_interval, weighted_averages, wilson


@given(n=st.integers(1, 5000), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_wilson_equals_scipy(n: int, share: float, confidence: float) -> None:
    k = round(share * n)
    reference = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson(k / n, n, confidence) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_wilson_by_hand() -> None:
    # 8 of 10 (Wilson 1927; the worked value found in most textbooks): 0.490 .. 0.943
    low, high = wilson(0.8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_certain_scores_keep_an_open_interval(mean: float) -> None:
    low, high = wilson(mean, 5)
    assert low <= mean <= high
    assert high - low > 0.3


@pytest.mark.parametrize(("mean", "n"), [(0.5, 0), (1.2, 10), (-0.1, 10), (math.nan, 10)])
def test_wilson_refuses(mean: float, n: int) -> None:
    with pytest.raises(ValueError):
        wilson(mean, n)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 500)), min_size=1, max_size=20))
def test_mover_holds_the_mean_and_is_narrower_than_its_parts(parts: list[tuple[float, int]]) -> None:
    means, ns = [p[0] for p in parts], [p[1] for p in parts]
    low, high = mover_mean(means, ns)
    centre = math.fsum(means) / len(means)
    assert 0 <= low <= centre + 1e-12
    assert centre - 1e-12 <= high <= 1
    widest = max(h - lo for lo, h in (wilson(m, n) for m, n in parts))
    assert high - low <= widest + 1e-12


def test_mover_of_one_task_is_wilson() -> None:
    assert mover_mean([0.3], [40]) == pytest.approx(wilson(0.3, 40), abs=1e-12)


def test_ruler_weighted_averages_of_a_published_row() -> None:
    # The row 96.5 95.8 95.4 94.8 88.4 66.6 of upstream's README, which prints 85.5 and 93.7.
    means = dict(zip(RULER_LENGTHS, (96.5, 95.8, 95.4, 94.8, 88.4, 66.6), strict=True))
    assert RULER_LENGTHS == (4096, 8192, 16384, 32768, 65536, 131072)
    found = weighted_averages(means)
    assert found is not None
    assert [round(value, 1) for value in found] == [85.5, 93.7]
    assert weighted_averages({**means, 262144: 0.0}) == found
    assert effective_length(means) == 65536
    assert effective_length({4096: 85.6}) is None
    assert effective_length({}) is None
    del means[16384]
    assert weighted_averages(means) is None


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), confidence=st.sampled_from([0.8, 0.9, 0.95, 0.99])
)
def test_t_interval_equals_scipy(values: list[float], confidence: float) -> None:
    low, high = t_interval(values, confidence)
    assert low <= math.fsum(values) / len(values) <= high
    error = float(stats.sem(values))
    if error > 1e-6:
        wanted = stats.t.interval(confidence, len(values) - 1, loc=math.fsum(values) / len(values), scale=error)
        assert (low, high) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_t_interval_by_hand() -> None:
    # Mean 2, standard error 1 / sqrt(3), t(2; 0.975) = 4.3027.
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-5)
    with pytest.raises(ValueError, match="two values"):
        t_interval([1.0])
