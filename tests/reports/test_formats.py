"""Text that acts unseen becomes text that is seen."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from lr2eval.base.visible import short, visible
from lr2eval.reports import formats


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x7f", "\x85", "\u202e", "\u2066", "\u200b", "\ufeff", "\u2028",
                                       "\ud800", "\U000e0041"])  # fmt: skip
def test_unseen_characters_are_named(character: str) -> None:
    assert visible(f"a{character}b") == f"a⟨U+{ord(character):04X}⟩b"


@pytest.mark.parametrize("text", ["tab\tand\nnewline", "नमस्ते", "👩\u200d🚀", "שלום", "{{ 7 * 7 }}"])
def test_honest_text_stays(text: str) -> None:
    assert visible(text) == text


def test_floods_of_marks_are_counted_and_honest_marks_stay() -> None:
    assert visible("a" + "\u0336\u0489" * 50 + "b") == "a⟨100 combining marks⟩b"
    assert visible("e" + "\u0301" * 8) == "e" + "\u0301" * 8


def test_differences_always_carry_their_sign() -> None:
    shown = [formats.signed(x) for x in (1.25, -3.44, 0.04, -0.04, -0.0, None)]
    assert shown == ["+1.2", "\u22123.4", "0.0", "0.0", "0.0", "–"]


def test_shares_never_round_something_to_nothing() -> None:
    shares = [formats.share(x) for x in (0, 0.001, 0.5, 0.999, 1)]
    assert shares == ["0\u00a0%", "< 1\u00a0%", "50\u00a0%", "> 99\u00a0%", "100\u00a0%"]


def test_p_values_and_ratios() -> None:
    assert [formats.p_value(x) for x in (0.0004, 0.0123, None)] == ["< 0.001", "0.012", "–"]
    assert (formats.percent(0.98571), formats.percent(None), formats.level(0.9)) == ("98.6\u00a0%", "–", "90\u00a0%")


def test_wide_characters_take_two_columns() -> None:
    assert short("漢字漢字", 5) == "漢字…"
    assert short("abcde", 5) == "abcde"
    assert short("abcdef", 5) == "abcd…"


def test_finalize_leaves_our_own_markup_alone_and_shows_gaps() -> None:
    assert formats.finalize(Markup("<b>")) == Markup("<b>")
    assert formats.finalize(None) == "–"
    assert formats.finalize("a\x00") == "a⟨U+0000⟩"


def test_numbers() -> None:
    assert [formats.length(n) for n in (4096, 131072, 1000, 0, None)] == ["4k", "128k", "1,000", "0", "–"]
    assert [formats.score(x) for x in (71.26, -1e-15, 100.0, None)] == ["71.3", "0.0", "100.0", "–"]
    assert formats.count(14042) == "14,042"


def test_clips_are_marked_and_keep_the_right_end() -> None:
    assert formats.clip("abcdef", 4) == "abc…"
    assert formats.clip_start("abcdef", 4) == "…def"
    assert formats.clip("abcd", 4) == formats.clip_start("abcd", 4) == "abcd"


def test_names_break_after_underscores_and_stay_escaped() -> None:
    assert formats.breakable("a_<b>") == Markup("a_<wbr>&lt;b&gt;")


def test_facts_are_flat_and_in_order() -> None:
    nested = {"b": {"x": 1, "y": {"z": [1, 2]}}, "a": None, "e": {}, "t": True}
    assert list(formats.facts(nested)) == [("b.x", "1"), ("b.y.z", "[1, 2]"), ("a", "–"), ("e", "{}"), ("t", "yes")]


def test_task_names_lose_the_benchmark_in_front() -> None:
    assert formats.task("mmlu", "mmlu_anatomy") == "anatomy"
    assert formats.task("ruler", "vt") == "vt"
    assert formats.task("x", "x_") == "x_"
