"""Critical indices against the paper's own numbers and the definition."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr2eval.model.rope_facts import (
    below_bound,
    is_increasing,
    periods,
    real_index,
    rope_facts,
    split_index,
    theoretical_index,
)
from tests.method import published


# LLaMA3-8B and Phi3-mini are the paper's (35, 31); the others follow from equation 7.
@pytest.mark.parametrize(
    ("dim", "base", "window", "index", "tenth"),
    [
        (96, 1e4, 2048, 31, 19),
        (128, 5e5, 8192, 35, 24),
        (96, 1e4, 4096, 34, 22),
        (128, 1e4, 4096, 46, 30),
        (128, 1e4, 8192, 50, 34),
        (128, 1e6, 32768, 40, 29),
    ],
)
def test_published_theoretical_indices(dim: int, base: float, window: int, index: int, tenth: int) -> None:
    assert theoretical_index(dim, base, window) == index
    assert theoretical_index(dim, base, window, turns=10) == tenth


def test_periods_of_the_paper() -> None:
    phi3, llama3 = periods(96, 1e4), periods(128, 5e5)
    assert [round(phi3[i]) for i in (30, 31)] == [1987, 2407]
    assert [round(llama3[i]) for i in (34, 35)] == [6695, 8219]
    # In the paper's prose these are dimensions 8 and 48, counted from one.
    assert (int(phi3[7]), int(phi3[47])) == (24, 51861)


@given(st.sampled_from([32, 64, 96, 128]), st.floats(1e3, 1e7), st.integers(16, 1 << 20))
def test_it_is_the_first_pair_whose_period_reaches_the_window(dim: int, base: float, window: int) -> None:
    index = theoretical_index(dim, base, window)
    assert 2 * math.pi * base ** (2 * index / dim) >= window * (1 - 1e-9)
    assert index == 0 or 2 * math.pi * base ** (2 * (index - 1) / dim) < window * (1 + 1e-9)


def test_real_index_of_published_factors() -> None:
    llama = [21.81 ** (i / 33) for i in range(33)] + [21.81, 21.87]
    assert real_index(llama, 16) == 30
    phi4 = [32.03 ** (i / 31) for i in range(31)] + [32.03, 32.1]
    assert real_index(phi4, 32) == 31
    assert real_index(published.LLAMA3_LEFT + published.LLAMA3_RIGHT, 16) == 30
    assert real_index(published.PHI4_LEFT + published.PHI4_RIGHT, 32) == 31
    assert real_index([4.0] * 8, 4) == 0
    assert real_index([1.0] * 8, 2) is None
    assert real_index([], 2) is None


def test_split_of_published_factors() -> None:
    assert split_index(published.LLAMA3_LEFT + published.LLAMA3_RIGHT) == 33
    assert split_index(published.PHI4_LEFT + published.PHI4_RIGHT) == 31


@given(st.integers(4, 64), st.floats(1.5, 64), st.data())
def test_split_is_found_again(pairs: int, top: float, data: st.DataObject) -> None:
    split = data.draw(st.integers(2, pairs - 2))
    right = [top * 1.01**i for i in range(pairs - split)]
    left = [top ** (i / split) for i in range(split)]
    found = split_index(left + right)
    # Beyond the split the left rule holds only by accident (top^(1/split) = 1.01).
    assert found == split or math.isclose(top ** (1 / split), 1.01, rel_tol=1e-5)


@pytest.mark.parametrize(
    "factors",
    [[1.0] * 8, [4.0] * 8, [3 ** (i / 7) for i in range(8)], [1, 1, 1, 2, 3, 4, 4, 4], [1.0, 2.0], []],
    ids=["none", "pi", "ntk", "yarn", "two", "empty"],
)
def test_no_split_where_no_left_rule_was_used(factors: list[float]) -> None:
    assert split_index(factors) is None


def test_bound_and_order() -> None:
    assert below_bound([1, 3, 5, 3.9, 4], 4, 1) == (1, 3)
    assert below_bound([1, 3, 5], 4, 7) == ()
    assert is_increasing([1, 1, 2])
    assert not is_increasing([1, 2, 1.9])
    assert is_increasing([])


def test_facts_of_a_longrope_checkpoint() -> None:
    factors = [21.81 ** (i / 33) for i in range(33)] + [22.0] * 31
    rope = {"long_factor": factors, "rope_theta": 5e5}
    assert rope_facts("longrope", rope, 131072, 8192) == {"rope_scale": 16.0, "d_tcd": 35, "d_rcd": 30}
    assert rope_facts("longrope", rope | {"rope_theta": 1.0}, 131072, 8192)["d_tcd"] is None


def test_other_ropes_have_no_such_facts() -> None:
    assert set(rope_facts("yarn", {"factor": 4.0, "rope_theta": 1e4}, 64, 32).values()) == {None}
    assert set(rope_facts("default", {"rope_theta": 1e4}, 64, None).values()) == {None}
