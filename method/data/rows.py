"""Training rows of exactly ``L`` tokens, in memory and in a folder of memory-mapped files.

A row is one of two kinds, never both (LongRoPE2, section 4.2). A *long* row is long documents joined: position ids
``0..L-1``, full attention, rescaled RoPE. A *short* row is whole documents of at most ``Lt`` tokens packed one after
the other: ids restart at each, no attention between them, original RoPE. ``mixing`` makes such folders.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lr2eval.base.files import sha256, write_json
from lr2eval.base.reading import checked, read_object
from lr2eval.errors import UsageError, first_line
from lr2eval.record.base import check_seal, sealed

IGNORED = -100
"""Label of a token that is not a target, as in Hugging Face models."""
MANIFEST = "manifest.json"
VERSION = "segments-1"
_TOKENS, _WEIGHTS, _LENGTHS, _ROWS = "tokens.bin", "weights.bin", "lengths.bin", "rows.bin"
FILES = (_TOKENS, _WEIGHTS, _LENGTHS, _ROWS)
_FIX = "run `lr2eval data mix` again"
_ROW = np.dtype([("first", "<i8"), ("weights", "<i8"), ("padding", "<i4"), ("long", "u1")])
"""Of one row: its first entry in the lengths, its row in the weights (-1: none), tokens of padding, whether long."""


@dataclass(frozen=True, eq=False)
class Segment:
    """One training row of ``L`` tokens. Raises :class:`ValueError` if its fields contradict each other."""

    long: bool
    """True: rescaled RoPE, ids 0..L-1, full attention. False: packed short documents, original RoPE."""
    input_ids: NDArray[np.int64]
    """(L,)"""
    document_lengths: tuple[int, ...]
    """Sums to L. Long: (L,). Short: each at most Lt. Padding at the end counts as further documents of at most Lt."""
    padding: int = 0
    """Tokens at the end that are not targets; always 0 in a long row."""
    weights: NDArray[np.float32] | None = None
    """(L,) loss weight of each token as a target; ``None``: 1 everywhere."""

    def __post_init__(self) -> None:
        length = len(self.input_ids)
        if sum(self.document_lengths) != length or min(self.document_lengths, default=0) < 1:
            raise ValueError(
                f"document lengths {self.document_lengths} do not add up to the {length} tokens of the row"
            )
        if self.long and (len(self.document_lengths) != 1 or self.padding):
            raise ValueError("a long row must be one document without padding")
        if not 0 <= self.padding < length:
            raise ValueError(f"{self.padding} tokens of padding in a row of {length}")
        if self.weights is not None and len(self.weights) != length:
            raise ValueError(f"{len(self.weights)} weights for {length} tokens")

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def position_ids(self) -> NDArray[np.int64]:
        """(L,) restarting at each document."""
        return np.concatenate([np.arange(length, dtype=np.int64) for length in self.document_lengths])

    @property
    def labels(self) -> NDArray[np.int64]:
        """(L,) the token itself, not shifted; -100 on padding and on the first token of each document, which nothing
        in the row predicts."""
        found = self.input_ids.astype(np.int64)
        found[np.cumsum((0, *self.document_lengths[:-1]))] = IGNORED
        if self.padding:
            found[-self.padding :] = IGNORED
        return found


Count = Annotated[int, Field(ge=0)]


class RowCounts(BaseModel):
    """How many rows there are of each kind."""

    model_config = ConfigDict(strict=True)

    total: Count
    long: Count
    short: Count


class RowsManifest(BaseModel):
    """What the manifest of training rows must say. Lengths are tokens, sizes are bytes."""

    model_config = ConfigDict(strict=True, frozen=True)

    version: str
    digest: str
    original_window: int = Field(ge=1)
    target_window: int = Field(ge=1)
    token_type: Literal["<u2", "<u4"]
    segments: RowCounts
    files: dict[str, Count]
    settings: dict[str, Any] = {}
    """The settings of the mixture."""


class SegmentData(Sequence[Segment]):
    """The rows of a folder, read from disk one at a time. Create it with :meth:`open`."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], checked: RowsManifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.original_window, self.target_window = checked.original_window, checked.target_window
        self.digest = checked.digest
        tokens = checked.segments.total * self.target_window
        self._rows = _mapped(folder / _ROWS, _ROW, checked.segments.total)
        self._lengths = _mapped(folder / _LENGTHS, np.dtype("<i4"))
        self._tokens = _mapped(folder / _TOKENS, np.dtype(checked.token_type), tokens).reshape(-1, self.target_window)
        self._weights = _mapped(folder / _WEIGHTS, np.dtype("<f4"), whole=self.target_window).reshape(
            -1, self.target_window
        )
        self.long: NDArray[np.bool_] = self._rows["long"].astype(bool)
        """(rows,) which rows are long, without reading their tokens."""

    @classmethod
    def open(cls, folder: Path) -> SegmentData:
        """Raises :class:`UsageError` if the data is missing, half-written, damaged or of another version."""
        path = folder / MANIFEST
        if not path.is_file():
            half = any((folder / name).exists() for name in FILES)
            what = "preparing this training data was interrupted" if half else "not a folder of training data"
            raise UsageError(f"{folder}: {what} ({MANIFEST} is missing); run `lr2eval data mix` again")
        value = read_object(path, fix=_FIX)
        if value.get("version", VERSION) != VERSION:
            raise UsageError(f"{path}: version {value['version']!s:.40}, but this lr2eval reads {VERSION}; {_FIX}")
        check_seal(value, path, _FIX, error=UsageError)
        manifest = checked(RowsManifest, value, str(path), fix=_FIX)
        for name in FILES:
            actual = (folder / name).stat().st_size if (folder / name).is_file() else None
            size = manifest.files.get(name, 0)
            if actual != size:
                found = "is missing" if actual is None else f"has {actual:,} bytes, but {MANIFEST} says {size:,}"
                raise UsageError(f"{folder / name}: {found}; {_FIX}")
        return cls(folder, value, manifest)

    def check(self) -> None:
        """Read all files. Raises :class:`UsageError` if one was changed after it was written.

        A training does it once, at its start: opening checks the sizes alone.
        """
        if (found := _digest(self.folder, self.original_window, self.target_window)) != self.digest:
            raise UsageError(
                f"{self.folder}: its files were changed after they were written (their digest is {found[:12]}, but "
                f"{MANIFEST} says {self.digest[:12]}); run `lr2eval data mix` again"
            )

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Segment:  # type: ignore[override]  # no slices
        at = range(len(self))[index]
        row = self._rows[at]
        end = self._rows[at + 1]["first"] if at + 1 < len(self) else len(self._lengths)
        try:
            return Segment(
                long=bool(row["long"]),
                input_ids=self._tokens[at].astype(np.int64),
                document_lengths=tuple(map(int, self._lengths[row["first"] : end])),
                padding=int(row["padding"]),
                weights=None if row["weights"] < 0 else np.array(self._weights[row["weights"]], dtype=np.float32),
            )
        except (ValueError, IndexError) as error:
            raise UsageError(f"{self.folder}: row {at} is damaged ({first_line(error)}); {_FIX}") from error


class SegmentWriter:
    """Writes rows in order; :meth:`finish` writes the manifest, without which no folder is opened as training data.

    Use as a context manager.
    """

    def __init__(self, folder: Path, original_window: int, target_window: int, vocabulary: int) -> None:
        self.folder, self.original_window, self.target_window = folder, original_window, target_window
        self.token_type = np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")
        self._documents = self._weighted = self._total = self._long = 0
        (folder / MANIFEST).unlink(missing_ok=True)
        self._open: dict[str, BinaryIO] = {name: (folder / name).open("wb") for name in FILES}

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._open.values():
            file.close()

    def add(self, segment: Segment) -> None:
        """Write one row. Raises :class:`ValueError` if its length is not the target window."""
        if len(segment) != self.target_window:
            raise ValueError(f"the row has {len(segment)} tokens, not {self.target_window}")
        weighted = segment.weights is not None
        row = (self._documents, self._weighted if weighted else -1, segment.padding, segment.long)
        self._open[_ROWS].write(np.array([row], dtype=_ROW).tobytes())
        self._open[_LENGTHS].write(np.array(segment.document_lengths, dtype="<i4").tobytes())
        self._open[_TOKENS].write(segment.input_ids.astype(self.token_type).tobytes())
        if segment.weights is not None:
            self._open[_WEIGHTS].write(segment.weights.astype("<f4").tobytes())
        self._documents += len(segment.document_lengths)
        self._weighted += weighted
        self._total += 1
        self._long += segment.long

    def finish(self, facts: Mapping[str, Any]) -> SegmentData:
        """Sync the files, write the manifest (``facts`` and counts of the rows) and open the folder."""
        for file in self._open.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        manifest = {
            **facts,
            "version": VERSION,
            "digest": _digest(self.folder, self.original_window, self.target_window),
            "original_window": self.original_window,
            "target_window": self.target_window,
            "token_type": self.token_type.str,
            "segments": {"total": self._total, "long": self._long, "short": self._total - self._long},
            "files": {name: (self.folder / name).stat().st_size for name in FILES},
        }
        write_json(self.folder / MANIFEST, sealed(manifest))
        return SegmentData.open(self.folder)


def _digest(folder: Path, original_window: int, target_window: int) -> str:
    """sha256 over windows and the bytes of all files: equal for equal rows in equal order."""
    running = hashlib.sha256(f"{VERSION} {original_window} {target_window}".encode())
    for name in FILES:
        running.update(bytes.fromhex(sha256(folder / name)))
    return running.hexdigest()


def _mapped(path: Path, kind: np.dtype[Any], total: int | None = None, whole: int = 1) -> NDArray[Any]:
    """The numbers in a file: ``total`` if that is given, and a multiple of ``whole``."""
    size = path.stat().st_size
    if size % (kind.itemsize * whole) or total not in (None, size // kind.itemsize):
        raise UsageError(f"{path}: its size of {size:,} bytes does not fit {MANIFEST}; {_FIX}")
    if not size:  # an empty file cannot be mapped
        return np.empty(0, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r")
