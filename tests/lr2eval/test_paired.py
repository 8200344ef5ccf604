"""The paired statistics against closed forms, other libraries and numbers worked by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from lr2eval._paired import (
    Array,
    Paired,
    bootstrap_interval,
    bootstrap_means,
    changed,
    decide,
    difference_interval,
    difference_z,
    effective_length_shares,
    holm,
    independent_interval,
    mcnemar,
    mcnemar_exact,
    paired_t,
    required_n,
    retention_interval,
    retention_z,
    score_z,
)
from lr2eval._stats import wilson

Z90 = float(stats.norm.ppf(0.95))
counts = st.integers(0, 60)
modest = settings(deadline=None, max_examples=50)
confidences = st.sampled_from([0.8, 0.9, 0.95, 0.99])


def _binary(both: int, lost: int, gained: int, neither: int) -> Paired:
    original = np.repeat([1.0, 1.0, 0.0, 0.0], [both, lost, gained, neither])
    extended = np.repeat([1.0, 0.0, 1.0, 0.0], [both, lost, gained, neither])
    return Paired(original, extended)


@st.composite
def _graded(draw: st.DrawFn, least: int = 2) -> Paired:
    n = draw(st.integers(least, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from([1, 4, 1000]))
    original = rng.integers(0, steps + 1, n) / steps
    moved = rng.random(n) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    extended = np.where(moved, rng.integers(0, steps + 1, n) / steps, original)
    weights = rng.choice([0.5, 1.0, 2.0], n) if draw(st.booleans()) else None
    clusters = np.arange(n) // draw(st.integers(1, 4)) if draw(st.booleans()) else None
    return Paired(original, extended, None if weights is None else weights / weights.mean(), clusters)


# --- the score statistic -----------------------------------------------------------------------------------------


def _tango_z(lost: float, gained: float, n: float, difference: float) -> float:
    """Tango 1998, equations 4-7, for gained - lost."""
    a = 2 * n
    b = -gained - lost + (2 * n - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    share = (math.sqrt(b * b - 4 * a * c) - b) / (2 * a)
    return (gained - lost - n * difference) / math.sqrt(n * (2 * share + difference * (1 - difference)))


def _corrected(z: float, total: float) -> float:
    """0.4 of a sample off the distance of the sum ``total``."""
    return z * max(0.0, 1 - 0.4 / abs(total)) if total else 0.0


def _corrected_tango_z(lost: float, gained: float, n: float, difference: float) -> float:
    return _corrected(_tango_z(lost, gained, n, difference), gained - lost - n * difference)


@modest
@example(lost=1, gained=1, same=1, difference=2.2250738585e-313)
@given(lost=counts, gained=counts, same=st.integers(1, 2000), difference=st.floats(-0.95, 0.95))
def test_score_z_is_tangos(lost: int, gained: int, same: int, difference: float) -> None:
    n = lost + gained + same
    if abs(difference) < 1e-3 and lost + gained == 0:
        return  # 0 / 0 in the closed form
    expected = _tango_z(lost, gained, n, difference)
    assert score_z([-1.0, 0.0, 1.0], [lost, same, gained], difference) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    assert difference_z(_binary(same, lost, gained, 0), difference) == pytest.approx(
        _corrected_tango_z(lost, gained, n, difference), rel=1e-6, abs=1e-7
    )


@modest
@given(lost=counts, gained=counts, same=st.integers(1, 500), confidence=confidences)
def test_difference_interval_is_tangos(lost: int, gained: int, same: int, confidence: float) -> None:
    n = lost + gained + same
    z = stats.norm.ppf(0.5 + confidence / 2)
    point = (gained - lost) / n
    low, high = difference_interval(_binary(0, lost, gained, same), confidence)
    # Just inside and outside of each end, the closed form lies on the two sides of the quantile.
    for end, sign in ((low, 1), (high, -1)):
        gap = 1e-7
        assert sign * (point - end) >= 0
        assert sign * _corrected_tango_z(lost, gained, n, end - sign * gap) > z
        if abs(end - point) > 1e-6:
            assert sign * _corrected_tango_z(lost, gained, n, end + sign * gap) < z


def test_one_discordant_pair_of_44_by_hand() -> None:
    # At -.0753 the quadratic is 88 q^2 - (1 + 87 * .0753) q = 0: q = .08581 and z = (1 + 44 * .0753 - .4) /
    # sqrt(44 (2 * .08581 - .0753 * 1.0753)) = 1.959.
    low, high = difference_interval(_binary(43, 0, 1, 0), 0.95)
    assert (round(low, 4), round(high, 3)) == (-0.0753, 0.132)


@modest
@given(k=st.integers(0, 300), extra=st.integers(0, 300), confidence=confidences)
def test_one_proportion_is_wilsons(k: int, extra: int, confidence: float) -> None:
    n = k + extra
    if n == 0:
        return
    low, high = wilson(k / n, n, confidence)
    z = stats.norm.ppf(0.5 + confidence / 2)
    found = score_z(np.array([0.0, 1.0]), np.array([extra, k]), np.array([low, high]))
    if low > 0:
        assert found[0] == pytest.approx(z, rel=1e-6)
    if high < 1:
        assert found[1] == pytest.approx(-z, rel=1e-6)


def _end_without_discordant(n: int) -> float:
    """The greater root of (n d - .4)^2 = z^2 n d (1 - d)."""
    return float(max(np.roots([n * n + Z90**2 * n, -0.8 * n - Z90**2 * n, 0.16])))


def test_nothing_seen_to_differ_by_hand() -> None:
    # No discordant pair: the fit at -d puts the share d on -1, so z^2 = (n d - .4)^2 / (n d (1 - d)).
    low, high = difference_interval(_binary(60, 0, 0, 40), 0.9)
    assert high == pytest.approx(_end_without_discordant(100), abs=1e-9)
    assert low == pytest.approx(-high, abs=1e-9)
    assert high == pytest.approx(0.0337, abs=1e-4)


def test_score_z_takes_leading_axes() -> None:
    rng = np.random.default_rng(1)
    seen = rng.multinomial(200, [0.05, 0.9, 0.05], size=(7, 3)).astype(float)
    means = np.array([-0.02, 0.0, 0.1])
    found = score_z([-1.0, 0.0, 1.0], seen, means)
    assert found.shape == (7, 3)
    for i, j in np.ndindex(7, 3):
        assert found[i, j] == pytest.approx(float(score_z([-1.0, 0.0, 1.0], seen[i, j], means[j])), abs=1e-9)


def test_score_z_beyond_the_possible_is_infinite() -> None:
    assert score_z([-1.0, 0.0, 1.0], [1, 5, 1], [1.0, 2.0, -1.0]).tolist() == [-math.inf, -math.inf, math.inf]
    assert score_z([0.0], [3], 0.0) == 0.0


def _constrained(values: Array, seen: Array, mean: float) -> float:
    """z with the constrained likelihood maximised by a general optimiser over all probabilities."""
    seen = np.asarray(seen, float)
    n = seen.sum()

    def loss(p: Array) -> float:
        return -float(special.xlogy(seen, np.clip(p, 1e-300, None)).sum()) / n

    start = np.full(len(values), 1 / len(values))
    fit = optimize.minimize(
        loss,
        start,
        jac=lambda p: -seen / n / np.clip(p, 1e-12, None),
        method="SLSQP",
        bounds=[(0, 1)] * len(values),
        constraints=[
            {"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones(len(values))},
            {"type": "eq", "fun": lambda p: p @ (values - mean), "jac": lambda p: values - mean},
        ],
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    p = fit.x
    distance = (seen * (values - mean)).sum() / n
    return float(distance * np.sqrt(n / (p @ (values - mean) ** 2)))


@pytest.mark.parametrize("seed", range(12))
def test_graded_score_z_by_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.linspace(-1, 1, 9)
    # Some values unseen, on some seeds the extremes among them: the fit may have to put mass where nothing was seen.
    seen = rng.poisson(2.0, 9) * (rng.random(9) < 0.7)
    seen[4] += 3
    mean = float(rng.uniform(-0.6, 0.6))
    assert float(score_z(values, seen, mean)) == pytest.approx(_constrained(values, seen, mean), rel=2e-4, abs=1e-5)


# --- intervals ---------------------------------------------------------------------------------------------------


def _nam_blackwelder_z(both: int, lost: int, gained: int, neither: int, ratio: float) -> float:
    """Constrained likelihood of the 2 x 2 table by nested one-dimensional searches (Nam & Blackwelder 2002)."""
    n = both + lost + gained + neither

    def table(original: float, p11: float) -> Array:
        return np.array([p11, original - p11, ratio * original - p11, 1 - original - ratio * original + p11])

    def loss(original: float, p11: float) -> float:
        p = np.clip(table(original, p11), 1e-300, None)
        return -float(special.xlogy([both, lost, gained, neither], p).sum())

    def inner(original: float) -> optimize.OptimizeResult:
        bounds = (max(0.0, original + ratio * original - 1), min(original, ratio * original))
        return optimize.minimize_scalar(
            lambda p11: loss(original, p11), bounds=bounds, method="bounded", options={"xatol": 1e-11}
        )

    outer = optimize.minimize_scalar(
        lambda original: inner(original).fun, bounds=(0.0, min(1.0, 1 / ratio)), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    p = table(outer.x, inner(outer.x).x)
    variance = p[0] * (1 - ratio) ** 2 + p[1] * ratio**2 + p[2]
    return float(((both + gained) - ratio * (both + lost)) / math.sqrt(n * variance))


@pytest.mark.parametrize(
    ("table", "ratio"),
    [
        ((40, 3, 2, 5), 0.9),
        ((40, 3, 2, 5), 1.1),
        ((10, 8, 1, 6), 0.5),
        ((25, 0, 0, 25), 0.95),
        ((25, 4, 0, 3), 0.985),
        ((25, 0, 4, 3), 0.985),
        ((3, 2, 9, 2), 1.4),
    ],
)
def test_retention_z_is_nam_and_blackwelders(table: tuple[int, int, int, int], ratio: float) -> None:
    both, lost, gained, _ = table
    expected = _corrected(_nam_blackwelder_z(*table, ratio), both + gained - ratio * (both + lost))
    assert retention_z(_binary(*table), ratio) == pytest.approx(expected, abs=2e-4)


def test_retention_by_hand() -> None:
    # Nothing lost or gained, 80 of 100 right. At ratio r the seen values are 1 - r (80) and 0 (20); the mass that
    # balances them lies on -r. With 1 + lambda u = 0 there lambda = 1 / r, so p(1-r) = .8 r, p(0) = .2 and
    # p(-r) = .8 (1 - r): variance .8 r (1 - r)^2 + .8 (1 - r) r^2 = .8 r (1 - r), z = sqrt(80 (1 - r) / r), times
    # 1 - .4 / 1.6 as the sum is 80 (1 - r) = 1.6 at r = .98.
    paired = _binary(80, 0, 0, 20)
    assert retention_z(paired, 0.98) == pytest.approx(math.sqrt(80 * 0.02 / 0.98) * (1 - 0.4 / 1.6), rel=1e-9)
    low, high = retention_interval(paired, 0.9)
    assert math.sqrt(80 * (1 - low) / low) * (1 - 0.4 / (80 * (1 - low))) == pytest.approx(Z90, rel=1e-8)
    assert high is not None
    assert high > 1


@modest
@given(paired=_graded(), confidence=confidences)
def test_statistic_at_the_ends_is_the_quantile(paired: Paired, confidence: float) -> None:
    z = stats.norm.ppf(0.5 + confidence / 2)
    before, after = paired.means()
    low, high = difference_interval(paired, confidence)
    assert -1 <= low <= after - before + 1e-9
    assert after - before - 1e-9 <= high <= 1
    if low > -1 + 1e-6:
        assert difference_z(paired, low) == pytest.approx(z, rel=1e-4)
    if high < 1 - 1e-6:
        assert difference_z(paired, high) == pytest.approx(-z, rel=1e-4)
    least, most = retention_interval(paired, confidence)
    if before == 0:
        assert (least, most) == (0.0, None)
        return
    assert 0 <= least <= after / before + 1e-9
    if least > 1e-6:
        assert retention_z(paired, least) == pytest.approx(z, rel=1e-4)
    if most is not None:
        assert most >= after / before - 1e-9
        assert retention_z(paired, most) == pytest.approx(-z, rel=1e-4)
    # The two ask the same question where nothing is lost.
    assert retention_z(paired, 1.0) == pytest.approx(difference_z(paired, 0.0), abs=1e-9)


@modest
@given(paired=_graded(), seed=st.integers(0, 100))
def test_invariances(paired: Paired, seed: int) -> None:
    low, high = difference_interval(paired, 0.9)
    order = np.random.default_rng(seed).permutation(paired.n)
    shuffled = Paired(
        paired.original[order],
        paired.extended[order],
        None if paired.weights is None else paired.weights[order],
        None if paired.clusters is None else paired.clusters[order],
    )
    assert difference_interval(shuffled, 0.9) == pytest.approx((low, high), abs=1e-8)
    assert retention_interval(shuffled, 0.9)[0] == pytest.approx(retention_interval(paired, 0.9)[0], abs=1e-8)
    swapped = Paired(paired.extended, paired.original, paired.weights, paired.clusters)
    assert difference_interval(swapped, 0.9) == pytest.approx((-high, -low), abs=1e-8)
    ends = [difference_interval(paired, confidence) for confidence in (0.5, 0.8, 0.9, 0.99)]
    ratios = [retention_interval(paired, confidence) for confidence in (0.5, 0.8, 0.9, 0.99)]
    for inner, outer in pairwise(ends):
        assert outer[0] <= inner[0] + 1e-9
        assert inner[1] <= outer[1] + 1e-9
    for inner_ratio, outer_ratio in pairwise(ratios):
        assert outer_ratio[0] <= inner_ratio[0] + 1e-9
        assert math.inf if outer_ratio[1] is None else outer_ratio[1] >= (inner_ratio[1] or 0) - 1e-9


@modest
@given(paired=_graded())
def test_twice_the_data_narrows(paired: Paired) -> None:
    twice = Paired(
        np.tile(paired.original, 2),
        np.tile(paired.extended, 2),
        None if paired.weights is None else np.tile(paired.weights, 2),
        None if paired.clusters is None else np.concatenate([paired.clusters, paired.clusters + 1000]),
    )
    once, doubled = difference_interval(paired, 0.9), difference_interval(twice, 0.9)
    assert doubled[1] - doubled[0] < once[1] - once[0]


def test_weights_of_whole_numbers_move_the_mean_as_repeats_do() -> None:
    weighted = Paired(np.array([1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]), np.array([0.75, 1.5, 0.75]))
    repeated = Paired(np.array([1.0, 1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0, 0.0]))
    assert weighted.means() == pytest.approx(repeated.means())
    # but three samples are no four: the interval is wider, and stays among the possible differences.
    low, high = difference_interval(weighted, 0.9)
    also_low, also_high = difference_interval(repeated, 0.9)
    assert -1 <= low < also_low < also_high < high <= 1


def test_equal_weights_are_no_weights() -> None:
    rng = np.random.default_rng(3)
    original, extended = rng.random(50), rng.random(50)
    plain, weighted = Paired(original, extended), Paired(original, extended, np.ones(50))
    assert difference_interval(plain, 0.9) == difference_interval(weighted, 0.9)
    assert retention_interval(plain, 0.9) == retention_interval(weighted, 0.9)


@pytest.mark.parametrize("score", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("n", [1, 2, 500])
def test_all_equal_scores(score: float, n: int) -> None:
    paired = Paired(np.full(n, score), np.full(n, score))
    low, high = difference_interval(paired, 0.9)
    assert high == pytest.approx(-low, abs=1e-8)
    assert high == pytest.approx(_end_without_discordant(n), abs=1e-8)
    assert changed(paired)[0] == 1.0
    least, most = retention_interval(paired, 0.9)
    if score == 0:
        assert (least, most) == (0.0, None)
    else:
        assert 0 < least < 1
        assert most is None or most > 1


def _false_pass(n: int, discordant: float, margin: float) -> float:
    """Exact chance that a loss of just the margin passes at confidence .95: a sum over all tables."""
    total, lost_share = 0.0, (discordant + margin) / (2 * discordant)
    for k in range(int(stats.binom.ppf(1 - 1e-6, n, discordant)) + 1):
        for lost in range(k + 1):
            if difference_z(_binary(n - k, lost, k - lost, 0), -margin) >= Z90:
                total += stats.binom.pmf(k, n, discordant) * stats.binom.pmf(lost, k, lost_share)
    return float(total)


@pytest.mark.parametrize(("n", "discordant", "margin"), [(25, 0.1, 0.1), (54, 0.05, 0.05), (100, 0.05, 0.01)])
def test_false_pass_stays_below_the_level_where_tango_alone_would_not(n: int, discordant: float, margin: float) -> None:
    # 7.2 %, 6.3 % and 5.5 % without the continuity correction.
    assert _false_pass(n, discordant, margin) <= 0.05


def test_one_sample_decides_nothing() -> None:
    for original, extended in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.4)):
        paired = Paired(np.array([original]), np.array([extended]))
        low, high = difference_interval(paired, 0.9)
        assert decide(low, high, extended - original, -0.01) == "inconclusive"


def test_original_without_a_hit_bounds_no_ratio() -> None:
    assert retention_interval(Paired(np.zeros(5), np.ones(5)), 0.9) == (0.0, None)
    # One hit of many: bounded below, not above.
    least, most = retention_interval(_binary(1, 0, 3, 96), 0.95)
    assert least > 0
    assert most is None or most > 10


def test_extended_without_a_hit() -> None:
    # All 50 contrasts are -r; the fit balances them with r / (1 + r) on 1: variance r, z = -(50 r - .4) / sqrt(50 r).
    low, high = retention_interval(Paired(np.ones(50), np.zeros(50)), 0.9)
    assert low == 0.0
    assert high is not None
    assert (50 * high - 0.4) / math.sqrt(50 * high) == pytest.approx(Z90, rel=1e-8)


@pytest.mark.parametrize(
    ("original", "extended", "extra"),
    [
        ([math.nan, 1.0], [1.0, 1.0], {}),
        ([1.0, 1.0], [math.inf, 1.0], {}),
        ([1.0, 1.1], [1.0, 1.0], {}),
        ([1.0, 1.0], [1.0, -0.1], {}),
        ([1.0], [1.0, 1.0], {}),
        ([], [], {}),
        ([1.0, 0.0], [1.0, 1.0], {"weights": np.array([1.0, 2.0])}),
        ([1.0, 0.0], [1.0, 1.0], {"weights": np.array([2.0, 0.0])}),
        ([1.0, 0.0], [1.0, 1.0], {"weights": np.array([math.nan, 1.0])}),
        ([1.0, 0.0], [1.0, 1.0], {"weights": np.array([1.0])}),
        ([1.0, 0.0], [1.0, 1.0], {"clusters": np.array([1])}),
    ],
)
def test_refused(original: list[float], extended: list[float], extra: dict[str, Array]) -> None:
    with pytest.raises(ValueError, match=r"pair|scores must|weights|clusters"):
        Paired(np.array(original), np.array(extended), **extra)  # type: ignore[arg-type]


# --- clusters ----------------------------------------------------------------------------------------------------


def test_design_effect_by_hand() -> None:
    # Differences -1 -1 | 0 0: mean -1/2, squares sum to 1, cluster totals -1 and 1, so 2 * 2 / (2 - 1) over 1.
    paired = Paired(np.ones(4), np.array([0.0, 0, 1, 1]), clusters=np.array([7, 7, 9, 9]))
    assert paired.design_effect() == pytest.approx(4.0)
    # -1 0 | -1 0: totals are equal, clusters differ less than chance would have it; never below 1.
    assert Paired(np.ones(4), np.array([0.0, 1, 0, 1]), clusters=np.array([7, 7, 9, 9])).design_effect() == 1.0
    assert Paired(np.ones(4), np.array([0.0, 0, 1, 1])).design_effect() == 1.0
    assert Paired(np.ones(4), np.ones(4), clusters=np.array([1, 1, 2, 2])).design_effect() == 1.0
    assert Paired(np.ones(4), np.ones(4), clusters=np.ones(4, int)).design_effect() == 4.0
    assert Paired(np.ones(4), np.array([0.0, 0, 1, 1]), clusters=np.ones(4, int)).design_effect() == 4.0
    assert Paired(np.ones(4), np.ones(4)).clustering() == (1.0, None)


def test_design_effect_of_few_differences_leans_on_the_scores() -> None:
    # Scores 1 1 | 0 0 have the effect 4 of above. No pair differs: 5 * 4 / 5.
    labels, original = np.array([7, 7, 9, 9]), np.array([1.0, 1, 0, 0])
    assert Paired(original, original, clusters=labels).design_effect() == pytest.approx(4.0)
    # One lost: added scores 1 2 | 0 0, squares 11/4, totals 3/2 and -3/2, effect 9 / (11/4). Contrast -1 0 | 0 0,
    # squares 3/4, totals -1/2 and 1/2, robust 1.
    found = Paired(original, np.array([0.0, 1, 0, 0]), clusters=labels).design_effect()
    assert found == pytest.approx((1 + 5 * 36 / 11) / (3 / 4 + 5))


@modest
@given(seed=st.integers(0, 1000), size=st.integers(2, 6), ratio=st.sampled_from([0.9, 1.0, 1.2]))
def test_design_effect_is_the_cluster_robust_variance(seed: int, size: int, ratio: float) -> None:
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(15), size)
    original = np.clip(np.repeat(rng.random(15), size) + rng.normal(0, 0.1, len(clusters)), 0, 1)
    extended = np.clip(np.repeat(rng.random(15), size) + rng.normal(0, 0.1, len(clusters)), 0, 1)
    paired = Paired(original, extended, clusters=clusters)
    y = paired.contrast(ratio)
    fit = OLS(y, np.ones(len(y))).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    naive = y.var() / len(y)
    added = original + extended
    robust = OLS(added, np.ones(len(y))).fit(cov_type="cluster", cov_kwds={"groups": clusters}).cov_params()[0, 0]
    scores = max(1.0, float(robust) / (added.var() / len(y)))
    own, weight = float(fit.cov_params()[0, 0]) / naive, y.var() * len(y)
    expected = max(1.0, own, (own * weight + 5 * scores) / (weight + 5))
    assert paired.design_effect(ratio) == pytest.approx(expected, rel=1e-9)


def test_samples_of_one_document_are_not_independent() -> None:
    rng = np.random.default_rng(5)
    original = np.ones(200)
    extended = np.repeat((rng.random(20) > 0.2).astype(float), 10)
    alone, together = Paired(original, extended), Paired(original, extended, clusters=np.arange(200) // 10)
    low, high = difference_interval(alone, 0.9)
    wide_low, wide_high = difference_interval(together, 0.9)
    assert wide_high - wide_low > 2 * (high - low)
    # Student's t with 19 degrees of freedom on Tango's statistic of 200 / (10 * 20 / 19) = 19 samples.
    effective = 200 / together.design_effect()
    assert effective == pytest.approx(19.0)
    plain = _corrected_tango_z(19 * (1 - extended.mean()), 0, 19, -0.05)
    effect, freedom = together.clustering()
    assert (effect, freedom) == (together.design_effect(), 19.0)
    tail = stats.t.sf(abs(plain), freedom)
    assert difference_z(together, -0.05) == pytest.approx(math.copysign(stats.norm.isf(tail), plain), rel=1e-6)


# --- tests of "changed" ------------------------------------------------------------------------------------------


@modest
@given(lost=counts, gained=counts)
def test_mcnemar_is_statsmodels(lost: int, gained: int) -> None:
    expected = 1.0
    if lost + gained:
        expected = float(statsmodels_mcnemar([[5, lost], [gained, 5]], exact=True).pvalue)
    assert mcnemar_exact(lost, gained) == pytest.approx(expected, rel=1e-9)
    half = stats.binom.pmf(min(lost, gained), lost + gained, 0.5)
    assert mcnemar(lost, gained) == pytest.approx(min(1.0, expected - half) if lost != gained else 1.0, rel=1e-9)
    assert mcnemar(lost, gained) <= mcnemar_exact(lost, gained) + 1e-12
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


def test_mcnemar_by_hand() -> None:
    # 1 against 5: 2 (1 + 6) / 64 exact, less 6 / 64 for the mid-p.
    assert mcnemar_exact(1, 5) == pytest.approx(14 / 64)
    assert mcnemar(1, 5) == pytest.approx(8 / 64)
    assert mcnemar(0, 0) == mcnemar_exact(0, 0) == 1.0


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
    assert changed(_binary(10, 1, 5, 10)) == (pytest.approx(8 / 64), "mcnemar mid-p")
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
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist(), abs=1e-12)


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
    paired = _binary(390, 10, 0, 100)
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
    paired = _binary(same, lost, gained, 0)
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


# --- resampling, independent samples -----------------------------------------------------------------------------


def test_bootstrap_means_are_scipys() -> None:
    rng = np.random.default_rng(0)
    strata = [rng.integers(0, 5, 150) / 4, (rng.random(80) < 0.7).astype(float)]
    ours = bootstrap_means(strata, 20_000, seed=1)
    assert ours.shape == (20_000, 2)
    for column, stratum in enumerate(strata):
        theirs = stats.bootstrap(
            (stratum,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
        )
        quantiles = np.quantile(ours[:, column], [0.025, 0.975])
        # Both lie on the grid of means of 0/1 scores, whose step is 1/80.
        assert quantiles == pytest.approx(list(theirs.confidence_interval), abs=1.01 / 80)
        assert ours[:, column].std() == pytest.approx(stratum.std() / math.sqrt(len(stratum)), rel=0.03)
    assert abs(np.corrcoef(ours.T)[0, 1]) < 0.03


def test_bootstrap_interval_is_scipys() -> None:
    rng = np.random.default_rng(4)
    original, extended = rng.integers(0, 5, 300) / 4, rng.integers(0, 5, 300) / 4
    low, high = bootstrap_interval(Paired(original, extended), 0.9, resamples=20_000)
    theirs = stats.bootstrap(
        (extended - original,), np.mean, confidence_level=0.9, n_resamples=20_000, method="percentile",
        rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.004)
    # Whole documents: ten copies of each sample tell no more than one.
    copies = Paired(np.repeat(original, 10), np.repeat(extended, 10), clusters=np.repeat(np.arange(300), 10))
    assert bootstrap_interval(copies, 0.9, resamples=20_000) == pytest.approx((low, high), abs=0.004)


@modest
@given(a=st.integers(0, 80), b=st.integers(0, 80), rest=st.integers(1, 80), confidence=confidences)
def test_independent_interval_is_newcombes(a: int, b: int, rest: int, confidence: float) -> None:
    n, m = a + rest, b + 2 * rest
    original, extended = np.repeat([1.0, 0.0], [a, n - a]), np.repeat([1.0, 0.0], [b, m - b])
    expected = confint_proportions_2indep(b, m, a, n, method="newcomb", compare="diff", alpha=1 - confidence)
    assert independent_interval(original, extended, confidence) == pytest.approx(expected, abs=1e-8)


def test_pairing_narrows() -> None:
    paired = _binary(300, 10, 8, 182)
    low, high = difference_interval(paired, 0.9)
    loose_low, loose_high = independent_interval(paired.original, paired.extended, 0.9)
    assert high - low < 0.4 * (loose_high - loose_low)


# --- effective length --------------------------------------------------------------------------------------------


def test_effective_length_shares_by_hand() -> None:
    sure = {4096: [np.ones(10), np.ones(10)], 8192: [np.ones(10), np.zeros(10)]}
    assert effective_length_shares(sure, 0.856) == {4096: 1.0}
    assert effective_length_shares(sure, 0.4) == {8192: 1.0}
    assert effective_length_shares({4096: [np.zeros(10)]}, 0.856) == {None: 1.0}
    # A longer length may be effective though a shorter one is not, as RULER defines it.
    assert effective_length_shares({4096: [np.zeros(10)], 8192: [np.ones(10)]}, 0.856) == {8192: 1.0}


def test_effective_length_shares_of_a_coin() -> None:
    # Two samples, one right: the resampled mean exceeds .6 with probability 1/4 (both drawn are the right one).
    shares = effective_length_shares({4096: [[0.0, 1.0]]}, 0.6, resamples=20_000, seed=3)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares[4096] == pytest.approx(0.25, abs=0.015)
    # Two tasks, each so: the mean of both exceeds .6 at (1, 1/2), (1/2, 1), (1, 1): 1/8 + 1/8 + 1/16.
    shares = effective_length_shares({4096: [[0.0, 1.0], [0.0, 1.0]]}, 0.6, resamples=20_000, seed=3)
    assert shares[4096] == pytest.approx(5 / 16, abs=0.015)
