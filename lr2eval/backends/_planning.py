"""Batches from a whole shard: deterministic, longest first, sized by rows, tokens and memory."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

MAX_ROWS = 64
TOKENS_CPU = 16_384
"""More padded tokens gain nothing on a CPU, and a batch is what a killed run loses."""
TOKENS_GPU = 131_072


@dataclass(frozen=True)
class Limits:
    """What a batch may hold at most; a single item always makes a batch."""

    rows: int
    tokens: int | None
    """Padded tokens, those to be generated included; ``None`` when the user fixed the number of rows."""
    memory: int
    """Bytes beside the weights."""

    def allow(self, rows: int, width: int, memory: int) -> bool:
        """Whether ``rows`` rows padded to ``width`` tokens that take ``memory`` bytes are one batch."""
        fits = self.tokens is None or rows * width <= self.tokens
        return rows <= self.rows and fits and memory <= self.memory


def pack(lengths: Sequence[int], groups: Sequence[Hashable], fits: Callable[[list[int]], bool]) -> list[list[int]]:
    """Numbers 0..n-1 packed greedily, group by group, longest first (ties in order).

    Packing the members of one batch again, in its order, gives that batch: the property that lets a backend plan the
    requests of every call although the runner already planned the shard.
    """
    batches: list[list[int]] = []
    for group in dict.fromkeys(groups):
        members = [number for number, other in enumerate(groups) if other == group]
        members.sort(key=lambda number: -lengths[number])
        batch: list[int] = []
        for number in members:
            if batch and not fits([*batch, number]):
                batches.append(batch)
                batch = []
            batch.append(number)
        batches.append(batch)
    return batches
