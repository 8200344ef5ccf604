"""Which rows a step trains on, who computes which, and rows as tensors.

A step takes ``global_batch`` rows in an order that only seed and epoch decide. They are grouped into micro-batches of
one kind and dealt out to the data ranks; a rank that would have one less gets one without targets, because all ranks of
a sharded model must call it equally often. Nothing here depends on who computes what, so neither does the loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lr2eval._ids import digest
from lr2eval.method.segments import IGNORED, Segment


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one kind as tensors; shape ``(B, L)`` each. ``lengths``: tokens of each row's longest document."""

    long: bool
    input_ids: torch.Tensor
    position_ids: torch.Tensor
    targets: torch.Tensor
    """What each place predicts: the next token, or ``IGNORED``."""
    weights: torch.Tensor | None
    """float32 weight of each target."""
    lengths: tuple[int, ...]

    def to(self, device: torch.device | str) -> MicroBatch:
        """The same on another device."""
        weights = None if self.weights is None else self.weights.to(device)
        ids, places, targets = (each.to(device) for each in (self.input_ids, self.position_ids, self.targets))
        return MicroBatch(self.long, ids, places, targets, weights, self.lengths)


@dataclass(frozen=True)
class Plan:
    """The whole training as row numbers. Row numbers index the segments that are trained on."""

    kinds: tuple[bool, ...]
    """Of each row: long?"""
    global_batch: int
    micro_batch: int
    epochs: int
    seed: int
    steps: int

    def rows(self, step: int) -> list[int]:
        """Rows of one step (from 0), in their order; the last step of the last epoch may have fewer."""
        first = step * self.global_batch
        found: list[int] = []
        total = len(self.kinds) * self.epochs
        while len(found) < self.global_batch and first + len(found) < total:
            epoch, at = divmod(first + len(found), len(self.kinds))
            found += self._order(epoch)[at : at + self.global_batch - len(found)].tolist()
        return found

    def _order(self, epoch: int) -> np.ndarray:
        """Both kinds shuffled and spread evenly, so that every step has its share of both."""
        random = np.random.default_rng((self.seed, epoch))
        long, place = np.array(self.kinds), np.empty(len(self.kinds))
        for kind in (False, True):
            rows = np.flatnonzero(long == kind)
            place[random.permutation(rows)] = (np.arange(len(rows)) + random.random(len(rows))) / max(1, len(rows))
        return np.argsort(place, kind="stable")

    def micro_batches(self, step: int) -> list[list[int]]:
        """Rows of a step in groups of one kind, at most ``micro_batch`` in each, in the order of their first rows."""
        groups: list[list[int]] = []
        filling: dict[bool, list[int]] = {}
        for row in self.rows(step):
            kind = self.kinds[row]
            if kind not in filling or len(filling[kind]) == self.micro_batch:
                filling[kind] = []
                groups.append(filling[kind])
            filling[kind].append(row)
        return groups

    def dealt(self, step: int, rank: int, ranks: int) -> list[list[int] | None]:
        """The micro-batches of one data rank; ``None`` stands for one without targets. Equally many for every rank."""
        return deal(self.micro_batches(step), rank, ranks)

    @property
    def order_digest(self) -> str:
        """Over everything that decides which row is trained on when."""
        return digest([list(self.kinds), self.global_batch, self.micro_batch, self.epochs, self.seed, self.steps])


def deal(groups: Sequence[list[int]], rank: int, ranks: int) -> list[list[int] | None]:
    """Every ``ranks``-th group from ``rank`` on, filled up with ``None`` to what the first rank has."""
    mine: list[list[int] | None] = list(groups[rank::ranks])
    return mine + [None] * (-(-len(groups) // ranks) - len(mine))


def micro_batch(rows: Sequence[Segment]) -> MicroBatch:
    """Rows of one kind and length as tensors. Raises :class:`ValueError` for a mixture."""
    if len({(row.long, len(row)) for row in rows}) != 1:
        raise ValueError("a micro-batch holds rows of one kind and one length only")
    labels_BL = np.stack([row.labels for row in rows])
    weights_BL = None
    if any(row.weights is not None for row in rows):
        given = [np.ones(len(row)) if row.weights is None else row.weights for row in rows]
        weights_BL = torch.from_numpy(_next(np.stack(given).astype(np.float32), 0.0))
    return MicroBatch(
        long=rows[0].long,
        input_ids=torch.from_numpy(np.stack([row.input_ids for row in rows])),
        position_ids=torch.from_numpy(np.stack([row.position_ids for row in rows])),
        targets=torch.from_numpy(_next(labels_BL, IGNORED)),
        weights=weights_BL,
        lengths=tuple(max(row.document_lengths) for row in rows),
    )


def _next(values_BL: np.ndarray, last: float) -> np.ndarray:
    """Every value moved one place to the left: a place predicts the token behind it."""
    moved_BL = np.full_like(values_BL, last)
    moved_BL[:, :-1] = values_BL[:, 1:]
    return moved_BL


def empty() -> MicroBatch:
    """One token that predicts nothing."""
    one = torch.zeros(1, 1, dtype=torch.int64)
    return MicroBatch(False, one, one.clone(), torch.full_like(one, IGNORED), None, (1,))


def piece(batch: MicroBatch, part: int, parts: int) -> MicroBatch:
    """The documents of a packed batch of one row that process ``part`` of ``parts`` computes, cut at their borders.

    Documents do not see each other, so this loses nothing; a part may be empty.
    """
    if batch.long or len(batch.input_ids) != 1:
        raise ValueError("only one packed row can be cut at its documents")
    length = batch.input_ids.shape[1]
    starts = torch.nonzero(batch.position_ids[0] == 0)[:, 0]
    cuts = [0, *(_nearest(starts, length * number / parts) for number in range(1, parts)), length]
    begin, end = cuts[part], cuts[part + 1]
    if begin >= end:
        return empty()
    ids, places, targets = (each[:, begin:end] for each in (batch.input_ids, batch.position_ids, batch.targets))
    weights = None if batch.weights is None else batch.weights[:, begin:end]
    return MicroBatch(False, ids, places, targets, weights, batch.lengths)


def _nearest(starts: torch.Tensor, wished: float) -> int:
    return int(starts[(starts - wished).abs().argmin()])


def weights_of(rows: Iterable[Segment]) -> tuple[float, float]:
    """Sum of the weights of all targets in the (short, long) ones of these rows."""
    found = [0.0, 0.0]
    for row in rows:
        counted_L = row.labels[1:] != IGNORED
        found[row.long] += float(
            counted_L.sum() if row.weights is None else row.weights.astype(np.float64)[1:][counted_L].sum()
        )
    return found[0], found[1]
