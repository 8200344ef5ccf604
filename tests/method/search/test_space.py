from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.search.space import PLAIN_POWER, Candidate, Space, cross, draw, mutate
from tests.method.published import LLAMA3, LLAMA3_LEFT, LLAMA3_RIGHT
from tests.method.search.spaces import holds

TARGET = 131_072


def some_space(**changes: Any) -> Space:
    return Space(**{"rope": LLAMA3, "target": TARGET, "split": 33, **changes})


SPACES = st.builds(
    lambda pairs, window, scale, split, powers, reach: Space(
        OriginalRope(10_000.0, 2 * pairs, window),
        int(window * scale),
        min(split, pairs - 1),
        powers=powers,
        reach=reach,
    ),
    pairs=st.integers(4, 64),
    window=st.sampled_from([128, 2048, 8192]),
    scale=st.floats(1.7, 64),
    split=st.integers(1, 63),
    powers=st.sampled_from([None, (1.0, 3.0)]),
    reach=st.sampled_from([2.0, 2.0, 4.5]),
)


def test_seeds_spread_over_the_reach() -> None:
    firsts = [each.right[0] * 0.01 for each in some_space(reach=4.0).seeds()]
    assert firsts == pytest.approx([16 + 6 * k for k in range(8)])


@given(SPACES, st.integers(0, 3))
def test_every_move_stays_in_the_space_and_is_new(space: Space, seed: int) -> None:
    rng = np.random.default_rng(seed)
    seen = set(space.seeds())
    assert all(holds(space, each) for each in seen)
    family = list(seen)
    for _ in range(6):
        one, two = (family[int(i)] for i in rng.integers(len(family), size=2))
        moves = (
            lambda one=one: mutate(space, one, rng, 0.3, seen),
            lambda one=one, two=two: cross(space, one, two, rng, 0.3, seen),
            lambda: draw(space, rng, seen),
        )
        for move in moves:
            child = move()
            if child is None:
                continue
            assert child not in seen
            assert holds(space, child)
            seen.add(child)
            family.append(child)
            scaling = space.scaling(child)
            right = scaling.long_factor[space.split :]
            assert min(right) >= space.scale - 1e-9
            assert max(right) <= space.reach * space.scale + 1e-9
            top = right[0]
            for i in range(space.split):
                want = top ** ((i / space.split) ** (child.power / 100))
                assert scaling.long_factor[i] == pytest.approx(want, rel=1e-12)
            assert child.power == PLAIN_POWER or space.powers is not None
            assert 1 <= child.power / 100 <= 3


def test_published_seeds() -> None:
    seeds = some_space().seeds()
    assert [each.right[0] for each in seeds[:7]] == [1600, 1800, 2000, 2200, 2400, 2600, 2800]
    assert seeds[0].right[:3] == (1600, 1610, 1620)
    # The last ones would leave [s, 2s] at the far end and are held below it.
    assert seeds[7].right[:2] == (3000, 3010)
    assert seeds[7].right[-3:] == (3198, 3199, 3200)
    assert {each.power for each in seeds} == {100}
    assert {each.power for each in some_space(powers=(1.0, 3.0)).seeds()} == {100, 200}


def test_published_factors_lie_in_the_space() -> None:
    right = tuple(round(100 * factor) for factor in LLAMA3_RIGHT)
    space = some_space()
    candidate = Candidate(33, right)
    assert holds(space, candidate)
    assert space.scaling(candidate).long_factor == pytest.approx(LLAMA3_LEFT + LLAMA3_RIGHT, abs=1e-6)
    assert not holds(space, Candidate(33, (*right[:-1], 3201)))
    assert not holds(space, Candidate(33, (1599, *right[1:])))
    assert not holds(space, Candidate(33, (right[1], *right[1:])))
    assert not holds(space, Candidate(33, right[1:]))


def test_last_factor_rises_by_at_most_four() -> None:
    space = some_space(split=60)
    low = Candidate(60, (1600, 1601, 1602, 1603))
    rng = np.random.default_rng(0)
    last = [child.right[-1] - child.right[-2] for _ in range(300) if (child := mutate(space, low, rng, 1.0, ()))]
    assert 300 < max(last) <= 400


def test_mutation_rate_and_one_gene_crossover() -> None:
    space, rng = some_space(), np.random.default_rng(1)
    parent = space.seeds()[2]
    children = [mutate(space, parent, rng, 0.3, ()) for _ in range(200)]
    changed = np.mean([sum(a != b for a, b in zip(c.right, parent.right, strict=True)) for c in children if c])
    assert 0.2 * space.size < changed < 0.3 * space.size  # a draw may give the old value
    one, two = children[0], children[1]
    assert one is not None
    assert two is not None
    child = cross(space, one, two, rng, 0.3, {one, two})
    assert child is not None
    assert all(c in (a, b) for a, b, c in zip(one.right, two.right, child.right, strict=True))
    assert cross(space, one, one, rng, 0.3, {one}) is None


def test_nothing_left_to_find_is_none() -> None:
    space = Space(OriginalRope(10_000.0, 8, 100), 200, 3, grid=1.0)  # one factor out of 2, 3, 4
    seen = {Candidate(3, (step,)) for step in (2, 3, 4)}
    rng = np.random.default_rng(0)
    assert draw(space, rng, seen) is None
    assert mutate(space, Candidate(3, (2,)), rng, 0.3, seen) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": 8192}, "not longer than the window of 8,192"),
        ({"split": 0}, "split 0: is not a pair from 1 to 63"),
        ({"split": 64}, "split 64: is not a pair"),
        ({"target": 8200}, "too coarse .* use a finer one"),
        ({"powers": (2.0, 1.0)}, "powers 2, 1: give two positive numbers"),
    ],
)
def test_impossible_spaces(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        some_space(**({"grid": 0.1} if changes.get("target") == 8200 else {}), **changes)


def test_the_temperature_is_a_gene_where_it_is_asked_for() -> None:
    plain = some_space()
    space = replace(plain, temperatures=(0.5, 1.5))
    seeds = space.seeds()
    assert [replace(seed, temperature=None) for seed in seeds] == plain.seeds()
    usual = plain.scaling(plain.seeds()[0]).long_attention_factor
    heats = [space.scaling(seed).long_attention_factor for seed in seeds]
    assert heats[::2] == [pytest.approx(usual, abs=0.005)] * 4
    assert len(set(heats[1::2])) == 4
    rng, seen = np.random.default_rng(2), set(seeds)
    mutants = [mutate(space, seeds[0], rng, 1.0, seen) for _ in range(200)]
    found = [space.scaling(each).long_attention_factor for each in mutants if each]
    assert 0.5 <= min(found) < 0.55
    assert 1.45 < max(found) <= 1.5
    children = [cross(space, seeds[0], seeds[1], rng, 1.0, seen) for _ in range(50)]
    assert {each.temperature for each in children if each} == {seeds[0].temperature, seeds[1].temperature}
    one = draw(space, rng, seen)
    assert one is not None
    assert one.temperature is not None
    with pytest.raises(ValueError, match="temperatures 0, 1: give two positive numbers"):
        replace(plain, temperatures=(0.0, 1.0))
