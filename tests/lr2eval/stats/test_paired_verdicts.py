"""Tests of change, verdicts and sizes against closed forms, other libraries and numbers worked by hand."""

from __future__ import annotations

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from lr2eval.stats.paired import (
    Paired,
    changed,
    decide,
    difference_interval,
    difference_z,
    holm,
    mcnemar,
    paired_t,
    required_n,
)
from tests.lr2eval.stats.paired_samples import Z90, binary, counts, modest

# --- tests of "changed" ------------------------------------------------------------------------------------------


@modest
@given(lost=counts, gained=counts)
def test_mcnemar_is_statsmodels(lost: int, gained: int) -> None:
    expected = 1.0
    if lost + gained:
        expected = float(statsmodels_mcnemar([[5, lost], [gained, 5]], exact=True).pvalue)
    half = stats.binom.pmf(min(lost, gained), lost + gained, 0.5)
    assert mcnemar(lost, gained) == pytest.approx(min(1.0, expected - half) if lost != gained else 1.0, rel=1e-9)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


def test_mcnemar_by_hand() -> None:
    # 1 against 5: 2 (1 + 6) / 64 exact, less 6 / 64 for the mid-p.
    assert mcnemar(1, 5) == pytest.approx(8 / 64)
    assert mcnemar(0, 0) == 1.0


@modest
@given(seed=st.integers(0, 1000), n=st.integers(3, 60))
def test_paired_t_is_scipys(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    original, extended = rng.random(n), rng.random(n)
    assert paired_t(extended - original) == pytest.approx(float(stats.ttest_rel(extended, original).pvalue), rel=1e-9)


def test_paired_t_of_equal_differences() -> None:
    assert paired_t([0.0, 0.0]) == 1.0
    assert paired_t([0.5]) == 1.0
    assert paired_t([0.5, 0.5]) == 0.0


def test_changed_names_its_test() -> None:
    assert changed(binary(10, 1, 5, 10)) == (pytest.approx(8 / 64), "mcnemar mid-p")
    original, extended = np.array([0.1, 0.5, 0.9, 0.2]), np.array([0.2, 0.5, 0.8, 0.9])
    assert changed(Paired(original, extended)) == (
        pytest.approx(float(stats.ttest_rel(extended, original).pvalue)),
        "paired t",
    )
    clustered = Paired(original, extended, clusters=np.array([0, 0, 1, 2]))
    assert changed(clustered) == (pytest.approx(2 * stats.norm.sf(abs(difference_z(clustered, 0.0)))), "score")


@modest
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    with mock.patch("gc.collect"):  # statsmodels collects garbage in each call, half a second with all we have loaded
        theirs = multipletests(p_values, method="holm")[1].tolist()
    assert holm(p_values) == pytest.approx(theirs, abs=1e-12)


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


# --- verdict and size --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "estimate", "expected"),
    [
        (-0.009, 0.004, -0.002, "pass"),
        (-0.01, 0.0, -0.005, "pass"),
        (-0.009, -0.001, -0.005, "pass"),
        (0.001, 0.009, 0.005, "pass"),
        (-0.03, -0.001, -0.015, "regression"),
        (-0.03, -0.011, -0.02, "regression"),
        (-0.03, 0.0, -0.015, "inconclusive"),
        (-0.011, -0.001, -0.006, "inconclusive"),
        (-0.03, 0.02, -0.005, "inconclusive"),
    ],
)
def test_decide_on_a_margin_of_one_point(low: float, high: float, estimate: float, expected: str) -> None:
    assert decide(low, high, estimate, -0.01) == expected


@pytest.mark.parametrize(
    ("low", "high", "estimate", "expected"),
    [
        (0.986, 1.001, 0.99, "pass"),
        (0.985, None, 1.2, "pass"),
        (0.95, 0.999, 0.98, "regression"),
        (0.90, 0.98, 0.95, "regression"),
        (0.95, 1.01, 0.98, "inconclusive"),
        (0.98, 0.999, 0.99, "inconclusive"),
        (0.0, None, 0.5, "inconclusive"),
    ],
)
def test_decide_on_a_least_retention(low: float, high: float | None, estimate: float, expected: str) -> None:
    assert decide(low, high, estimate, 0.985, equal=1.0) == expected


def test_decide_on_an_estimate_just_at_the_limit() -> None:
    paired = binary(390, 10, 0, 100)
    before, after = paired.means()
    assert after - before < -0.02  # by rounding only
    low, high = difference_interval(paired, 0.9)
    assert high < 0
    assert decide(low, high, after - before, -0.02) == "inconclusive"


def test_decide_refuses_nan() -> None:
    with pytest.raises(ValueError, match="NaN"):
        decide(math.nan, 0.0, 0.0, -0.01)


@modest
@given(lost=counts, gained=counts, same=st.integers(1, 2000), margin=st.sampled_from([0.005, 0.01, 0.05]))
def test_pass_is_the_score_test_at_the_margin(lost: int, gained: int, same: int, margin: float) -> None:
    paired = binary(same, lost, gained, 0)
    low, high = difference_interval(paired, 0.9)
    verdict = decide(low, high, (gained - lost) / paired.n, -margin)
    z = difference_z(paired, -margin)
    if abs(z - Z90) > 1e-6:
        assert (verdict == "pass") == (z > Z90)


# Discordant share -> n for one point at 80 % power: two-sided 5 % and one-sided, to the nearest whole sample.
SIZES = [(0.03, 2355, 1855), (0.05, 3924, 3091), (0.10, 7849, 6183), (0.15, 11773, 9274), (0.20, 15698, 12365)]


@pytest.mark.parametrize(("share", "two_sided", "one_sided"), SIZES)
def test_required_n_of_known_sizes(share: float, two_sided: int, one_sided: int) -> None:
    assert required_n(math.sqrt(share), 0.01, 0.95) in (one_sided, one_sided + 1)
    assert required_n(math.sqrt(share), -0.01, 0.975) in (two_sided, two_sided + 1)


def test_required_n_unpaired() -> None:
    assert required_n(math.sqrt(2 * 0.65 * 0.35), 0.01, 0.975) in (35712, 35713)


def test_required_n_limits() -> None:
    assert required_n(0.3, 0.0, 0.95) is None
    assert required_n(0.3, 0.02, 0.95, power=0.95) > required_n(0.3, 0.02, 0.95)  # type: ignore[operator]


@pytest.mark.parametrize(("margin", "confidence"), [(0.01, 0.95), (0.05, 0.95), (0.01, 0.9), (0.3, 0.99)])
def test_required_n_when_no_pair_differs_is_where_the_gate_first_passes(margin: float, confidence: float) -> None:
    n = required_n(0.0, margin, confidence)
    assert n is not None
    for size, expected in ((n, "pass"), (n - 1, "inconclusive")):
        low, high = difference_interval(Paired(np.ones(size), np.ones(size)), 2 * confidence - 1)
        assert decide(low, high, 0.0, -margin) == expected
