"""One file of tokenised documents: written atomically, checked by a checksum, read a document at a time.

Layout: header, tokens of each document (int32), all tokens, and their weights (float32) if any document has some.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr2eval._errors import StoreError
from lr2eval._paths import write_parts

_HEADER = struct.Struct("<8sQQBBI")
"""Magic, documents, tokens, bytes of a token, whether weights follow, checksum of everything behind the header."""
_MAGIC = b"lr2tok01"


def write_chunk(
    path: Path,
    ids: Sequence[NDArray[np.int64]],
    weights: Sequence[NDArray[np.float32] | None],
    token_type: np.dtype[Any],
) -> None:
    """Write documents atomically; weights are kept for all of them or, where all are 1, for none."""
    weighted = any(given is not None for given in weights)
    parts = [
        np.array([len(each) for each in ids], dtype="<i4").tobytes(),
        *(i.astype(token_type).tobytes() for i in ids),
    ]
    if weighted:
        for each, given in zip(ids, weights, strict=True):
            parts.append((np.ones(len(each)) if given is None else given).astype("<f4").tobytes())
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    header = _HEADER.pack(_MAGIC, len(ids), sum(map(len, ids)), token_type.itemsize, weighted, checksum)
    write_parts(path, [header, *parts], "choose another token_cache")


def intact(path: Path) -> bool:
    """Whether a chunk is there and undamaged."""
    try:
        with path.open("rb") as file:
            _, _, _, _, _, checksum = _header(file.read(_HEADER.size))
            found = 0
            while block := file.read(1 << 20):
                found = zlib.crc32(block, found)
    except (OSError, ValueError):
        return False
    return bool(found == checksum)


def _header(content: bytes) -> tuple[Any, ...]:
    if len(content) != _HEADER.size or not content.startswith(_MAGIC):
        raise ValueError("no header")
    return _HEADER.unpack(content)


class ChunkReader:
    """Documents out of chunks by (chunk, first token, tokens), without holding or mapping the files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = list(paths)
        self._open: dict[int, tuple[int, int, int, np.dtype[Any], bool]] = {}

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(self, *error: object) -> None:
        for held in self._open.values():
            os.close(held[0])
        self._open = {}

    def lengths(self, chunk: int) -> NDArray[np.int32]:
        """Tokens of each document of a chunk."""
        file, count, *_ = self._file(chunk)
        return np.frombuffer(os.pread(file, 4 * count, _HEADER.size), dtype="<i4")

    def tokens(self, chunk: int, first: int, count: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """``count`` tokens from ``first`` on, counted over the documents of the chunk, and their weights."""
        file, documents, total, kind, weighted = self._file(chunk)
        begin = _HEADER.size + 4 * documents
        size = kind.itemsize
        ids = np.frombuffer(os.pread(file, count * size, begin + first * size), dtype=kind)
        if not weighted:
            return ids, None
        return ids, np.frombuffer(os.pread(file, count * 4, begin + total * size + first * 4), dtype="<f4")

    def _file(self, chunk: int) -> tuple[int, int, int, np.dtype[Any], bool]:
        held = self._open.pop(chunk, None)
        if held is None:
            if len(self._open) >= 128:  # the one that was used longest ago
                os.close(self._open.pop(next(iter(self._open)))[0])
            path = self._paths[chunk]
            try:
                file = os.open(path, os.O_RDONLY)
                _, documents, total, size, weighted, _ = _header(os.pread(file, _HEADER.size, 0))
            except (OSError, ValueError) as error:
                raise StoreError(
                    f"{path}: vanished or damaged meanwhile ({error}); run the same command again"
                ) from error
            held = (file, documents, total, np.dtype(f"<u{size}"), bool(weighted))
        self._open[chunk] = held
        return held
