from __future__ import annotations

from typing import Any

import pytest

from lr2eval.errors import UsageError
from lr2eval.tasks.niah.options import NiahOptions


def test_defaults() -> None:
    grid = NiahOptions()
    assert grid.depths == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert (grid.samples_per_cell, grid.needles, grid.distractors) == (5, 4, 4)


@pytest.mark.parametrize(
    ("value", "depths"),
    [
        (3, (0.0, 0.5, 1.0)),
        ("100,0,50", (0.0, 0.5, 1.0)),
        ([12.5, 12.5, 80], (0.125, 0.8)),
        ("33.3", (0.333,)),
        (0.5, (0.005,)),
    ],
)
def test_depths(value: Any, depths: tuple[float, ...]) -> None:
    assert NiahOptions(depths=value).depths == depths


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": 1}, "from 2 to 101"),
        ({"depths": True}, "percents"),
        ({"depths": "0,deep"}, "percents"),
        ({"depths": "0,101"}, "percents"),
        ({"depths": [-1]}, "percents"),
        ({"depths": []}, "percents"),
        ({"depths": "nan"}, "percents"),
        ({"samples_per_cell": 0}, "niah.samples_per_cell 0: must be greater than or equal to 1"),
        ({"samples_per_cell": "many"}, "must be a valid integer"),
        ({"samples_per_cell": True}, "valid integer"),
        ({"needles": 1}, "niah.needles 1: must be greater than or equal to 2"),
        ({"distractors": 33}, "niah.distractors 33: must be less than or equal to 32"),
        ({"repeat": "maybe"}, "niah.repeat 'maybe': must be a valid boolean"),
        ({"needels": 2}, "niah.needels: unknown option; did you mean niah.needles"),
    ],
)
def test_bad_options_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        NiahOptions(**options)
    assert "\n" not in str(caught.value)
