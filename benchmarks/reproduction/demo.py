"""The demo model as a subject: RULER's wording, 512 to 8192 tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from demo_model import rows as rows_module
from demo_model.train import DemoRecipe, Text
from reproduction.cells import most
from reproduction.measure import Test

from lr2eval.method.data.rows import Segment
from lr2eval.method.search import needles
from lr2eval.method.search.config import SearchConfig
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks import haystacks
from lr2eval.tasks.facts import table

_TRAINING, _SEARCH = 500, 1_000
"""Streams of random numbers; the committed extension of the demo has stream 0."""


BLOCK = 20
"""Documents that together lie evenly over the depths."""


def depth_of(number: int) -> float:
    """Where document ``number`` of any set has its needle: a block of 20 has one in each twentieth of the text, in a
    mixed order; within it, blocks differ."""
    inside = (0.5 + number // BLOCK * (5**0.5 - 1) / 2) % 1
    return (number * 9 % BLOCK + inside) / BLOCK


class Demo:
    """``folder``: a checkpoint, for its tokenizer."""

    name = "demo"

    def __init__(self, own: Mapping[str, Any], folder: Path) -> None:
        from transformers import AutoTokenizer

        self._own, self._folder = own, folder
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._text = Text(self._tokenizer, DemoRecipe.read())

    def rows(self, seed: int, *, long_only: bool) -> list[Segment]:
        """Long prompts full of questions joined to whole rows; windows of the pre-training, packed."""
        target, window, count = self._own["target"], self._own["window"], self._own["rows"]
        wanted = count if long_only else count // 2
        # A row's worth of documents may fall short of the target by a window: so a third more of them.
        documents = list(rows_module.documents(self._tokenizer, target, wanted * 4 // 3 + 1, _TRAINING + seed))
        joined = list(islice(_rows(documents, target, long=True, window=window), wanted))
        packed = [] if long_only else list(islice(_rows(documents, target, long=False, window=window), count - wanted))
        if len(joined) < wanted or len(joined) + len(packed) != count:
            raise ValueError(f"{len(joined)} long and {len(packed)} short rows where {count} were wanted")
        return [*joined, *packed]

    def tests(self, seed: int) -> dict[str, list[Test]]:
        """Document ``k`` is the same in every set, so a smaller set is the first part of a larger one."""
        return {
            f"{task}@{length}": [self._test(seed, task, int(length), k, count, depth_of(k)) for k in range(count)]
            for task, counts in most(self._own["documents"]).items()
            for length, count in counts.items()
        }

    def _test(self, seed: int, task: str, length: int, number: int, count: int, depth: float | None = None) -> Test:
        depth = (number + 0.5) / count if depth is None else depth
        if task == "facts":
            facts = table.facts()
            fact = facts[number * len(facts) // count]
            ids, weights = self._text.encode([("<s>", 0.0), (fact.stem, 0.0), (f" {fact.object}", 1.0)])
            depths: tuple[float, ...] = ()
        else:
            rng, words = Random(f"study/{seed}/{task}/{length}/{number}"), self._text.words
            written = self._text.writer.task(rng, task, length, key=words.held_out_key, depth=depth)  # type: ignore[arg-type]
            ids, weights = self._text.encode(written)
            depths = (depth,)
        if len(ids) > length:
            raise ValueError(f"{task}: {len(ids)} tokens where {length} were asked for")
        answer = tuple(place for place, weight in enumerate(weights) if weight == 1.0)
        return Test(np.array(ids), (answer,), depths)

    def samples(self, seed: int, count: int, stream: int = _SEARCH) -> list[needles.Sample]:
        tokenizer = PromptTokenizer.load(self._folder)
        haystack = haystacks.load("demo-filler", None, True)
        paragraphs = [" ".join(part.split()) for text in haystack.texts for part in re.split(r"\n\s*\n", text)]
        sentences = [[sentence for part in paragraphs for sentence in haystacks.split(part)]]
        config = SearchConfig(
            model=str(self._folder), target_length=self._own["target"], depths="grid", needles=4, distractors=4,
            repeat=True, seed=stream + seed,
        )  # fmt: skip
        text, wording = (
            needles.TokenText(haystack.name, sentences, tokenizer),
            rows_module.search_wording(self._tokenizer),
        )
        return needles.make_samples(text, tokenizer, config, wording, count)


def _rows(documents: list[dict[str, Any]], target: int, *, long: bool, window: int) -> Iterator[Segment]:
    """Whole rows out of the documents of one kind; what is left at the end is dropped."""
    chosen = [each for each in documents if (len(each["input_ids"]) > window) == long]
    ids = np.array([token for each in chosen for token in each["input_ids"]])
    weights = np.array([weight for each in chosen for weight in each["weights"]], np.float32)
    lengths = (target,) if long else (window,) * (target // window)
    for begin in range(0, len(ids) - target + 1, target):
        part = slice(begin, begin + target)
        yield Segment(long, ids[part], lengths, weights=weights[part])
