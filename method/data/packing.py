"""Documents to rows: short ones whole, packed closely; long ones joined and cut, so that no row holds padding.

Pure functions of lengths; their order is the caller's to draw. Documents are named by their place in it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
Piece = tuple[int, int, int]
"""(document, first token, tokens)"""
WINDOW_ROWS = 64
"""Short documents are sorted by length only among so many rows' worth of tokens, so that rows stay mixed."""


@dataclass
class Joined:
    """What became of long documents: rows of exactly L tokens each, and the rest, less than one row."""

    rows: list[list[Piece]] = field(default_factory=list)
    rest: list[Piece] = field(default_factory=list)

    @property
    def cuts(self) -> int:
        """Places at which a document was cut in two."""
        pieces = [piece for row in [*self.rows, self.rest] for piece in row]
        return len(pieces) - len({document for document, _, _ in pieces})


def join(lengths: Sequence[int], target: int) -> Joined:
    """Documents in the order given as rows of ``target`` tokens.

    What a document has in whole rows gets rows of its own from its beginning on, where attention over the whole row
    always stays inside the document. What is left of all of them is joined and cut wherever a row ends.
    """
    found = Joined()
    left: list[Piece] = []
    for document, length in enumerate(lengths):
        whole = length - length % target
        found.rows += [[(document, first, target)] for first in range(0, whole, target)]
        if length > whole:
            left.append((document, whole, length - whole))
    room = target
    for document, first, count in left:
        at, end = first, first + count
        while at < end:
            taken = min(room, end - at)
            found.rest.append((document, at, taken))
            at, room = at + taken, room - taken
            if not room:
                found.rows.append(found.rest)
                found.rest, room = [], target
    return found


def pack(lengths: Sequence[int], target: int) -> Iterator[list[int]]:
    """Documents of at most ``target`` tokens as rows, none split: best fit, longest first within a window.

    Rows with room left stay open for the next window; those in which nothing fits any more and, at the end, all others
    come out. Raises :class:`ValueError` for a document that is longer than a row.
    """
    shortest = min(lengths, default=0)
    open_rows: dict[int, list[int]] = {}
    rooms: list[tuple[int, int]] = []  # (free tokens, row), sorted: the first that is large enough fits best
    number = 0
    for window in grouped(range(len(lengths)), lengths.__getitem__, WINDOW_ROWS * target):
        for document in sorted(window, key=lambda each: -lengths[each]):
            length = lengths[document]
            if length > target:
                raise ValueError(f"document {document} of {length} tokens in rows of {target}")
            at = bisect_left(rooms, (length, -1))
            if at < len(rooms):
                room, row = rooms.pop(at)
            else:
                room, row, number = target, number, number + 1
                open_rows[row] = []
            open_rows[row].append(document)
            if room - length >= shortest:
                insort(rooms, (room - length, row))
            else:
                yield open_rows.pop(row)
        # The fullest ones wait for fitting short documents in vain; a few rows with much room are enough to go on with.
        while len(rooms) > WINDOW_ROWS:
            yield open_rows.pop(rooms.pop(0)[1])
    for _, row in rooms:
        yield open_rows.pop(row)


def grouped(items: Iterable[T], size: Callable[[T], int], full: int) -> Iterator[list[T]]:
    """Items in groups. A group ends with the item that brings its size to ``full``."""
    group: list[T] = []
    held = 0
    for item in items:
        group.append(item)
        held += size(item)
        if held >= full:
            yield group
            group, held = [], 0
    if group:
        yield group
