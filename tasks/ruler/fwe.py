"""Frequent words: coded words whose counts follow a zeta distribution; the three most frequent are asked for.

After ``scripts/data/synthetic/freq_words_extraction.py`` of NVIDIA/RULER with its default exponent 2. There the word of
rank k occurs int(N / (zeta(2) k^2)) times for a total N that is searched for; rank 1 is noise ("..."). With
m = int(N / zeta(2)) that is m // k^2, so every text upstream can make has a whole number m: it is our unit, and
growing it by one adds one "..." and each word whose k^2 divides the new m.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from math import isqrt
from random import Random
from string import ascii_lowercase

from lr2eval.tasks import _upstream
from lr2eval.tasks.ruler.draft import Draft
from lr2eval.tasks.ruler.stream import ShuffledStream

NOISE = "..."
WORD_LETTERS = 6
TOKENS_PER_WORD = 50
"""Upstream's vocabulary holds one word per so many tokens of the length."""


@dataclass(frozen=True)
class FweRecipe:
    """``vocabulary`` counts the words including the noise."""

    vocabulary: int

    @classmethod
    def make(cls, length: int) -> FweRecipe:
        """Upstream's vocabulary for this length (tokens); lengths too short for five words fit no sample anyway."""
        return cls(max(length // TOKENS_PER_WORD, 5))

    @property
    def max_new_tokens(self) -> int:
        """Tokens to generate."""
        return _upstream.task_texts("fwe").max_new_tokens

    def draw(self, rng: Random) -> FweDraw:
        """The vocabulary in order of rank, and a generator for the order of the text."""
        seen: dict[str, None] = {NOISE: None}
        while len(seen) < self.vocabulary:
            seen["".join(rng.choices(ascii_lowercase, k=WORD_LETTERS))] = None
        return FweDraw(tuple(seen), ShuffledStream(rng.getrandbits(64)))


class FweDraw:
    """One sample; a unit is one step of m (see above)."""

    smallest = 32
    """From here on rank 4 is strictly more frequent than rank 5, so that there is one right answer."""
    largest = None

    def __init__(self, vocabulary: tuple[str, ...], stream: ShuffledStream) -> None:
        self._vocabulary = vocabulary
        self._stream = stream
        self._steps: list[list[str]] = []
        self._ends = [0]

    def units(self, start: int, stop: int) -> Sequence[Sequence[str]]:
        """The words each step adds, with the spaces before them."""
        self._grow(stop)
        return [[f" {word}" for word in step] for step in self._steps[start:stop]]

    def render(self, size: int) -> Draft:
        """The sample with ``size`` steps."""
        self._grow(size)
        texts = _upstream.task_texts("fwe")
        context = " ".join(self._stream.first(self._ends[size]))
        return Draft(
            prompt=texts.template.format(context=context, query=""),
            answer_prefix=texts.answer_prefix,
            answers=self._vocabulary[1:4],
        )

    def _grow(self, size: int) -> None:
        done = len(self._steps)
        steps = [[NOISE] for _ in range(done, size)]
        for rank in range(2, min(len(self._vocabulary), isqrt(max(size, 1))) + 1):
            square = rank * rank
            for total in range(done // square * square + square, size + 1, square):
                steps[total - done - 1].append(self._vocabulary[rank - 1])
        self._stream.add(chain.from_iterable(steps))
        self._ends += accumulate(map(len, steps), initial=self._ends.pop())
        self._steps += steps
