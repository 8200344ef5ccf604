"""Names enter a figure as stand-ins only, and come out escaped and cut."""

from __future__ import annotations

from markupsafe import Markup

from lr2eval.reports.figures import named, stand_in


def test_names_are_put_in_escaped_and_cut() -> None:
    svg = Markup("<text>@0@</text><desc>x @0@</desc><text>@1@nnnnn</text>")
    found = named(svg, ["<b>&amp;", "a very long name of a rule"], 12)
    assert found == "<text>&lt;b&gt;&amp;amp;</text><desc>x @0@</desc><text>a very long…</text>"


def test_a_stand_in_leaves_room_for_the_longest_name() -> None:
    assert [stand_in(n, 6) for n in (0, 12)] == ["@0@nnn", "@12@nn"]
    assert named(Markup(f"<text>{stand_in(12, 14)}</text>"), [str(n) for n in range(13)], 14) == "<text>12</text>"
