"""A shuffled list that can grow: each entry gets a random key when it is added and stands where its key puts it.

Sorting by random keys is a uniform shuffle, and adding entries leaves the order of the others alone. So a sample of
n words and the same sample of n + 1 words differ by the added word only, whatever sizes a search tries on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import TypeVar

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
        self._rng = Random(seed)
        self._keys: list[float] = []
        self._texts: list[str] = []

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, texts: Iterable[str]) -> None:
        """Append an entry for each text."""
        self._texts += texts
        draw = self._rng.random
        self._keys += [draw() for _ in range(len(self._texts) - len(self._keys))]

    def first(self, count: int) -> list[str]:
        """The first ``count`` entries ever added, shuffled."""
        # Entries with equal keys stay in the order of adding.
        return [self._texts[entry] for entry in sorted(range(count), key=self._keys.__getitem__)]
