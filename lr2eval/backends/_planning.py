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
    """To be read, padding included, and to be generated; ``None`` when the user fixed the number of rows."""
    memory: int
    """Bytes beside the weights."""

    def allow(self, rows: int, tokens: int, memory: int) -> bool:
        """Whether ``rows`` rows of ``tokens`` tokens in all that take ``memory`` bytes are one batch."""
        fits = self.tokens is None or tokens <= self.tokens
        return rows <= self.rows and fits and memory <= self.memory


def pack(lengths: Sequence[int], groups: Sequence[Hashable], fits: Callable[[list[int]], bool]) -> list[list[int]]:
    """Numbers 0..n-1 packed greedily, group by group, longest first (ties in order).

    Packing the members of one batch again, in its order, gives that batch: the property that lets a backend plan the
    requests of every call although the runner already planned the shard.
    """
    batches: list[list[int]] = []
    by_group: dict[Hashable, list[int]] = {}
    for number, group in enumerate(groups):
        by_group.setdefault(group, []).append(number)
    for members in by_group.values():
        members.sort(key=lambda number: -lengths[number])
        batch: list[int] = []
        for number in members:
            if batch and not fits([*batch, number]):
                batches.append(batch)
                batch = []
            batch.append(number)
        batches.append(batch)
    return batches


def pieces(widths: Sequence[int], overhead: int) -> list[list[int]]:
    """Numbers 0..n-1 cut into forwards, longest first, for the fewest tokens: padding, and ``overhead`` a forward.

    A row much longer than the others would otherwise pad them all.
    """
    order = sorted(range(len(widths)), key=lambda number: -widths[number])
    best, cut = [0], [0]
    for stop in range(1, len(order) + 1):
        costs = [best[start] + (stop - start) * widths[order[start]] + overhead for start in range(stop)]
        best.append(min(costs))
        cut.append(costs.index(best[-1]))
    found: list[list[int]] = []
    stop = len(order)
    while stop:
        found.append(order[cut[stop] : stop])
        stop = cut[stop]
    return found[::-1]
