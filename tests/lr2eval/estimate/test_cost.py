from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr2eval.estimate.cost import Asked, Batch, Speed, kv_bytes, operations, read_weights, seconds
from lr2eval.method.train.plan import plan
from lr2eval.method.train.recipe import read_recipe
from lr2eval.model.shape import Shape

SHAPE = Shape(layers=3, hidden=64, intermediate=160, heads=4, kv_heads=2, head_dim=16, vocabulary=1000)
SPEED = Speed(matrix=1e9, attention=5e8, step=0.5, row=0.01, context=1e-5)


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


@given(st.integers(1, 64), st.integers(1, 4096), st.integers(0, 200))
def test_seconds_add_up(rows: int, width: int, new: int) -> None:
    batch = Batch(rows, width, new)
    matrix, attention = operations(SHAPE, rows * width, rows * width**2, rows)
    expected = matrix / 1e9 + attention / 5e8 + new * (0.5 + rows * (0.01 + 1e-5 * (width + new / 2)))
    assert seconds([batch], SHAPE, SPEED) == pytest.approx(expected)
    assert seconds([batch] * 3, SHAPE, SPEED) == pytest.approx(3 * expected)


def test_rows_of_unequal_length_make_the_whole_square() -> None:
    plain, padded = (seconds([Batch(4, 500, 0, each)], SHAPE, SPEED) for each in (False, True))
    assert padded - plain == pytest.approx(operations(SHAPE, 0, 4 * 500**2)[1] / 5e8)


@pytest.mark.parametrize(("width", "new", "reads"), [(100, 28, 1), (100, 29, 2), (128, 1, 2), (129, 50, 1)])
def test_an_answer_that_crosses_the_window_reads_its_prompt_twice(width: int, new: int, reads: int) -> None:
    decoding = new * (0.5 + 0.01 + 1e-5 * (width + new / 2))
    prefill = seconds([Batch(1, width, 0)], SHAPE, SPEED)
    head = operations(SHAPE, 0, 0, 1)[0] / 1e9
    expected = decoding + head + reads * (prefill - head)
    assert seconds([Batch(1, width, new)], SHAPE, SPEED, 128) == pytest.approx(expected)


def test_asked_counts() -> None:
    asked = Asked("ruler", "vt", 100, 3, [60, 70, 50], 30, 0, True)
    assert (asked.tokens, asked.longest) == (180, 100)
    assert Asked("mmlu", "a", None, 0, [], 0, 0, True).longest == 0
