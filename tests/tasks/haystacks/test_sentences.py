"""Our sentences are those of nltk's untrained Punkt splitter, which lm-eval brings along."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize.punkt import PunktSentenceTokenizer  # type: ignore[import-untyped]

from lr2eval.tasks.haystacks import python_docs, split

PIECES = st.sampled_from(
    [
        *("the", "The", "Mr.", "J.", "e.g.", "3.", "3.14", "-.5.", "1,000.", "U.S.", "end.", "Why?", "No!", "what?!"),
        *("...", "..", "wait...", ".", ". . .", "?", "!", '"', "'", ")", "(", '."', ".)", "end.)", '"Yes."', "a.b(c"),
        *("--", "end.--", "-", ",", ";", ":", "x,", "\u201cOh.\u201d", "\u2019", "\u00bb", "@me", "*star*.", "[1]."),
        *("", "\n", "\n\n", "\t", "\u00a0", "end.*", "é.", "É", "ß.", "٣.", "_.", "#tag.", "&", "{x.}", "`q.`"),
    ]
)


@given(st.lists(st.tuples(PIECES, st.sampled_from([" ", " ", " ", "", "\n", "  "])), max_size=14))
@settings(max_examples=500, deadline=None)
def test_equal_to_nltk(parts: list[tuple[str, str]]) -> None:
    text = "".join(piece + space for piece, space in parts)
    assert split(text) == PunktSentenceTokenizer().tokenize(text)


@given(st.text(alphabet="aB1.?!,;:-'\")( \n", max_size=40))
@settings(max_examples=500, deadline=None)
def test_equal_to_nltk_on_noise(text: str) -> None:
    assert split(text) == PunktSentenceTokenizer().tokenize(text)


def test_equal_to_nltk_on_prose() -> None:
    text = " ".join(python_docs.pieces())
    assert split(text) == PunktSentenceTokenizer().tokenize(text)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("No end", ["No end"]),
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ('He said "Go." Then left.', ['He said "Go."', "Then left."]),
        ("J. Smith paid 3. more", ["J. Smith paid 3. more"]),
        ("Mr. Smith waits... and waits.", ["Mr.", "Smith waits... and waits."]),
    ],
)
def test_examples(text: str, sentences: list[str]) -> None:
    assert split(text) == sentences
