"""The score statistic, its intervals and clusters against closed forms, other libraries and numbers worked by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import optimize, special, stats
from statsmodels.regression.linear_model import OLS

from lr2eval.stats.paired import (
    Array,
    Paired,
    changed,
    decide,
    difference_interval,
    difference_z,
    retention_interval,
    retention_z,
    score_z,
)
from lr2eval.stats.scores import wilson
from tests.lr2eval.stats.paired_samples import Z90, binary, confidences, counts, modest


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


def _corrected(z: float, total: float, share: float) -> float:
    """0.4 of a sample, 1 where all differ, off the distance of the sum ``total``; ``share`` of the pairs differ."""
    return z * max(0.0, 1 - (0.4 + 0.6 * share) / abs(total)) if total else 0.0


def _corrected_tango_z(lost: float, gained: float, n: float, difference: float) -> float:
    return _corrected(_tango_z(lost, gained, n, difference), gained - lost - n * difference, (lost + gained) / n)


@modest
@example(lost=1, gained=1, same=1, difference=2.2250738585e-313)
@given(lost=counts, gained=counts, same=st.integers(1, 2000), difference=st.floats(-0.95, 0.95))
def test_score_z_is_tangos(lost: int, gained: int, same: int, difference: float) -> None:
    n = lost + gained + same
    if abs(difference) < 1e-3 and lost + gained == 0:
        return  # 0 / 0 in the closed form
    expected = _tango_z(lost, gained, n, difference)
    assert score_z([-1.0, 0.0, 1.0], [lost, same, gained], difference) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    assert difference_z(binary(same, lost, gained, 0), difference) == pytest.approx(
        _corrected_tango_z(lost, gained, n, difference), rel=1e-6, abs=1e-7
    )


@modest
@given(lost=counts, gained=counts, same=st.integers(1, 500), confidence=confidences)
def test_difference_interval_is_tangos(lost: int, gained: int, same: int, confidence: float) -> None:
    n = lost + gained + same
    z = stats.norm.ppf(0.5 + confidence / 2)
    point = (gained - lost) / n
    low, high = difference_interval(binary(0, lost, gained, same), confidence)
    # Just inside and outside of each end, the closed form lies on the two sides of the quantile.
    for end, sign in ((low, 1), (high, -1)):
        gap = 1e-7
        assert sign * (point - end) >= 0
        assert sign * _corrected_tango_z(lost, gained, n, end - sign * gap) > z
        if abs(end - point) > 1e-6:
            assert sign * _corrected_tango_z(lost, gained, n, end + sign * gap) < z


def test_one_discordant_pair_of_44_by_hand() -> None:
    # At -.0759 the quadratic is 88 q^2 - (1 + 87 * .0759) q = 0: q = .0864 and z = (1 + 44 * .0759 - .4 - .6 / 44) /
    # sqrt(44 (2 * .0864 - .0759 * 1.0759)) = 1.960.
    low, high = difference_interval(binary(43, 0, 1, 0), 0.95)
    assert (round(low, 4), round(high, 3)) == (-0.0759, 0.132)


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
    low, high = difference_interval(binary(60, 0, 0, 40), 0.9)
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
    share = (lost + gained) / sum(table)
    expected = _corrected(_nam_blackwelder_z(*table, ratio), both + gained - ratio * (both + lost), share)
    assert retention_z(binary(*table), ratio) == pytest.approx(expected, abs=2e-4)


def test_retention_by_hand() -> None:
    # Nothing lost or gained, 80 of 100 right. At ratio r the seen values are 1 - r (80) and 0 (20); the mass that
    # balances them lies on -r. With 1 + lambda u = 0 there lambda = 1 / r, so p(1-r) = .8 r, p(0) = .2 and
    # p(-r) = .8 (1 - r): variance .8 r (1 - r)^2 + .8 (1 - r) r^2 = .8 r (1 - r), z = sqrt(80 (1 - r) / r), times
    # 1 - .4 / 1.6 as the sum is 80 (1 - r) = 1.6 at r = .98.
    paired = binary(80, 0, 0, 20)
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
            if difference_z(binary(n - k, lost, k - lost, 0), -margin) >= Z90:
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
    least, most = retention_interval(binary(1, 0, 3, 96), 0.95)
    assert least > 0
    assert most is None or most > 10


def test_extended_without_a_hit() -> None:
    # All 50 contrasts are -r; the fit balances them with r / (1 + r) on 1: variance r, z = -(50 r - 1) / sqrt(50 r).
    low, high = retention_interval(Paired(np.ones(50), np.zeros(50)), 0.9)
    assert low == 0.0
    assert high is not None
    assert (50 * high - 1) / math.sqrt(50 * high) == pytest.approx(Z90, rel=1e-8)


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
