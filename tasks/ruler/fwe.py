"""Frequent words: coded words whose counts follow a zeta distribution; the three most frequent are asked for.

After ``scripts/data/synthetic/freq_words_extraction.py`` of NVIDIA/RULER with its default exponent 2. There the word of
rank k occurs int(N / (zeta(2) k^2)) times for a total N that is searched for; rank 1 is noise ("..."). With
m = int(N / zeta(2)) that is m // k^2, so every text upstream can make has a whole number m: it is our unit, and
growing it by one adds one "..." and each word whose k^2 divides the new m. Upstream ranks the sorted words and orders
the text by one seed; here each sample has its own order, unless ``fixed_order`` is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from random import Random
from string import ascii_lowercase

from lr2eval.tasks.exact.draft import Draft, distinct
from lr2eval.tasks.exact.stream import ShuffledStream, fixed_shuffle
from lr2eval.tasks.shared import upstream

NOISE = "..."
WORD_LETTERS = 6
TOKENS_PER_WORD = 50
"""The vocabulary holds one word for each 50 tokens of the length; upstream leaves out the 50 tokens of the answer."""


@dataclass(frozen=True)
class FweRecipe:
    """``vocabulary`` counts the words including the noise."""

    vocabulary: int
    fixed_order: bool = False

    @classmethod
    def make(cls, length: int) -> FweRecipe:
        """The vocabulary for this length (tokens); lengths too short for five words fit no sample anyway."""
        return cls(max(length // TOKENS_PER_WORD, 5))

    def draw(self, rng: Random, index: int = 0) -> FweDraw:
        """The vocabulary in order of rank, and a generator for the order of the text."""
        coded = distinct(self.vocabulary - 1, lambda: "".join(rng.choices(ascii_lowercase, k=WORD_LETTERS)))
        if self.fixed_order:
            # The noise replaces a word, so there is one word less: as many as upstream has.
            coded = fixed_shuffle(sorted(coded))[1:]
        return FweDraw((NOISE, *coded), ShuffledStream(rng.getrandbits(64)), self.fixed_order)


class FweDraw:
    """One sample; a unit is one step of m (see above)."""

    smallest = 32
    """From here on rank 4 is strictly more frequent than rank 5, so that there is one right answer."""
    largest = None

    def __init__(self, vocabulary: tuple[str, ...], stream: ShuffledStream, fixed_order: bool = False) -> None:
        self._vocabulary = vocabulary
        self._fixed_order = fixed_order
        self._stream = stream
        self._size = 0

    def render(self, size: int) -> Draft:
        """The sample with ``size`` steps."""
        self._grow(size)
        texts = upstream.task_texts("fwe")
        if self._fixed_order:
            ranked = zip(self._ranks(size), self._vocabulary, strict=False)
            entries = fixed_shuffle([word for rank, word in ranked for _ in range(size // rank**2)])
        else:
            entries = self._stream.first(self._words(size))
        return Draft(
            prompt=texts.template.format(context=" ".join(entries), query=""),
            answer_prefix=texts.answer_prefix,
            answers=self._vocabulary[1:4],
        )

    def _words(self, size: int) -> int:
        """Words of the text after ``size`` steps."""
        return sum(size // (rank * rank) for rank in self._ranks(size))

    def _ranks(self, size: int) -> range:
        return range(1, min(len(self._vocabulary), isqrt(size)) + 1)

    def _grow(self, size: int) -> None:
        done, radix = self._size, len(self._vocabulary)
        if size <= done:
            return
        # Step and rank in one number, so that sorting puts the words into their order: by step, then by rank.
        added: list[int] = []
        for rank in self._ranks(size):
            square = rank * rank
            added += range((done // square + 1) * square * radix + rank - 1, (size + 1) * radix, square * radix)
        added.sort()
        self._stream.add([self._vocabulary[code % radix] for code in added])
        self._size = size
