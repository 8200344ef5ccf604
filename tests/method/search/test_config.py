from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.search.config import SearchConfig, default_splits
from lr2eval.method.search.evolution import SearchSettings
from tests.method.published import LLAMA3, PHI4_MINI


def test_defaults_are_the_published_search() -> None:
    config = SearchConfig(model="m", target_length=131_072)
    assert config.plan().settings == SearchSettings()
    assert config.plan().racing is None
    assert config.plan().split_cost() == 14_080
    spaces = config.spaces(LLAMA3)
    assert [space.split for space in spaces] == [29, 31, 33, 35]
    assert (spaces[0].low, spaces[0].high, spaces[0].powers) == (1600, 3200, None)
    needles = config.needle_settings()
    assert (needles.length, needles.depths, needles.needles, needles.distractors) == (131_072, "start", 1, 0)


def test_default_splits_stay_in_the_papers_range() -> None:
    assert default_splits(PHI4_MINI) == (28, 30, 32, 34)
    assert default_splits(OriginalRope(10_000.0, 8, 100)) == (1, 2)
    # Every pair turns inside the window: the last one is the highest split there is.
    assert max(default_splits(OriginalRope(10.0, 16, 100_000))) == 7


def test_lengths_and_splits_as_typed() -> None:
    config = SearchConfig.model_validate({"model": "m", "target_length": "128k", "splits": "27, 29"})
    assert (config.target_length, config.splits) == (131_072, (27, 29))
    assert SearchConfig.model_validate({"model": "m", "target_length": 9, "splits": 3}).splits == (3,)
    with pytest.raises(ValidationError):
        SearchConfig.model_validate({"model": "m", "target_length": "x"})


def test_a_folder_belongs_to_what_decides_the_result() -> None:
    one = SearchConfig(model="a", target_length=4096, out=Path("x"), offline=True)
    assert one.settings() == SearchConfig(model="b", target_length=4096).settings()
    for change in ({"seed": 1}, {"race": True}, {"samples": 3}, {"repeat": True}, {"powers": (1.0, 2.0)}):
        other = SearchConfig.model_validate({"model": "a", "target_length": 4096, **change})
        assert other.settings() != one.settings()
