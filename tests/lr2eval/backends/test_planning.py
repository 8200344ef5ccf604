from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from lr2eval.backends.batching import BatchLimits, pack, pieces


@given(st.lists(st.integers(1, 30), max_size=6), st.integers(0, 20))
def test_pieces_are_the_cheapest_cut(widths: list[int], overhead: int) -> None:
    found = pieces(widths, overhead)
    assert sorted(number for piece in found for number in piece) == list(range(len(widths)))
    ordered = sorted(widths, reverse=True)
    assert [widths[number] for piece in found for number in piece] == ordered

    def cost(cuts: tuple[int, ...]) -> int:
        return sum((b - a) * ordered[a] + overhead for a, b in pairwise((0, *cuts, len(ordered))))

    if widths:
        inner = range(1, len(widths))
        cheapest = min(cost(cuts) for n in range(len(widths)) for cuts in combinations(inner, n))
        assert sum(len(piece) * max(widths[number] for number in piece) + overhead for piece in found) == cheapest


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2)), max_size=12), st.integers(1, 25))
def test_packing_a_batch_again_gives_that_batch(rows: list[tuple[int, int]], most: int) -> None:
    lengths, groups = [length for length, _ in rows], [group for _, group in rows]
    for batch in pack(lengths, groups, lambda batch: sum(lengths[row] for row in batch) <= most):
        assert len({groups[row] for row in batch}) == 1
        own = [lengths[row] for row in batch]
        assert sum(own) <= most or len(own) == 1
        again = pack(own, [groups[row] for row in batch], lambda part, own=own: sum(own[i] for i in part) <= most)
        assert again == [list(range(len(batch)))]


def test_limits() -> None:
    limits = BatchLimits(rows=4, tokens=100, memory=1000)
    assert limits.allow(4, 100, 1000)
    assert not limits.allow(5, 100, 1000)
    assert not limits.allow(4, 101, 1000)
    assert not limits.allow(4, 100, 1001)
    assert BatchLimits(rows=4, tokens=None, memory=1000).allow(4, 10**9, 1000)
