"""The tiny retrieval models as a subject: their made-up language, rows for training, questions, samples of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tiny_language as language
import tiny_search
from reproduction.cells import most
from reproduction.measure import Test

from lr2eval.method.data.rows import Segment
from lr2eval.method.search.needles import Sample

REST = 0.02
"""Weight of a word that answers nothing; the answers have 1."""
_PAIRS = {"many": (48, 12), "few": (4, 4), "crowd": (100, 20)}
_EVALUATION, _TRAINING, _SEARCH = 424_242, 5, 1_000
"""Streams of random numbers; no two share a document."""


def short_row(rng: np.random.Generator, window: int, target: int) -> Segment:
    """Documents as the model was pre-trained on, one after the other."""
    return _row([language.document(rng, window) for _ in range(target // window)], long=False)


def long_row(rng: np.random.Generator, target: int) -> Segment:
    """One document full of pairs and questions about them from any distance."""
    return _row([language.full_recall(rng, target)], long=True)


def rows(seed: int, count: int, window: int, target: int, *, long_only: bool) -> list[Segment]:
    """As many rows either way: half of each kind, or long ones alone."""
    rng = np.random.default_rng([seed, _TRAINING])
    return [
        long_row(rng, target) if long_only or number % 2 else short_row(rng, window, target) for number in range(count)
    ]


def _row(parts: Sequence[language.Document], *, long: bool) -> Segment:
    answers = np.concatenate([part.answers for part in parts])
    return Segment(
        long=long,
        input_ids=np.concatenate([part.words for part in parts]),
        document_lengths=tuple(len(part.words) for part in parts),
        padding=0,
        weights=np.maximum(answers, REST).astype(np.float32),
    )


def question(document: language.Document, *, at_end: bool = False) -> Test:
    """A document as a test; ``at_end``: all its questions follow its pairs, so each has a depth."""
    words, asked = document.words, np.flatnonzero(document.answers == 1)
    depths: tuple[float, ...] = ()
    if at_end:
        text = words[: asked[0] - 2]
        stated = {int(word): place for place, word in enumerate(text)}  # a key stands there once
        depths = tuple(stated[int(words[place - 1])] / len(text) for place in asked)
    return Test(words, tuple((int(place),) for place in asked), depths)


class Tiny:
    """128 to 2048 words; see :mod:`tiny_language`."""

    name = "tiny"

    def __init__(self, own: Mapping[str, Any]) -> None:
        self._own = own

    def rows(self, seed: int, *, long_only: bool) -> list[Segment]:
        own = self._own
        return rows(seed, own["rows"], own["window"], own["target"], long_only=long_only)

    def tests(self, seed: int) -> dict[str, list[Test]]:
        found = {}
        for number, (task, counts) in enumerate(most(self._own["documents"]).items()):
            for length, count in counts.items():
                rng = np.random.default_rng([seed, _EVALUATION, number, int(length)])
                found[f"{task}@{length}"] = [self._test(rng, task, int(length)) for _ in range(count)]
        return found

    def _test(self, rng: np.random.Generator, task: str, length: int) -> Test:
        if task == "facts":
            return question(language.facts(rng, length))
        pairs, asked = _PAIRS[task]
        if length == self._own["window"]:
            pairs = min(pairs, 20)
        return question(language.recall(rng, length, pairs, asked, at_end=True), at_end=True)

    def samples(self, seed: int, count: int, stream: int = _SEARCH) -> list[Sample]:
        return tiny_search.samples(tiny_search.settings(stream + seed, self._own["target"]), (count,))
