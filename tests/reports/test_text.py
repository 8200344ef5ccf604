"""Text that acts unseen becomes text that is seen."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from lr2eval.reports import _text


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x7f", "\x85", "\u202e", "\u2066", "\u200b", "\ufeff", "\u2028",
                                       "\ud800", "\U000e0041"])  # fmt: skip
def test_unseen_characters_are_named(character: str) -> None:
    assert _text.visible(f"a{character}b") == f"a⟨U+{ord(character):04X}⟩b"


@pytest.mark.parametrize("text", ["tab\tand\nnewline", "नमस्ते", "👩\u200d🚀", "שלום", "{{ 7 * 7 }}"])
def test_honest_text_stays(text: str) -> None:
    assert _text.visible(text) == text


def test_finalize_leaves_our_own_markup_alone_and_shows_gaps() -> None:
    assert _text.finalize(Markup("<b>")) == Markup("<b>")
    assert _text.finalize(None) == "–"
    assert _text.finalize("a\x00") == "a⟨U+0000⟩"


def test_numbers() -> None:
    assert [_text.length(n) for n in (4096, 131072, 1000, 0, None)] == ["4k", "128k", "1,000", "0", "–"]
    assert [_text.score(x) for x in (71.26, -1e-15, 100.0, None)] == ["71.3", "0.0", "100.0", "–"]
    assert _text.count(14042) == "14,042"


def test_clips_are_marked_and_keep_the_right_end() -> None:
    assert _text.clip("abcdef", 4) == "abc…"
    assert _text.clip_start("abcdef", 4) == "…def"
    assert _text.clip("abcd", 4) == _text.clip_start("abcd", 4) == "abcd"


def test_names_break_after_underscores_and_stay_escaped() -> None:
    assert _text.breakable("a_<b>") == Markup("a_<wbr>&lt;b&gt;")


def test_facts_are_flat_and_in_order() -> None:
    nested = {"b": {"x": 1, "y": {"z": [1, 2]}}, "a": None, "e": {}, "t": True}
    assert list(_text.facts(nested)) == [("b.x", "1"), ("b.y.z", "[1, 2]"), ("a", "–"), ("e", "{}"), ("t", "yes")]


def test_task_names_lose_the_benchmark_in_front() -> None:
    assert _text.task("mmlu", "mmlu_anatomy") == "anatomy"
    assert _text.task("ruler", "vt") == "vt"
    assert _text.task("x", "x_") == "x_"
