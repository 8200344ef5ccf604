from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lr2eval._checkpoint import Checkpoint
from lr2eval._estimate import EFFICIENCY, Speed, measure, seconds
from tests.lr2eval.test_scoring import shard

SPEED = Speed(flops=1e12, bandwidth=1e10)


@pytest.fixture
def checkpoint(toy_checkpoint: Path) -> Checkpoint:
    return replace(Checkpoint.open(toy_checkpoint), parameters=1_000_000, config={})


def test_choices_cost_prefill_only(checkpoint: Checkpoint) -> None:
    task = shard(length=None, n=10)
    expected = 10 * 2e6 * 600 / (1e12 * EFFICIENCY)
    assert seconds(checkpoint, [task], SPEED, 4) == pytest.approx(expected)


def test_generation_adds_reading_the_weights(checkpoint: Checkpoint) -> None:
    task = shard(length=1128, n=16, max_new_tokens=128)
    prefill = 16 * 2e6 * 1000 / (1e12 * EFFICIENCY)
    decode = (16 / 8) * 128 * 1e6 * 4 / (1e10 * EFFICIENCY)
    assert seconds(checkpoint, [task], SPEED, 4) == pytest.approx(prefill + decode)
    assert seconds(checkpoint, [task, task], SPEED, 4) == pytest.approx(2 * (prefill + decode))


def test_attention_grows_with_the_square(checkpoint: Checkpoint) -> None:
    wide = replace(checkpoint, parameters=0, config={"num_hidden_layers": 2, "hidden_size": 64})
    once, twice = (seconds(wide, [shard(length=n, n=1)], SPEED, 4) for n in (1000, 2000))
    assert twice == pytest.approx(4 * once)


def test_speeds_are_measured() -> None:
    speed = measure("cpu", "float32")
    assert speed.flops > 1e8
    assert speed.bandwidth > 1e8
