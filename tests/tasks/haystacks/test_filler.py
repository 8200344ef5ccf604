from __future__ import annotations

import hashlib

from lr2eval.tasks.haystacks import filler, load, split


def test_always_the_same_text() -> None:
    (text,) = filler.pieces()
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "fa14d57779417eab8221e87698252bf65a70f4b73cbc3eb6c216b5b2d5d319d1"
    ), "the demo's prompts are made of it"
    assert len(split(text)) == filler.SENTENCES


def test_is_found_by_name_and_is_no_published_text() -> None:
    haystack = load("demo-filler", None, offline=True)
    assert haystack.name == "demo-filler"
    assert haystack.facts["stand_in"] is True
    assert haystack.facts["comparable"] is False
