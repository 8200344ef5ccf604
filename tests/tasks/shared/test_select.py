from __future__ import annotations

import pytest

from lr2eval.errors import TaskError
from lr2eval.tasks.shared.select import limited, one_or_all


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, 10), (3, 3), (30, 10), (0.25, 3), (0.001, 1), (1.0, 1), (5.0, 5), (1, 1)]
)
def test_limited(limit: float | None, expected: int) -> None:
    assert limited(10, limit) == expected


@pytest.mark.parametrize("limit", [0, -1, 0.0])
def test_limit_must_be_positive(limit: float) -> None:
    with pytest.raises(TaskError, match="--limit"):
        limited(10, limit)


def test_one_or_all() -> None:
    assert one_or_all("b", None, ["x", "y"]) == ["x", "y"]
    assert one_or_all("b", "y", ["x", "y"]) == ["y"]
    with pytest.raises(TaskError, match=r"b:zebra: .*`lr2eval tasks`"):
        one_or_all("b", "zebra", ["x", "y"])
