"""The rows that a training uses, looked at as they are needed: prepared data does not fit into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from lr2eval._errors import UsageError
from lr2eval.method.recipe import Recipe
from lr2eval.method.rope import RopeScaling
from lr2eval.method.segments import Segment, SegmentData

_BEGIN = 64
"""Tokens by which two rows are first compared."""


class Rows:
    """Rows of the data that a recipe trains on, by number. Each is checked as it is read.

    Raises :class:`UsageError` where data, recipe and factors do not belong together.
    """

    def __init__(self, recipe: Recipe, segments: Sequence[Segment], scaling: RopeScaling) -> None:
        self._segments, self._recipe = segments, recipe
        self._agree("the factors", scaling)
        if isinstance(segments, SegmentData):
            self._agree("the data", segments)
            long = [bool(kind) for kind in segments.long]
        else:
            long = [row.long for row in segments]
        self._numbers = [number for number, kind in enumerate(long) if kind or not recipe.long_only]
        self.kinds = tuple(long[number] for number in self._numbers)
        """Of each row: long?"""
        self.left_out = len(long) - len(self._numbers)
        """Short rows that ``long_only`` does not train on."""
        if not self._numbers:
            raise UsageError("data: holds no row to train on; prepare some")
        if not isinstance(segments, SegmentData):
            for number in range(len(self)):
                self[number]

    def _agree(self, whose: str, other: RopeScaling | SegmentData) -> None:
        for name in ("original_window", "target_window"):
            asked, found = getattr(self._recipe, name), getattr(other, name)
            if asked != found:
                raise UsageError(
                    f"{name}: the recipe has {asked:,} tokens and {whose} {found:,}; use what belongs together, or "
                    f"--set {name}={found}"
                )

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Segment:
        row = self._segments[self._numbers[number]]
        said = f"data: row {self._numbers[number]}"
        longest, window = max(row.document_lengths), self._recipe.original_window
        if len(row) != self._recipe.target_window:
            raise UsageError(
                f"{said} has {len(row):,} tokens where the recipe's target_window is {self._recipe.target_window:,}; "
                "make the data for this window"
            )
        if row.long != (longest > window):
            raise UsageError(
                f"{said} is called {'long' if row.long else 'short'}, its longest document has {longest:,} tokens and "
                f"the original window {window:,}; make the data for this window"
            )
        return row

    def refuse_seen(self, held_out: Sequence[Segment]) -> None:
        """Raise :class:`UsageError` if a held-out row is trained on. Reads every row once."""
        if not len(held_out):
            return
        begins: dict[bytes, list[int]] = {}
        for number, row in enumerate(held_out):
            begins.setdefault(row.input_ids[:_BEGIN].tobytes(), []).append(number)
        for number in range(len(self)):
            row = self[number]
            for same in begins.get(row.input_ids[:_BEGIN].tobytes(), ()):
                if np.array_equal(held_out[same].input_ids, row.input_ids):
                    raise UsageError(
                        f"held-out data: row {same} is row {self._numbers[number]} of the training data, so a loss on "
                        "it says nothing; give other rows"
                    )


def data_digest(segments: Sequence[Segment]) -> str:
    """Of a folder of rows its own digest, of a list one over tokens, documents and weights."""
    if isinstance(segments, SegmentData):
        return segments.digest
    found = hashlib.sha256()
    for row in segments:
        found.update(repr((row.long, tuple(row.document_lengths), row.padding)).encode())
        found.update(np.ascontiguousarray(row.input_ids, dtype=np.int64).tobytes())
        if row.weights is not None:
            found.update(np.ascontiguousarray(row.weights, dtype=np.float32).tobytes())
    return found.hexdigest()
