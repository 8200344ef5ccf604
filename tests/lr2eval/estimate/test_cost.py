from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lr2eval.errors import UsageError
from lr2eval.estimate.cost import Rates, batch_seconds, kv_bytes, measure_rates, operations, read_weights
from lr2eval.method.train.plan import plan
from lr2eval.method.train.recipe import read_recipe
from lr2eval.model.shape import Shape

SHAPE = Shape(layers=3, hidden=64, intermediate=160, heads=4, kv_heads=2, head_dim=16, vocabulary=1000)
RATES = Rates(operations=1e9, bandwidth=1e8, layer=0.01)


def test_operations_by_hand() -> None:
    layer = 64 * (64 + 2 * 32 + 64) + 3 * 64 * 160 + 2 * 64  # queries, keys and values, output; MLP; norms
    matrix, attention = operations(SHAPE, 10, 100, 1)
    assert matrix == 2 * 3 * layer * 10 + 2 * 1000 * 64
    assert attention == 2 * 3 * 64 * 100  # 2 products x 2 operations x half of the square
    assert read_weights(SHAPE) == 3 * layer + 64_000


def test_training_is_three_forwards() -> None:
    """The plan of `lr2eval train` and this one count the same arithmetic."""
    changes = {
        "name": "t", "original_window": 128, "target_window": 1024, "short_tokens": 4096, "long_tokens": 8192,
        "global_batch": 1,
    }  # fmt: skip
    made = plan(read_recipe(None, changes), SHAPE)
    squares = 4096 * 128 + 8192 * 1024
    assert made.operations == pytest.approx(3 * sum(operations(SHAPE, 12_288, squares, 12_288)), rel=1e-3)  # norms
    assert made.operations_attention == 3 * operations(SHAPE, 0, squares)[1]


def test_keys_and_values() -> None:
    assert kv_bytes(SHAPE, 2) == 2 * 3 * 2 * 16 * 2
    llama = Shape(layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, head_dim=128, vocabulary=128256)
    assert kv_bytes(llama, 2) == 128 * 1024


def decoding(rows: int, width: int, new: int) -> float:
    """Seconds of the answers: every step reads the weights once and the cache of each row."""
    read = 4 * read_weights(SHAPE) + rows * (width + new / 2) * kv_bytes(SHAPE, 4)
    return new * (read / 1e8 + 2 * rows * read_weights(SHAPE) / 1e9 + 3 * 0.01)


@given(st.integers(1, 64), st.integers(1, 4096), st.integers(0, 200))
def test_seconds_of_prompts_and_answers(rows: int, width: int, new: int) -> None:
    prompts = sum(operations(SHAPE, rows * width, rows * width**2, rows)) / 1e9 + 3 * 0.01
    assert batch_seconds(SHAPE, 4, RATES, rows, width, new) == pytest.approx(prompts + decoding(rows, width, new))


@pytest.mark.parametrize(("width", "new", "reads"), [(100, 28, 1), (100, 29, 2), (128, 1, 2), (129, 50, 1)])
def test_an_answer_that_crosses_the_window_reads_its_prompt_twice(width: int, new: int, reads: int) -> None:
    head = operations(SHAPE, 0, 0, 1)[0] / 1e9
    prompt = batch_seconds(SHAPE, 4, RATES, 1, width, 0) - head
    expected = decoding(1, width, new) + head + reads * prompt
    assert batch_seconds(SHAPE, 4, RATES, 1, width, new, 128) == pytest.approx(expected)


def test_rates_are_measured_and_no_random_state_is_spent() -> None:
    state = torch.random.get_rng_state()
    found = measure_rates("float32", "cpu")
    assert 1e8 < found.operations < 1e14
    assert 1e7 < found.bandwidth < 1e13
    assert found.layer > 0
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_torch_cannot_use_is_named() -> None:
    with pytest.raises(UsageError, match=r"--device cuda: torch cannot use it here \(.*\); `lr2eval doctor`"):
        measure_rates("float32", "cuda")
