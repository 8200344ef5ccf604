from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr2eval.errors import UsageError
from lr2eval.method.data.selection import MixtureCell, budget, draw, shares


def cell(bucket: int, source: int, tokens: int, upsample: float = 1.0, long: bool = True) -> MixtureCell:
    return MixtureCell(bucket, source, np.arange(1), tokens, upsample, long)


def test_without_shares_the_mixture_is_what_there_is() -> None:
    found = shares([cell(0, 0, 100, long=False), cell(1, 0, 300), cell(1, 1, 600)], None, None, "ab")
    assert found == pytest.approx([0.1, 0.3, 0.6])


def test_shares_of_buckets() -> None:
    cells = [cell(0, 0, 1000), cell(1, 0, 300), cell(1, 1, 600)]
    assert shares(cells, {0: 3, 1: 7}, None, "ab") == pytest.approx([0.3, 0.7 / 3, 1.4 / 3])


def test_upsampling_long_documents_keeps_the_mixture_of_sources() -> None:
    """Fu et al.: within a source the lengths move, between sources nothing does."""
    cells = [cell(0, 0, 80, long=False), cell(1, 0, 20, upsample=4), cell(0, 1, 50, long=False), cell(1, 1, 50)]
    found = shares(cells, None, {0: 2, 1: 1}, "ab")
    assert found[:2].sum() == pytest.approx(2 / 3)
    assert found[:2] == pytest.approx([1 / 3, 1 / 3])  # 80 and 4 x 20
    assert found[2:] == pytest.approx([1 / 6, 1 / 6])


@given(
    tokens=st.lists(st.integers(1, 10_000), min_size=6, max_size=6),
    of_buckets=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    of_sources=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_both_shares_hold_where_every_source_has_every_length(
    tokens: list[int], of_buckets: tuple[int, ...], of_sources: tuple[int, ...]
) -> None:
    cells = [cell(at // 2, at % 2, count) for at, count in enumerate(tokens)]
    found = shares(cells, dict(enumerate(of_buckets)), dict(enumerate(of_sources)), "ab")
    table = found.reshape(3, 2)
    assert table.sum(axis=1) == pytest.approx(np.array(of_buckets) / sum(of_buckets), abs=1e-3)
    assert table.sum(axis=0) == pytest.approx(np.array(of_sources) / sum(of_sources), abs=1e-3)


def test_shares_that_cannot_hold_together_are_refused() -> None:
    cells = [cell(0, 0, 100, long=False), cell(1, 1, 100)]
    with pytest.raises(UsageError, match=r"source 'a': its share of 50.0% is not possible .*\(30.0% is\)"):
        shares(cells, {0: 3, 1: 7}, {0: 1, 1: 1}, "ab")
    with pytest.raises(UsageError, match=r"source 'b': its share of 50.0% .*\(0.0% is\)"):  # nothing usable in it
        shares(cells[:1], None, {0: 1, 1: 1}, "ab")


def test_budget_is_what_the_scarcest_cell_allows() -> None:
    cells = [cell(0, 0, 300), cell(1, 0, 10_000), cell(2, 0, 700, upsample=2)]
    part = shares(cells, {0: 3, 1: 3, 2: 4}, None, "a")
    assert budget(cells, part) == 1000
    assert budget(cells[1:], np.array([0.3, 0.7])) == 2000  # 700 used twice


LENGTHS = st.lists(st.integers(2, 90), min_size=1, max_size=40)


@given(lengths=LENGTHS, wanted=st.integers(0, 5000), seed=st.integers(0, 50), long=st.booleans())
def test_drawn_without_replacement_to_the_token(lengths: list[int], wanted: int, seed: int, long: bool) -> None:
    length = np.array([0, *lengths])  # document 0 is of another cell
    documents = np.arange(1, len(length))
    total = int(length.sum())
    found = draw(MixtureCell(0, 0, documents, total, 1.0, long), length, wanted, seed)
    again = draw(MixtureCell(0, 0, documents, total, 1.0, long), length, wanted, seed)
    assert found.documents.tolist() == again.documents.tolist()
    times = np.bincount(found.documents, minlength=len(length))[1:]
    assert times.max() - times.min() <= 1  # nothing a second time before all were used once
    whole = length[found.documents]
    if long:
        assert found.lengths.sum() == wanted
        assert (found.lengths[:-1] == whole[:-1]).all()
    else:
        assert (found.lengths == whole).all()
        assert wanted - length.max() < found.lengths.sum() <= wanted
    assert found.cut == whole.sum() - found.lengths.sum()


def test_other_seeds_cells_and_turns_draw_in_other_orders() -> None:
    length = np.full(50, 10)
    cells = [MixtureCell(b, s, np.arange(50), 500, 1.0, True) for b, s in ((0, 0), (1, 0), (0, 1))]
    orders = [draw(each, length, 500, 0).documents.tolist() for each in cells]
    twice = draw(cells[0], length, 1000, 0).documents.tolist()
    orders += [draw(cells[0], length, 500, 1).documents.tolist(), twice[50:]]
    assert twice[:50] == orders[0]
    assert len({tuple(order) for order in orders}) == 5
