from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from lr2eval.backends.prefix.families import LEAST_SAVED, Family, batches, families

_tokens = st.lists(st.integers(0, 2), max_size=7).map(tuple)
_rows = st.lists(st.tuples(_tokens, st.integers(1, 3), st.booleans()), max_size=12)


def _best(rows: Sequence[tuple[tuple[int, ...], int]], depth: int) -> int:
    """Most tokens that one prefix per row can save among rows that agree in ``depth`` tokens, by trying everything."""
    below: dict[object, list[tuple[tuple[int, ...], int]]] = {}
    for number, (tokens, length) in enumerate(rows):
        below.setdefault(tokens[depth] if len(tokens) > depth else ("ends", number), []).append((tokens, length))
    deeper = sum(_best(part, depth + 1) for key, part in below.items() if not isinstance(key, tuple))
    own = (len(rows) - 1) * depth
    return max(deeper, own if own >= LEAST_SAVED * sum(length for _, length in rows) else 0)


@given(_rows)
def test_families_share_what_they_say_and_save_the_most(rows: list[tuple[tuple[int, ...], int, bool]]) -> None:
    beginnings = [tokens for tokens, _, _ in rows]
    lengths = [len(tokens) + rest for tokens, rest, _ in rows]
    found = families(beginnings, lengths, [side for _, _, side in rows])
    members = [row for family in found for row in family.members]
    assert len(members) == len(set(members))
    for family in found:
        assert len(family.members) > 1
        assert family.prefix > 0
        assert len({beginnings[row][: family.prefix] for row in family.members}) == 1
        assert min(len(beginnings[row]) for row in family.members) >= family.prefix
        assert len({rows[row][2] for row in family.members}) == 1
        assert (len(family.members) - 1) * family.prefix >= LEAST_SAVED * sum(lengths[row] for row in family.members)
    expected = sum(
        _best([(tokens, n) for (tokens, _, s), n in zip(rows, lengths, strict=True) if s is side], 0)
        for side in (True, False)
    )
    assert sum((len(family.members) - 1) * family.prefix for family in found) >= expected


@given(_rows)
def test_the_order_of_rows_decides_nothing(rows: list[tuple[tuple[int, ...], int, bool]]) -> None:
    def as_sets(rows: list[tuple[tuple[int, ...], int, bool]]) -> Counter[object]:
        lengths = [len(tokens) + rest for tokens, rest, _ in rows]
        found = families([tokens for tokens, _, _ in rows], lengths, [side for _, _, side in rows])
        return Counter((family.prefix, tuple(sorted(rows[row] for row in family.members))) for family in found)

    assert as_sets(rows) == as_sets(sorted(rows))


def test_a_question_beats_the_shots_only_where_it_saves_more() -> None:
    shots, longer = [1] * 10, [2] * 30
    rows = [[*shots, 5 + n] for n in range(4)] + [[*shots, *longer, n] for n in range(2)]
    # Six rows over ten tokens save 50, two over forty 40.
    assert families(rows, [len(row) + 1 for row in rows], [0] * 6) == [Family(10, (0, 1, 2, 3, 4, 5))]
    rows.append([*shots, *longer, 9])
    # Now it is 60 and 80; the four that are left over save 30 more.
    found = families(rows, [len(row) + 1 for row in rows], [0] * 7)
    assert found == [Family(40, (4, 5, 6)), Family(10, (0, 1, 2, 3))]


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(2, 7)), max_size=5),
    st.lists(st.integers(1, 20), max_size=5),
    st.integers(1, 40),
)
def test_batches_hold_every_row_once_and_fit(shapes: list[tuple[int, int]], alone: list[int], most: int) -> None:
    lengths: list[int] = []
    found = []
    for prefix, count in shapes:
        found.append(Family(prefix, tuple(range(len(lengths), len(lengths) + count))))
        lengths += [prefix + 1 + i % 3 for i in range(count)]
    lengths += alone

    def fits(batch: Sequence[Family]) -> bool:
        return sum(f.prefix + sum(lengths[row] - f.prefix for row in f.members) for f in batch) <= most

    plan = batches(found, lengths, fits)
    assert sorted(row for batch in plan for family in batch for row in family.members) == list(range(len(lengths)))
    prefix_of = {row: family.prefix for family in found for row in family.members}
    for batch in plan:
        assert fits(batch) or sum(len(family.members) for family in batch) == 1 or len(batch) == 1
        for family in batch:
            assert len(family.members) > 1 or family.prefix == 0
            assert all(family.prefix in (0, prefix_of.get(row, 0)) for row in family.members)


def test_the_parts_of_a_large_family_follow_each_other() -> None:
    found = [Family(50, tuple(range(10))), Family(40, tuple(range(10, 20)))]
    lengths = [60 + i % 10 for i in range(20)]
    plan = batches(found, lengths, lambda batch: sum(len(family.members) for family in batch) <= 4)
    assert [[(family.prefix, len(family.members)) for family in batch] for batch in plan] == [
        [(50, 4)], [(50, 4)], [(50, 2)], [(40, 4)], [(40, 4)], [(40, 2)],
    ]  # fmt: skip
