"""Labels of figures keep off each other, whatever they are put beside."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from lr2eval.reports.search.labels import LETTER, apart, named, stacked

heights = st.lists(st.floats(0, 3), min_size=1, max_size=14)


@given(heights)
def test_labels_are_apart_inside_and_in_order(wanted: list[float]) -> None:
    found = apart(wanted, 0.17, 0.0, 3.0)
    assert all(-1e-9 <= place <= 3 + 1e-9 for place in found)
    pairs = sorted(zip(wanted, found, strict=True))
    for (low, one), (high, two) in itertools.pairwise(pairs):
        if low < high:
            assert two - one >= 0.17 - 1e-6
    placed = sorted(found)
    assert all(b - a >= 0.17 - 1e-6 for a, b in itertools.pairwise(placed))


@given(heights)
def test_who_has_room_stays(wanted: list[float]) -> None:
    placed = sorted(wanted)
    if all(b - a >= 0.17 for a, b in itertools.pairwise(placed)):
        assert apart(wanted, 0.17, 0.0, 3.0) == pytest.approx(wanted)


def test_equal_wishes_spread_around_the_place() -> None:
    assert apart([1.0, 1.0, 1.0], 0.2, 0.0, 3.0) == pytest.approx([0.8, 1.0, 1.2])
    assert apart([0.0, 0.0], 0.2, 0.0, 3.0) == pytest.approx([0.0, 0.2])
    assert apart([3.0, 3.0], 0.2, 0.0, 3.0) == pytest.approx([2.8, 3.0])


def test_too_many_share_what_there_is() -> None:
    found = apart([1.0] * 31, 0.2, 0.0, 3.0)
    assert sorted(found) == pytest.approx([0.1 * n for n in range(31)])


words = st.lists(st.tuples(st.integers(0, 63), st.integers(3, 26)), min_size=1, max_size=4, unique_by=lambda w: w[0])


@given(words)
def test_words_above_neither_overlap_nor_are_crossed(given_: list[tuple[int, int]]) -> None:
    labels = [(at * 5.2 / 64, "x" * letters) for at, letters in sorted(given_)]
    places = stacked(labels, 6.6)
    spans = [(begin, begin + LETTER * len(text), row) for (begin, row), (_, text) in zip(places, labels, strict=True)]
    for n, (begin, end, row) in enumerate(spans):
        assert 0 <= begin <= labels[n][0] + 1e-9
        assert end <= 6.6
        for m, (start, stop, other) in enumerate(spans):
            if m != n and row == other:
                assert stop <= begin or end <= start
            if m > n and other >= row:  # the line up to a higher label must pass beside this one
                assert not begin < labels[m][0] < end


def test_neighbours_stand_on_steps() -> None:
    assert [row for _, row in stacked([(1.0, "split = 27"), (1.1, "d_rcd = 28"), (1.2, "d_tcd = 29")], 6.6)] == [
        2,
        1,
        0,
    ]
    assert [row for _, row in stacked([(0.0, "a = 1"), (3.0, "b = 40")], 6.6)] == [0, 0]


def test_names_are_put_in_escaped_and_cut() -> None:
    svg = Markup("<text>@0@</text><desc>x @0@</desc><text>@1@</text>")
    found = named(svg, ["<b>&amp;", "a very long name of a rule"], 12)
    assert found == "<text>&lt;b&gt;&amp;amp;</text><desc>x @0@</desc><text>a very long…</text>"
