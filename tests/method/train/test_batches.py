"""Which rows a step takes, who computes them, and rows as tensors."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lr2eval.method.data.rows import IGNORED
from lr2eval.method.train.batches import BatchSchedule, deal, empty, micro_batch, piece, weights_of
from tests import tiny_segments


def plans() -> Any:
    return st.builds(
        BatchSchedule,
        kinds=st.lists(st.booleans(), min_size=1, max_size=30).map(tuple),
        global_batch=st.integers(1, 9),
        micro_batch=st.integers(1, 4),
        epochs=st.integers(1, 3),
        seed=st.integers(0, 99),
        steps=st.just(1),
    )


@given(plan=plans())
def test_an_epoch_takes_every_row_once(plan: BatchSchedule) -> None:
    total = len(plan.kinds) * plan.epochs
    steps = [plan.rows(step) for step in range(-(-total // plan.global_batch))]
    assert all(len(rows) == plan.global_batch for rows in steps[:-1])
    taken = [row for rows in steps for row in rows]
    for epoch in range(plan.epochs):
        assert sorted(taken[epoch * len(plan.kinds) : (epoch + 1) * len(plan.kinds)]) == list(range(len(plan.kinds)))
    assert plan.rows(len(steps)) == []


@given(plan=plans(), width=st.integers(1, 20))
def test_any_stretch_of_an_epoch_has_its_share_of_both_kinds(plan: BatchSchedule, width: int) -> None:
    rows = [plan.kinds[row] for row in replace(plan, global_batch=len(plan.kinds)).rows(0)]
    share = sum(rows) / len(rows)
    for begin in range(len(rows) - width + 1):
        assert abs(sum(rows[begin : begin + width]) - share * width) <= 2.0001


@given(plan=plans(), ranks=st.integers(1, 5), step=st.integers(0, 3))
def test_ranks_share_a_step_and_take_equally_often(plan: BatchSchedule, ranks: int, step: int) -> None:
    dealt = [deal(plan.micro_batches(step), rank, ranks) for rank in range(ranks)]
    assert len({len(mine) for mine in dealt}) == 1
    taken = [row for mine in dealt for group in mine if group for row in group]
    assert Counter(taken) == Counter(plan.rows(step))
    for group in (group for mine in dealt for group in mine if group):
        assert len({plan.kinds[row] for row in group}) == 1
        assert len(group) <= plan.micro_batch


def test_the_order_is_shuffled_by_seed_and_epoch() -> None:
    plan = BatchSchedule((True, False) * 20, 40, 1, 2, 0, 2)
    assert plan.rows(0) != plan.rows(1) != list(range(40))
    assert BatchSchedule((True, False) * 20, 40, 1, 2, 1, 2).rows(0) != plan.rows(0)
    assert BatchSchedule((True, False) * 20, 40, 1, 2, 1, 2).order_digest != plan.order_digest


def test_a_row_as_tensors() -> None:
    row = tiny_segments.short_row(0, (4, 1, 3), 2, weighted=True)
    batch = micro_batch([row])
    ids = row.input_ids.tolist()
    assert batch.input_ids.tolist() == [ids]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 0, 1, 2, 0, 1]]
    no = IGNORED
    # Nothing predicts a document's first token, and padding is predicted by nothing.
    assert batch.targets.tolist() == [[ids[1], ids[2], ids[3], no, no, ids[6], ids[7], no, no, no]]
    assert batch.weights is not None
    assert batch.weights[0, :-1].tolist() == pytest.approx(row.weights[1:].tolist())
    assert batch.lengths == (4,)
    counted = [1, 2, 3, 6, 7]
    assert weights_of([row]) == (pytest.approx(float(row.weights[counted].astype(np.float64).sum())), 0.0)


def test_weights_count_by_kind() -> None:
    rows = [tiny_segments.short_row(0, (4, 1, 3), 2), tiny_segments.long_row(0, 10), tiny_segments.long_row(1, 10)]
    assert weights_of(rows) == (5.0, 18.0)


def test_rows_without_weights_count_one_beside_weighted_ones() -> None:
    batch = micro_batch([tiny_segments.long_row(0, 6), tiny_segments.long_row(1, 6, weighted=True)])
    assert batch.weights is not None
    assert batch.weights[0, :-1].tolist() == [1.0] * 5


def test_kinds_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="one kind"):
        micro_batch([tiny_segments.long_row(0, 10), tiny_segments.short_row(0, (10,))])
    with pytest.raises(ValueError, match="one length"):
        micro_batch([tiny_segments.long_row(0, 10), tiny_segments.long_row(0, 11)])


@given(
    documents=st.lists(st.integers(1, 9), min_size=1, max_size=12), padding=st.integers(0, 9), parts=st.integers(1, 6)
)
def test_a_packed_row_is_cut_at_its_documents(documents: list[int], padding: int, parts: int) -> None:
    batch = micro_batch([tiny_segments.short_row(0, documents, padding, weighted=True)])
    pieces = [piece(batch, part, parts) for part in range(parts)]
    real = [each for each in pieces if bool((each.input_ids != 0).any())]
    for name in ("input_ids", "position_ids", "targets", "weights"):
        assert torch.equal(torch.cat([getattr(each, name) for each in real], 1), getattr(batch, name))
    assert all(int(each.position_ids[0, 0]) == 0 for each in pieces)
    assert all(each.lengths == batch.lengths for each in real)


def test_only_one_packed_row_is_cut() -> None:
    with pytest.raises(ValueError, match="packed row"):
        piece(micro_batch([tiny_segments.long_row(0, 8)]), 0, 2)
    with pytest.raises(ValueError, match="packed row"):
        piece(micro_batch([tiny_segments.short_row(0, (8,)), tiny_segments.short_row(1, (8,))]), 0, 2)


def test_an_empty_micro_batch_has_no_target() -> None:
    assert empty().targets.tolist() == [[IGNORED]]
