"""Which rows a step trains on, which process computes them, and rows as tensors.

A step takes ``global_batch`` rows in an order that depends only on seed and epoch. They are grouped into micro-batches
of one kind and dealt to the data ranks. A rank that would have one fewer gets one without targets, because all ranks of
a sharded model must call it equally often. The order of rows, and so the loss, does not depend on the number of ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lr2eval.base.ids import digest
from lr2eval.errors import UsageError
from lr2eval.method.data.rows import IGNORED, Segment, SegmentData
from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.train.recipe import Recipe


@dataclass(frozen=True)
class MicroBatch:
    """Rows of one kind as tensors; shape ``(B, L)`` each. ``lengths``: tokens of each row's longest document."""

    long: bool
    input_ids: torch.Tensor
    position_ids: torch.Tensor
    targets: torch.Tensor
    """What each position predicts: the next token, or ``IGNORED``."""
    weights: torch.Tensor | None
    """float32 weight of each target."""
    lengths: tuple[int, ...]

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> MicroBatch:
        """The same with every tensor changed."""
        weights = None if self.weights is None else change(self.weights)
        ids, places, targets = map(change, (self.input_ids, self.position_ids, self.targets))
        return MicroBatch(self.long, ids, places, targets, weights, self.lengths)


@dataclass(frozen=True)
class BatchSchedule:
    """The order of the whole training, as row numbers. They index the rows that are trained on."""

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
        """Both kinds shuffled and spread evenly, so that every step gets its share of both."""
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

    @property
    def order_digest(self) -> str:
        """Hash of everything that decides the order of rows."""
        return digest([list(self.kinds), self.global_batch, self.micro_batch, self.epochs, self.seed, self.steps])


def deal(groups: Sequence[list[int]], rank: int, ranks: int) -> list[list[int] | None]:
    """Every ``ranks``-th group from ``rank`` on, padded with ``None`` to the number of the first rank."""
    mine: list[list[int] | None] = list(groups[rank::ranks])
    return mine + [None] * (-(-len(groups) // ranks) - len(mine))


def micro_batch(rows: Sequence[Segment]) -> MicroBatch:
    """Rows of one kind and length as tensors. Raises :class:`ValueError` for mixed rows."""
    if len({(row.long, len(row)) for row in rows}) != 1:
        raise ValueError("a micro-batch must hold rows of one kind and one length")
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
    """Every value moved one position to the left: a position predicts the next token."""
    moved_BL = np.full_like(values_BL, last)
    moved_BL[:, :-1] = values_BL[:, 1:]
    return moved_BL


def empty() -> MicroBatch:
    """One token that predicts nothing."""
    one = torch.zeros(1, 1, dtype=torch.int64)
    return MicroBatch(False, one, one.clone(), torch.full_like(one, IGNORED), None, (1,))


def piece(batch: MicroBatch, part: int, parts: int) -> MicroBatch:
    """The documents of a packed row that process ``part`` of ``parts`` computes; the cuts are between documents.

    Documents do not attend to each other, so this loses nothing. A part may be empty.
    """
    if batch.long or len(batch.input_ids) != 1:
        raise ValueError("only a batch of one packed row can be cut between documents")
    length = batch.input_ids.shape[1]
    starts = torch.nonzero(batch.position_ids[0] == 0)[:, 0]
    wished = [length * number / parts for number in range(1, parts)]
    cuts = [0, *(int(starts[(starts - place).abs().argmin()]) for place in wished), length]
    begin, end = cuts[part], cuts[part + 1]
    if begin >= end:
        return empty()
    return batch.each(lambda whole_BL: whole_BL[:, begin:end])


def weights_of(rows: Iterable[Segment]) -> tuple[float, float]:
    """Sum of the weights of all targets in the short and in the long rows."""
    found = [0.0, 0.0]
    for row in rows:
        counted_L = row.labels[1:] != IGNORED
        found[row.long] += float(
            counted_L.sum() if row.weights is None else row.weights.astype(np.float64)[1:][counted_L].sum()
        )
    return found[0], found[1]


class TrainingRows:
    """The rows that a recipe trains on, by number. Each row is checked when it is read.

    Raises :class:`UsageError` if data, recipe and factors are for different windows.
    """

    def __init__(self, recipe: Recipe, segments: Sequence[Segment], scaling: RopeScaling) -> None:
        self._segments, self._recipe = segments, recipe
        self._agree("the factors", scaling)
        if isinstance(segments, SegmentData):
            self._agree("the data", segments)
            long = segments.long.tolist()
        else:
            long = [row.long for row in segments]
        self._numbers = [number for number, kind in enumerate(long) if kind or not recipe.long_only]
        self.kinds = tuple(long[number] for number in self._numbers)
        """Of each row: long?"""
        self.left_out = len(long) - len(self._numbers)
        """Number of short rows that ``long_only`` leaves out."""
        if not self._numbers:
            raise UsageError("--data: has no rows to train on; make some with `lr2eval data mix`")
        if not isinstance(segments, SegmentData):
            for number in range(len(self)):
                self[number]

    def _agree(self, whose: str, other: RopeScaling | SegmentData) -> None:
        for name in ("original_window", "target_window"):
            asked, found = getattr(self._recipe, name), getattr(other, name)
            if asked != found:
                raise UsageError(
                    f"{name}: {asked:,} tokens in the recipe but {found:,} in {whose}; use a recipe, factors and data "
                    f"for the same windows, or --set {name}={found}"
                )

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Segment:
        row = self._segments[self._numbers[number]]
        said = f"--data: row {self._numbers[number]}"
        longest, window = max(row.document_lengths), self._recipe.original_window
        if len(row) != self._recipe.target_window:
            raise UsageError(
                f"{said} has {len(row):,} tokens but the recipe's target_window is {self._recipe.target_window:,}; "
                "make the data for this window"
            )
        if row.long != (longest > window):
            raise UsageError(
                f"{said} is marked {'long' if row.long else 'short'}, but its longest document has {longest:,} tokens "
                f"and original_window is {window:,}; make the data for this window"
            )
        return row

    def refuse_seen(self, held_out: Sequence[Segment]) -> None:
        """Raise :class:`UsageError` if a held-out row is also a training row. Reads every row once."""
        if not len(held_out):
            return
        seen = {row.input_ids.tobytes(): number for number, row in enumerate(held_out)}
        for number in range(len(self)):
            if (same := seen.get(self[number].input_ids.tobytes())) is not None:
                raise UsageError(
                    f"--held-out: row {same} equals row {self._numbers[number]} of --data, so its loss would mean "
                    "nothing; use rows that are not in --data"
                )


def segments_digest(segments: Sequence[Segment]) -> str:
    """The digest of a folder of rows; for a list, a hash of tokens, documents and weights."""
    if isinstance(segments, SegmentData):
        return segments.digest
    found = hashlib.sha256()
    for row in segments:
        found.update(repr((row.long, tuple(row.document_lengths), row.padding)).encode())
        found.update(np.ascontiguousarray(row.input_ids, dtype=np.int64).tobytes())
        if row.weights is not None:
            found.update(np.ascontiguousarray(row.weights, dtype=np.float32).tobytes())
    return found.hexdigest()
