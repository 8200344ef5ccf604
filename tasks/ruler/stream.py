"""A shuffled list that can grow: each entry gets a random key when it is added and stands where its key puts it.

Sorting by random keys is a uniform shuffle, and adding entries leaves the order of the others alone. So a sample of
n words and the same sample of n + 1 words differ by the added word only, whatever sizes a search tries on the way.
"""

from __future__ import annotations

from random import Random


class ShuffledStream:
    """Entries in a random order that is a function of the seed and of how many entries are used."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)
        self._entries: list[tuple[float, int, str]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, text: str, copies: int = 1) -> None:
        """Append ``copies`` entries with this text."""
        for _ in range(copies):
            # The running number settles equal keys, so that texts are never compared.
            self._entries.append((self._rng.random(), len(self._entries), text))

    def first(self, count: int) -> list[str]:
        """The first ``count`` entries ever added, shuffled."""
        return [text for _, _, text in sorted(self._entries[:count])]
