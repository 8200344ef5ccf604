"""Families: rows that share a beginning worth reading once, and how families make batches.

Everything here is a pure function of the rows, so planning a batch again gives the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lr2eval.backends.batching import pack

LEAST_SAVED = 0.25
"""Share of a family's tokens that its prefix must save: reading on from a cache needs a second forward and a mask."""


@dataclass(frozen=True)
class Family:
    """Rows (by number) with the same first ``prefix`` tokens; 0 for rows that are read whole."""

    prefix: int
    members: tuple[int, ...]


@dataclass
class _Node:
    """A branching point of the tree of all beginnings, while the walk is below it."""

    depth: int
    first: int
    saved: int = 0
    families: list[tuple[int, int, int]] = field(default_factory=list)
    """(prefix, first, last + 1) in sorted order: the best that was found below."""


def families(beginnings: Sequence[Sequence[int]], lengths: Sequence[int], sides: Sequence[Hashable]) -> list[Family]:
    """The disjoint families that save most tokens; rows that share too little are in none.

    ``beginnings`` are the tokens a row may take from a prefix, ``lengths`` all its tokens. Only rows of the same side
    of the window share. A row uses one prefix: of nested ones (shots, then a question) the better one. The remaining
    rows are searched again.
    """
    keys = [np.asarray(tokens, dtype=">u4") for tokens in beginnings]
    numbered = {side: number for number, side in enumerate(dict.fromkeys(sides))}
    order = sorted(range(len(keys)), key=lambda row: (numbered[sides[row]], keys[row].tobytes()))
    found: list[Family] = []
    while fresh := _best_families(order, keys, lengths, sides):
        found += fresh
        taken = {row for family in fresh for row in family.members}
        order = [row for row in order if row not in taken]
    return found


def _best_families(
    order: Sequence[int], keys: Sequence[np.ndarray], lengths: Sequence[int], sides: Sequence[Hashable]
) -> list[Family]:
    """The best whole branches of the tree of beginnings; ``order`` walks over its leaves."""
    before = np.cumsum([0, *(lengths[row] for row in order)])
    open_nodes = [_Node(0, 0)]
    for last in range(1, len(order) + 1):
        depth, first = 0, last - 1
        if last < len(order) and sides[order[last - 1]] == sides[order[last]]:
            depth = common(keys[order[last - 1]], keys[order[last]])
        closed = None
        while open_nodes[-1].depth > depth:
            closed = open_nodes.pop()
            own = (last - closed.first - 1) * closed.depth
            if own >= closed.saved and own >= LEAST_SAVED * int(before[last] - before[closed.first]):
                closed.saved, closed.families = own, [(closed.depth, closed.first, last)]
            first = closed.first
            if open_nodes[-1].depth >= depth:
                _add(open_nodes[-1], closed)
                closed = None
        if open_nodes[-1].depth < depth:
            open_nodes.append(_Node(depth, first))
            if closed:
                _add(open_nodes[-1], closed)
    return [Family(depth, tuple(sorted(order[first:last]))) for depth, first, last in open_nodes[0].families]


def _add(parent: _Node, child: _Node) -> None:
    parent.saved += child.saved
    parent.families += child.families


def common(a: np.ndarray, b: np.ndarray) -> int:
    """Length of the common beginning of two arrays."""
    size = min(len(a), len(b))
    differs = np.flatnonzero(a[:size] != b[:size])
    return int(differs[0]) if len(differs) else size


def batches(
    found: Sequence[Family], lengths: Sequence[int], fits: Callable[[Sequence[Family]], bool]
) -> list[list[Family]]:
    """Families and single rows packed longest first; whole small families share a batch, large ones are cut.

    The batches of one family follow each other, so one prefill can serve them.
    """
    whole: list[Family] = []
    cut: list[list[Family]] = []
    plain = sorted(set(range(len(lengths))) - {row for family in found for row in family.members})
    for family in found:
        parts = [tuple(family.members[i] for i in part) for part in _pack_rows(family, lengths, fits)]
        if len(parts) == 1:
            whole.append(family)
            continue
        for part in parts:
            if len(part) > 1:
                cut.append([Family(family.prefix, part)])
            else:
                plain += part
    longest = [max(lengths[row] for row in family.members) for family in whole]
    packed = pack(longest, [0] * len(whole), lambda batch: fits([whole[i] for i in batch]))
    alone = Family(0, tuple(sorted(plain)))
    return [
        *cut,
        *([whole[i] for i in batch] for batch in packed),
        *([Family(0, tuple(alone.members[i] for i in part))] for part in _pack_rows(alone, lengths, fits)),
    ]


def _pack_rows(family: Family, lengths: Sequence[int], fits: Callable[[Sequence[Family]], bool]) -> list[list[int]]:
    rows = family.members
    return pack(
        [lengths[row] for row in rows],
        [0] * len(rows),
        lambda batch: fits([Family(family.prefix, tuple(rows[i] for i in batch))]),
    )
