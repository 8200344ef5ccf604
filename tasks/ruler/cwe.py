"""Common words: a numbered, shuffled list in which ten words occur more often than all others.

After ``scripts/data/synthetic/common_words_extraction.py`` of NVIDIA/RULER: one solved example in front; below 4096
tokens the words repeat 6 and 1 times (example: 20 words, 3 and 1), from there on 30 and 3 times (40 words, 10 and 3).
Where a length needs more words than wonderwords has (8,166), upstream takes all from a larger English list that it
downloads. Here the words go on with pairs of theirs ("rapid-lemon"), so that a sample only grows. Upstream shuffles all
lists by one seed, so the common words always stand at the same numbers; here each list has its own order, unless
``fixed_order`` is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain, repeat
from operator import add
from random import Random

from lr2eval.tasks.exact.draft import Draft
from lr2eval.tasks.exact.stream import ShuffledStream, fixed_shuffle
from lr2eval.tasks.ruler import words
from lr2eval.tasks.shared import upstream

COMMON = 10
BEYOND = "wonderwords, beyond its end adjective-noun pairs of it"
"""Where the words come from, for manifest and report."""


@dataclass(frozen=True)
class CweRecipe:
    """How often common and other words occur, in the question and in the solved example."""

    repeats: tuple[int, int]
    example_words: int
    example_repeats: tuple[int, int]
    fixed_order: bool = False

    @classmethod
    def make(cls, length: int) -> CweRecipe:
        """Upstream's numbers for this length (tokens)."""
        return cls((6, 1), 20, (3, 1)) if length < 4096 else cls((30, 3), 40, (10, 3))

    def draw(self, rng: Random, index: int = 0) -> CweDraw:
        """The example, then the words of the question in the order in which a growing list takes them up."""
        texts = upstream.task_texts("cwe")
        every, fixed = words.common_words(), self.fixed_order
        solved = WordList(rng, every, self.example_words, self.example_repeats, fixed_order=fixed)
        answer = _numbered(solved.common)
        example = f"{_question(solved.text(self.example_words))}{texts.answer_prefix} {answer}\n"
        return CweDraw(example, WordList(rng, every, len(every), self.repeats, more=True, fixed_order=fixed))


class WordList:
    """``count`` words drawn from ``source``; the first ten are the common ones. With ``more`` they never run out."""

    def __init__(
        self,
        rng: Random,
        source: Sequence[str],
        count: int,
        repeats: tuple[int, int],
        more: bool = False,
        fixed_order: bool = False,
    ) -> None:
        self._fixed_order = fixed_order
        self.words = rng.sample(source, count)
        self.common = tuple(self.words[:COMMON])
        self._repeats = repeats
        self._stream = ShuffledStream(rng.getrandbits(64))
        self._ends = [0]  # entries of the first n words together
        self._pairs = Random(rng.getrandbits(64)) if more else None
        self._known = set(self.words)

    def entries(self, size: int) -> int:
        """Entries of the list that uses the first ``size`` words."""
        while self._pairs and len(self.words) < size:
            word = words.word(self._pairs)
            if word not in self._known:
                self._known.add(word)
                self.words.append(word)
        if (done := len(self._ends) - 1) < size:
            often, seldom = self._repeats
            copies = [often if index < COMMON else seldom for index in range(done, size)]
            self._stream.add(chain.from_iterable(map(repeat, self.words[done:size], copies)))
            self._ends += accumulate(copies, initial=self._ends.pop())
        return self._ends[size]

    def text(self, size: int) -> str:
        """The numbered list that uses the first ``size`` words."""
        entries = self.entries(size)
        if self._fixed_order:
            often, seldom = self._repeats
            return _numbered(fixed_shuffle(self.words[:COMMON] * often + self.words[COMMON:size] * seldom))
        return _numbered(self._stream.first(entries))


@dataclass(frozen=True)
class CweDraw:
    """One sample; a unit is one word with all its repetitions. The smallest list has one word that is not common."""

    example: str
    words: WordList

    smallest = COMMON + 1
    largest = None

    def render(self, size: int) -> Draft:
        """The sample with ``size`` different words."""
        return Draft(
            prompt=self.example + _question(self.words.text(size)),
            answer_prefix=upstream.task_texts("cwe").answer_prefix,
            answers=self.words.common,
        )


def _question(context: str) -> str:
    return upstream.task_texts("cwe").template.format(context=context, query="")


def _numbered(entries: Sequence[str]) -> str:
    return " ".join(map(add, _numbers(len(entries).bit_length()), entries))


@cache
def _numbers(bits: int) -> tuple[str, ...]:
    """ "1. ", "2. " and so on."""
    return tuple(f"{number}. " for number in range(1, 1 << bits))
