from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from lr2eval.errors import BackendError
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.search.evolution import Evolution, RandomSearch
from lr2eval.method.search.space import Candidate, Space
from tests.method.search.spaces import holds

SPACE = Space(OriginalRope(1000.0, 64, 128), 2048, 14)
PUBLISHED = SearchConfig(model="m", target_length=2048)
SMALL = PUBLISHED.model_copy(
    update={"population": 16, "initial": 20, "iterations": 12, "parents": 8, "mutations": 4, "crossovers": 4}
)


def far(candidate: Candidate) -> float:
    """Distance to a hidden vector: 20, 20.5, 21 ..."""
    return sum((step / 100 - 20 - i / 2) ** 2 for i, step in enumerate(candidate.right))


def play(strategy: Any, score: Callable[[Candidate], float | None] = far) -> list[list[Candidate]]:
    rounds = []
    while strategy.stopped is None and (asked := strategy.ask()):
        rounds.append(asked)
        strategy.tell([score(each) for each in asked])
    return rounds


def test_published_number_of_evaluations() -> None:
    rounds = play(Evolution(SPACE, PUBLISHED))
    assert [len(asked) for asked in rounds] == [128] + [32] * 40
    asked = [candidate for each in rounds for candidate in each]
    assert len(set(asked)) == 1408, "nobody is asked twice"
    assert all(holds(SPACE, candidate) for candidate in asked)


def test_it_finds_what_it_looks_for_and_beats_random_search() -> None:
    evolution, random = Evolution(SPACE, PUBLISHED), RandomSearch(SPACE, PUBLISHED)
    rounds = play(evolution)
    assert evolution.stopped == "iterations"
    assert [len(asked) for asked in play(random)] == [len(asked) for asked in rounds]
    assert evolution.population[0].score < min(map(far, SPACE.seeds())) / 2
    assert evolution.population[0].score < random.population[0].score / 2
    # The best is the best of everything that was asked.
    assert evolution.population[0].score == min(far(each) for asked in rounds for each in asked)


def test_seed_decides_everything() -> None:
    one, two = play(Evolution(SPACE, SMALL)), play(Evolution(SPACE, SMALL))
    assert one == two
    other = SMALL.model_copy(update={"seed": 1})
    assert play(Evolution(SPACE, other))[1] != one[1]
    # Another split has random numbers of its own.
    assert play(Evolution(Space(SPACE.rope, 2048, 12), SMALL)) != one


def test_first_round_is_the_seeds_and_their_mutations() -> None:
    first = Evolution(SPACE, SMALL).ask()
    assert first[:8] == SPACE.seeds()
    for number in range(8, 20):
        same = sum(a == b for a, b in zip(first[number].right, first[number - 8].right, strict=True))
        assert same >= SPACE.size // 3


def test_parents_survive_whatever_their_children_are() -> None:
    evolution = Evolution(SPACE, SMALL)
    evolution.tell([far(each) for each in evolution.ask()])
    best = evolution.population[0]
    evolution.tell([1e9 for _ in evolution.ask()])
    assert evolution.population[0] == best


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_finite_score_is_discarded_and_counted(bad: float) -> None:
    evolution = Evolution(SPACE, SMALL)
    asked = evolution.ask()
    evolution.tell([bad, *(far(each) for each in asked[1:-1]), bad])
    assert evolution.discarded == 2
    kept = {each.candidate for each in evolution.population}
    assert not kept & {asked[0], asked[-1]}
    assert all(math.isfinite(each.score) for each in evolution.population)
    evolution.tell([bad for _ in evolution.ask()])  # a whole round of them: the parents go on
    assert evolution.discarded == 10


def test_all_of_them_is_an_error() -> None:
    evolution = Evolution(SPACE, SMALL)
    asked = evolution.ask()
    with pytest.raises(
        BackendError, match=r"split 14: none of 20 candidates has a finite perplexity.* --dtype float32"
    ):
        evolution.tell([math.nan for _ in asked])


def test_given_up_candidates_are_neither_parents_nor_discarded() -> None:
    evolution = Evolution(SPACE, SMALL)
    asked = evolution.ask()
    evolution.tell([None if number % 2 else far(each) for number, each in enumerate(asked)])
    assert evolution.discarded == 0
    assert {each.candidate for each in evolution.population} <= set(asked[::2])


def test_patience_stops_a_split_that_no_longer_gains() -> None:
    patient = SMALL.model_copy(update={"patience": 2})
    evolution = Evolution(SPACE, patient)
    assert len(play(evolution, lambda _: 1.0)) == 1 + 2
    assert evolution.iteration == 3
    assert evolution.stopped == "patience"
    # Gains below the least one do not count.
    tiny = iter(range(10_000))
    assert len(play(Evolution(SPACE, patient), lambda _: 1.0 - 1e-7 * next(tiny))) == 3
    large = iter(range(10_000))
    assert len(play(Evolution(SPACE, patient), lambda _: 1000.0 - next(large))) == 13


def test_an_exhausted_space_ends_the_search() -> None:
    tiny = Space(OriginalRope(10_000.0, 8, 100), 200, 3, grid=0.5)  # one factor out of 2, 2.5, 3, 3.5, 4
    evolution = Evolution(tiny, SMALL)
    assert evolution.stopped is None
    rounds = play(evolution, lambda candidate: candidate.right[0])
    assert evolution.stopped == "exhausted"
    assert sorted(c.right[0] for asked in rounds for c in asked) == [4, 5, 6, 7, 8]


def test_asking_twice_is_a_mistake() -> None:
    evolution = Evolution(SPACE, SMALL)
    evolution.ask()
    with pytest.raises(RuntimeError, match="before tell"):
        evolution.ask()
