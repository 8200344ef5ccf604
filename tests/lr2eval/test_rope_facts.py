"""Critical indices against the paper's own numbers and the definition."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr2eval._rope_facts import real_index, rope_facts, theoretical_index


# LLaMA3-8B and Phi3-mini are the paper's (35, 31); the others follow from equation 7.
@pytest.mark.parametrize(
    ("dim", "base", "window", "index"),
    [
        (96, 1e4, 2048, 31),
        (128, 5e5, 8192, 35),
        (96, 1e4, 4096, 34),
        (128, 1e4, 4096, 46),
        (128, 1e4, 8192, 50),
        (128, 1e6, 32768, 40),
    ],
)
def test_published_theoretical_indices(dim: int, base: float, window: int, index: int) -> None:
    assert theoretical_index(dim, base, window) == index


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
    assert real_index([4.0] * 8, 4) == 0
    assert real_index([1.0] * 8, 2) is None
    assert real_index([], 2) is None


def test_facts_are_found_wherever_a_checkpoint_keeps_them() -> None:
    factors = [21.81 ** (i / 33) for i in range(33)] + [22.0] * 31
    wanted = {"rope_scale": 16.0, "d_tcd": 35, "d_rcd": 30}
    inside = {"long_factor": factors, "rope_theta": 5e5, "original_max_position_embeddings": 8192}
    assert rope_facts("longrope", inside, {"max_position_embeddings": 131072}) == wanted
    beside = {"max_position_embeddings": 131072, "rope_theta": 500000, "original_max_position_embeddings": 8192}
    assert rope_facts("longrope", {"long_factor": factors}, beside) == wanted
    # What nothing states is not guessed.
    assert rope_facts("longrope", {"long_factor": factors}, {}) == dict.fromkeys(wanted)
    del beside["rope_theta"]
    assert rope_facts("longrope", {"long_factor": factors}, beside) == wanted | {"d_tcd": None}


def test_other_ropes_have_no_such_facts() -> None:
    assert set(rope_facts("yarn", {"factor": 4.0}, {}).values()) == {None}
    assert set(rope_facts("default", {}, {"rope_theta": 1e4}).values()) == {None}
