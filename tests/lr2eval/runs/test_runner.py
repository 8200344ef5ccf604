from __future__ import annotations

import pytest

from lr2eval.errors import RunFailedError
from lr2eval.runs.runner import _check_length
from lr2eval.runs.scoring import scored_samples
from tests.lr2eval.runs.test_scoring import DETAILS, record, shard


def test_a_sample_longer_than_its_length_is_no_result() -> None:
    long, fits = shard(length=102, max_new_tokens=3), shard(length=103, max_new_tokens=3)
    _check_length(fits, scored_samples(fits, [record(0)], DETAILS, "generate_until", 0))  # 100 tokens + 3 new ones
    with pytest.raises(RunFailedError, match=r"ruler/vt@102: the prompts of samples \[0\] have more than 99 tokens"):
        _check_length(long, scored_samples(long, [record(0)], DETAILS, "generate_until", 0))


def test_tasks_without_a_length_may_be_of_any() -> None:
    free = shard(length=None)
    _check_length(free, scored_samples(free, [record(0)], DETAILS, "generate_until", 0))
