"""Rows of random tokens for training tests, as the mixing of documents makes them, in memory and in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lr2eval.method.data.rows import Segment, SegmentData, SegmentWriter


def short_row(
    seed: int, documents: Sequence[int], padding: int = 0, *, vocabulary: int = 320, weighted: bool = False
) -> Segment:
    rng = np.random.default_rng((1, seed))
    length = sum(documents) + padding
    weights = rng.uniform(0.2, 3.0, length).astype(np.float32) if weighted else None
    lengths = (*documents, padding) if padding else tuple(documents)
    return Segment(False, rng.integers(2, vocabulary, length), lengths, padding, weights)


def long_row(seed: int, length: int, *, vocabulary: int = 320, weighted: bool = False) -> Segment:
    rng = np.random.default_rng((2, seed))
    weights = rng.uniform(0.2, 3.0, length).astype(np.float32) if weighted else None
    return Segment(True, rng.integers(2, vocabulary, length), (length,), 0, weights)


def mixture(
    rows: int, length: int = 96, window: int = 32, *, weighted: bool = False, vocabulary: int = 320
) -> list[Segment]:
    """Half short, half long; documents of the short ones of many lengths."""
    found = []
    for number in range(rows):
        if number % 2:
            found.append(long_row(number, length, weighted=weighted, vocabulary=vocabulary))
            continue
        rng = np.random.default_rng((3, number))
        documents: list[int] = []
        while length - sum(documents) > window:
            documents.append(int(rng.integers(1, window + 1)))
        found.append(short_row(number, documents, length - sum(documents), weighted=weighted, vocabulary=vocabulary))
    return found


def write_segments(folder: Path, segments: Sequence[Segment], original_window: int, seed: int = 0) -> SegmentData:
    """A folder with these rows."""
    vocabulary = 1 + max(int(row.input_ids.max()) for row in segments)
    folder.mkdir(parents=True, exist_ok=True)
    with SegmentWriter(folder, original_window, len(segments[0]), vocabulary) as writer:
        for row in segments:
            writer.add(row)
        return writer.finish({"seed": seed})
