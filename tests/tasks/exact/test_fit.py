from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lr2eval.errors import TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact.draft import Draft, places
from lr2eval.tasks.exact.fit import Fit, Near, TooSmallError, largest_fitting


class Lines:
    """A draw whose units are the letter x."""

    smallest = 1

    def __init__(self, largest: int | None = None) -> None:
        self.largest = largest

    def render(self, size: int) -> Draft:
        return Draft("x" * size, "", ("a",))


class FakeTokenizer(PromptTokenizer):
    """Counts a prompt of n letters by a function of n, and notes how often it was asked."""

    def __init__(self, tokens_of: Callable[[int], int]) -> None:
        self.name = "fake"
        self.chat = False
        self.tokens_of = tokens_of
        self.asked: list[int] = []

    def count_prompt(self, prompt: str, answer_prefix: str = "") -> int:
        self.asked.append(len(prompt))
        return self.tokens_of(len(prompt))


def fit(tokens_of: Callable[[int], int], budget: int, largest: int | None = None) -> tuple[Fit, FakeTokenizer]:
    tokenizer = FakeTokenizer(tokens_of)
    return largest_fitting(Lines(largest), tokenizer, budget), tokenizer


def test_an_additive_tokenizer_takes_few_whole_prompts() -> None:
    found, tokenizer = fit(lambda n: 7 + n, 1000)
    assert (found.size, found.tokens) == (993, 1000)
    assert tokenizer.asked == [1, 125, 993, 994]
    tokenizer.asked.clear()
    assert largest_fitting(Lines(), tokenizer, 1000, Near(990, 1.0)) == found
    assert tokenizer.asked == [990, 993, 994]


@settings(max_examples=200, deadline=None)
@given(
    per_unit=st.floats(0.2, 9.0),
    jitter=st.integers(0, 12),
    seed=st.integers(0, 99),
    budget=st.integers(40, 3000),
)
def test_result_fits_and_one_more_does_not(per_unit: float, jitter: int, seed: int, budget: int) -> None:
    """Also for tokenizers whose counts are neither additive nor even ascending."""

    def tokens_of(n: int) -> int:
        return 5 + int(per_unit * n) + Random(seed * 10_007 + n).randint(0, jitter)

    if tokens_of(1) > budget:
        with pytest.raises(TooSmallError):
            fit(tokens_of, budget)
        return
    try:
        found, tokenizer = fit(tokens_of, budget)
    except TaskError:  # a fifth of a token per unit: the guard against tokenizers that drop text
        assert per_unit < 1
        return
    assert tokens_of(found.size) == found.tokens <= budget < tokens_of(found.size + 1)
    assert len(tokenizer.asked) <= 30


def test_smallest_too_big() -> None:
    with pytest.raises(TooSmallError) as caught:
        fit(lambda n: 10 + n, 10)
    assert caught.value.tokens == 11
    with pytest.raises(TooSmallError):  # more tokens to generate than the length has
        fit(lambda n: 10 + n, -64)


def test_text_runs_out() -> None:
    found, _ = fit(lambda n: 7 + n, 1000, largest=50)
    assert found.size == found.available == 50


def test_units_without_tokens_end_in_an_error() -> None:
    with pytest.raises(TaskError, match=r"fake: .* drops text"):
        fit(lambda n: 5, 100)


@given(st.lists(st.floats(0, 1, exclude_max=True), max_size=12), st.integers(0, 30))
def test_places_are_distinct_and_in_range(fractions: list[float], extra: int) -> None:
    size = len(fractions) + extra
    found = places(fractions, size)
    assert found == sorted(set(found))
    assert len(found) == len(fractions)
    assert all(0 <= place < size for place in found)


def test_places_are_uniform_over_subsets() -> None:
    rng = Random(1)
    seen: dict[Any, int] = {}
    for _ in range(6000):
        subset = tuple(places([rng.random(), rng.random()], 4))
        seen[subset] = seen.get(subset, 0) + 1
    assert len(seen) == 6
    assert all(850 < count < 1150 for count in seen.values())
