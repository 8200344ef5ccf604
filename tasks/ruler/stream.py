"""A shuffled list that can grow: each entry gets a random key when it is added and stands where its key puts it.

Sorting by random keys is a uniform shuffle, and adding entries leaves the order of the others alone. So a sample of
n words and the same sample of n + 1 words differ by the added word only, whatever sizes a search tries on the way.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random


class ShuffledStream:
    """Entries in a random order that is a function of the seed and of how many entries are used."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self._entries: list[tuple[float, int, str]] = []
        self._sorted: list[tuple[float, int, str]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, texts: Iterable[str]) -> None:
        """Append an entry for each text."""
        draw = self._rng.random
        # The running number settles equal keys, so that texts are never compared.
        self._entries += [(draw(), number, text) for number, text in enumerate(texts, len(self._entries))]

    def first(self, count: int) -> list[str]:
        """The first ``count`` entries ever added, shuffled."""
        known = len(self._sorted)
        if count < known:
            self._sorted = [entry for entry in self._sorted if entry[1] < count]
        elif count > known:
            # Two sorted runs, which sorting merges in linear time.
            self._sorted += sorted(self._entries[known:count])
            self._sorted.sort()
        return [entry[2] for entry in self._sorted]
