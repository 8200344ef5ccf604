"""A shuffled list that can grow: each entry gets a random key when it is added and stands where its key puts it.

Sorting by random keys is a uniform shuffle, and adding entries leaves the order of the others alone. So a sample of
n words and the same sample of n + 1 words differ by the added word only, whatever sizes a search tries on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import TypeVar

import numpy as np

T = TypeVar("T")


UPSTREAM_SEED = 42
"""The default seed of NVIDIA/RULER."""


def fixed_shuffle(entries: Sequence[T]) -> list[T]:
    """As NVIDIA/RULER shuffles: by one seed, so that equally many entries always have the same order."""
    shuffled = list(entries)
    Random(UPSTREAM_SEED).shuffle(shuffled)
    return shuffled


class ShuffledStream:
    """Entries in a random order that is a function of the seed and of how many entries are used."""

    def __init__(self, seed: int) -> None:
        # The numbers of ``random.Random(seed)``, many at a time: both seed a Mersenne Twister by these 32-bit words.
        self._rng = np.random.RandomState([seed & 0xFFFF_FFFF, seed >> 32] if seed >> 32 else [seed])
        self._keys = np.empty(0)
        self._order = np.empty(0, int)
        self._texts: list[str] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, texts: Iterable[str]) -> None:
        """Append an entry for each text."""
        self._texts += texts
        drawn = self._rng.random_sample(len(self._texts) - len(self._keys))
        self._keys = np.concatenate([self._keys, drawn])
        self._order = self._keys.argsort(kind="stable")  # entries with equal keys stay in the order of adding

    def first(self, count: int) -> list[str]:
        """The first ``count`` entries ever added, shuffled."""
        return [self._texts[entry] for entry in self._order[self._order < count].tolist()]
