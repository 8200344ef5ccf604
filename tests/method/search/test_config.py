from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr2eval.errors import UsageError
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.search.config import SearchConfig, default_splits
from tests.method.published import LLAMA3, PHI4_MINI


def test_defaults_are_the_published_search() -> None:
    config = SearchConfig(model="m", target_length=131_072)
    assert (config.population, config.initial, config.iterations, config.rate) == (64, 128, 40, 0.3)
    assert (config.parents, config.mutations, config.crossovers, config.race) == (32, 16, 16, False)
    assert config.split_cost() == 14_080
    spaces = config.spaces(LLAMA3)
    assert [space.split for space in spaces] == [29, 31, 33, 35]
    assert (spaces[0].low, spaces[0].high, spaces[0].powers) == (1600, 3200, None)
    assert (config.depths, config.needles, config.distractors) == ("start", 1, 0)


def test_a_temperature_may_be_named() -> None:
    """The target is 16 windows of 8,192 tokens."""
    usual = math.sqrt(1 + math.log(16) / math.log(8192))
    for asked, expected in (("su", usual), (None, usual), ("yarn", 1 + 0.1 * math.log(16)), ("1.1", 1.1), (1.1, 1.1)):
        config = SearchConfig(model="m", target_length=131_072, attention_factor=asked)
        for space in config.spaces(LLAMA3):
            assert space.scaling(space.seeds()[0]).long_attention_factor == pytest.approx(expected), asked


def test_default_splits_stay_in_the_papers_range() -> None:
    assert default_splits(PHI4_MINI) == (28, 30, 32, 34)
    assert default_splits(OriginalRope(10_000.0, 8, 100)) == (1, 2)
    # Every pair turns inside the window: the last one is the highest split there is.
    assert max(default_splits(OriginalRope(10.0, 16, 100_000))) == 7


def test_lengths_and_splits_as_typed() -> None:
    config = SearchConfig.model_validate({"model": "m", "target_length": "128k", "splits": "27, 29"})
    assert (config.target_length, config.splits) == (131_072, (27, 29))
    assert SearchConfig.model_validate({"model": "m", "target_length": 9, "splits": 3}).splits == (3,)
    with pytest.raises(UsageError):
        SearchConfig.model_validate({"model": "m", "target_length": "x"})


def test_a_folder_belongs_to_what_decides_the_result() -> None:
    one = SearchConfig(model="a", target_length=4096, out=Path("x"), offline=True)
    assert one.settings() == SearchConfig(model="b", target_length=4096).settings()
    for change in ({"seed": 1}, {"race": True}, {"samples": 3}, {"repeat": True}, {"powers": (1.0, 2.0)}):
        other = SearchConfig.model_validate({"model": "a", "target_length": 4096, **change})
        assert other.settings() != one.settings()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parents": 65}, "65 parents cannot come from a population of 64"),
        ({"rate": 0.0}, "rate 0.0: must be greater than 0"),
        ({"initial": 0}, "initial 0: must be greater than or equal to 1"),
        ({"mutations": 0, "crossovers": 0}, "an iteration has no candidates"),
        ({"patience": 0}, "patience 0: must be"),
        ({"race_rungs": ()}, r"race_rungs is \[\]; give ascending"),
        ({"race_rungs": (3, 1)}, r"race_rungs is \[3, 1\]; give ascending"),
        ({"race_keep": 1.0}, "race_keep 1.0: must be less than 1"),
        ({"samples": 0}, "samples"),
        ({"strategy": "gradient", "splits": (3,), "race": True}, "gradient does not use splits, race; omit"),
        ({"strategy": "random", "steps": 3}, "random does not use steps; omit"),
        ({"samples": 4, "race": True, "race_rungs": (1, 4)}, "after 4 samples, so it needs more than the 4"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        SearchConfig.model_validate({"model": "m", "target_length": 4096, **changes})


@given(st.integers(1, 200), st.integers(2, 30), st.data())
def test_cost_of_a_race_is_what_it_takes(candidates: int, samples: int, data: Any) -> None:
    rungs = tuple(sorted(data.draw(st.sets(st.integers(1, samples - 1), min_size=1, max_size=3))))
    keep = data.draw(st.floats(0.05, 0.95))
    config = SearchConfig(model="m", target_length=4096, samples=samples, race=True, race_rungs=rungs, race_keep=keep)
    alive, cost = candidates, 0
    for sample in range(samples):
        if sample in rungs:
            alive = config.survivors(alive)
        cost += alive
    assert config.round_cost(candidates) == cost <= candidates * samples
