from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lr2eval.method.data.packing import join, pack

LENGTHS = st.lists(st.integers(1, 64), max_size=300)


@given(lengths=LENGTHS, target=st.integers(64, 400))
@example(lengths=[], target=64)
@example(lengths=[64] * 3, target=64)
@example(lengths=[60, 4, 60, 5, 64], target=64)
def test_packed_documents_are_whole_and_each_in_one_row(lengths: list[int], target: int) -> None:
    rows = list(pack(lengths, target))
    assert sorted(document for row in rows for document in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[document] for document in row) <= target for row in rows)
    # Best fit never opens a row while another has room: only one row can be at most half full.
    assert sum(2 * sum(lengths[document] for document in row) <= target for row in rows) <= 1


@given(
    kind=st.sampled_from(["uniform", "lognormal", "two humps"]),
    window=st.sampled_from([64, 100, 512]),
    scale=st.sampled_from([4, 8, 32]),
    seed=st.integers(0, 1000),
)
def test_less_than_two_percent_is_padding(kind: str, window: int, scale: int, seed: int) -> None:
    """Of many documents up to Lt in rows of at least 4 Lt whose lengths vary (of a few equal ones more can be lost)."""
    random = np.random.default_rng(seed)
    lengths = {
        "uniform": random.integers(8, window + 1, 4000),
        "lognormal": np.clip(random.lognormal(np.log(window / 4), 0.8, 4000), 8, window).astype(int),
        "two humps": np.clip(random.normal(random.choice([0.2, 0.9], 4000) * window, 0.1 * window), 8, window).astype(
            int
        ),
    }[kind]
    target = window * scale
    rows = list(pack(lengths.tolist(), target))
    padding = len(rows) * target - int(lengths.sum())
    assert padding < 0.02 * len(rows) * target + target  # the last row cannot be helped


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ([60, 4], [[0, 1]]),  # fits exactly
        ([20, 44, 40, 24, 64], [[4], [1, 0], [2, 3]]),  # longest first: four rows in another order
        ([40, 50, 14], [[1, 2], [0]]),  # the fullest row in which it fits, not the first
    ],
)
def test_best_fit_longest_first(lengths: list[int], rows: list[list[int]]) -> None:
    assert sorted(pack(lengths, 64)) == sorted(rows)


def test_rows_stay_mixed() -> None:
    """Only a window is sorted: the order of the documents lives on in that of the rows."""
    random = np.random.default_rng(0)
    rows = list(pack(random.integers(8, 65, 20_000).tolist(), 256))
    early = [np.mean(row) for row in rows[: len(rows) // 10]]
    assert np.mean(early) < 4000


def test_a_document_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="document 1 of 9 tokens in rows of 8"):
        list(pack([3, 9], 8))


@given(lengths=st.lists(st.integers(1, 500), max_size=60), target=st.integers(2, 120))
@example(lengths=[], target=10)
@example(lengths=[20, 10], target=10)
def test_joined_rows_hold_every_token_once(lengths: list[int], target: int) -> None:
    found = join(lengths, target)
    assert all(sum(count for _, _, count in row) == target for row in found.rows)
    assert sum(count for _, _, count in found.rest) < target
    tokens = Counter(
        (document, token)
        for row in [*found.rows, found.rest]
        for document, first, count in row
        for token in range(first, first + count)
    )
    assert tokens == Counter((document, token) for document, length in enumerate(lengths) for token in range(length))
    # What a document has in whole rows is alone in them.
    alone = Counter(row[0][0] for row in found.rows if len(row) == 1 and row[0][2] == target)
    assert all(alone[document] >= length // target for document, length in enumerate(lengths))


def test_cuts_are_counted() -> None:
    assert join([10, 10], 10).cuts == 0
    assert join([20], 10).cuts == 1
    assert join([25], 10).cuts == 2
    assert join([7, 7], 10).cuts == 1
