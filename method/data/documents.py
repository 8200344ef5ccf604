"""Training documents from files and data sets, read as a stream: a part at a time, in batches for worker processes.

Reading has two steps. :func:`batches` runs in one process and only finds where documents begin and end. So the batches,
and everything made from them, do not depend on the number of workers. :func:`documents` runs in a worker: it decodes,
parses and checks a batch.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lr2eval.base.reading import opened, parse_json, unpack_limit, within
from lr2eval.errors import UsageError, first_line
from lr2eval.method.data.packing import grouped
from lr2eval.method.data.sources import COMPRESSED, FIX, Kind, SourceConfig, SourcePart

BATCH_BYTES = 2 << 20
"""A batch ends with the document that reaches this size."""
LARGEST = 64 << 20
"""Bytes of a line, or of a document between blank lines, once it is unpacked. The file may be of any size."""
_MARK = b"\xef\xbb\xbf"
_OVERHEAD = 64
"""Bytes counted for each document in addition to its content, so that empty documents fill a batch too."""


@dataclass(frozen=True)
class DocumentBatch:
    """Unparsed documents of a part: ``items`` are (line, row or 0; raw content or path)."""

    number: int
    kind: Kind
    where: str
    items: list[tuple[int, Any]]
    position: int
    """Bytes of the part on disk that were read so far."""

    def place(self, line: int) -> str:
        """File and line (or row) of a document, for messages."""
        return f"{self.where}, {'row' if self.kind in ('parquet', 'hub') else 'line'} {line:,}"


@dataclass(frozen=True)
class Tokens:
    """A tokenised document; ``weights`` (T,) like ``input_ids``, or ``None``: all 1."""

    input_ids: NDArray[np.int64]
    weights: NDArray[np.float32] | None


def batches(source: SourceConfig, part: SourcePart) -> Iterator[DocumentBatch]:
    """The documents of a part in batches of about 2 MiB, whose borders depend on the part alone."""
    where = str(part.paths[0]) if part.paths else str(source.hub)
    for number, read in enumerate(grouped(_read(source, part), lambda one: one[2] + _OVERHEAD, BATCH_BYTES)):
        items = [(line, content) for line, content, _, _ in read]
        yield DocumentBatch(number, part.kind, where, items, read[-1][3])


def documents(source: SourceConfig, batch: DocumentBatch) -> Iterator[str | Tokens]:
    """The documents of a batch in order. Raises :class:`UsageError` naming file, line and field of a bad one."""
    for line, content in batch.items:
        if batch.kind == "files":
            with _stream(content) as (_, file):
                whole = within(file, unpack_limit(content), content)
            yield _text(str(content), whole, 1)
        elif batch.kind == "paragraphs":
            yield _text(batch.where, content, line)
        else:
            place, row = batch.place(line), content
            if batch.kind == "jsonl":
                row = parse_json(_text(batch.where, content, line), place, fix="correct or remove the line")
            yield _from_row(source, place, row)


def _read(source: SourceConfig, part: SourcePart) -> Iterator[tuple[int, Any, int, int]]:
    """(line or row, content, its size, position in the part) of every document."""
    if part.kind == "files":
        position = 0
        for path in part.paths:
            size = path.stat().st_size
            position += size
            yield 0, path, size, position
    elif part.kind == "hub":
        for row, values in enumerate(_hub_rows(source, part), start=1):
            yield row, values, _size(values), 0
    elif part.kind == "parquet":
        yield from _parquet(source, part)
    else:
        path = part.paths[0]
        with _stream(path) as (raw, stream):
            lines = enumerate(iter(lambda: _line(stream, path), b""), start=1)
            for line, content in _paragraphs(lines, path) if part.kind == "paragraphs" else _lines(lines):
                yield line, content, len(content), raw.tell()


def _line(stream: IO[bytes], path: Path) -> bytes:
    found = stream.readline(LARGEST + 1)
    if len(found) > LARGEST:
        raise _too_long(path)
    return found


def _too_long(path: Path) -> UsageError:
    return UsageError(f"{path}: holds a line or a document of more than {LARGEST >> 20} MiB; divide it into documents")


def _lines(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, without blank ones."""
    for number, line in lines:
        content = line.removeprefix(_MARK) if number == 1 else line
        if content.strip():
            yield number, content


def _paragraphs(lines: Iterator[tuple[int, bytes]], path: Path) -> Iterator[tuple[int, bytes]]:
    """Blocks of lines between blank lines, each with the number of its first line."""
    begin = size = 0
    held: list[bytes] = []
    for number, line in lines:
        if line.strip():
            begin, size = (begin, size + len(line)) if held else (number, len(line))
            held.append(line)
            if size > LARGEST:
                raise _too_long(path)
        elif held:
            yield begin, b"".join(held)
            held = []
    if held:
        yield begin, b"".join(held)


@contextmanager
def _stream(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file on disk, and the same decompressed. Damage inside the block is reported as one of this file."""
    with opened(path, fix=FIX) as raw:
        kind = COMPRESSED.get(path.suffix)
        if kind is None:
            yield raw, raw
            return
        import pyarrow

        try:
            yield raw, io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), kind), 1 << 20)
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise UsageError(f"{path}: not a readable {kind} file ({first_line(error)}); {FIX}") from error


def _text(where: str, content: bytes, line: int) -> str:
    """``content`` begins at line ``line`` of its file."""
    try:
        return content.removeprefix(_MARK).decode("utf-8") if line == 1 else content.decode("utf-8")
    except UnicodeDecodeError as error:
        at = line + content.count(b"\n", 0, error.start)
        raise UsageError(
            f"{where}, line {at:,}: not UTF-8 (byte 0x{content[error.start]:02x}); convert the file to UTF-8"
        ) from error


def _from_row(source: SourceConfig, where: str, row: Any) -> str | Tokens:
    if not isinstance(row, Mapping):
        raise UsageError(f"{where}: expected an object with fields, got {type(row).__name__}; correct or remove it")
    field = "input_ids" if source.tokenised else source.column
    if field not in row:
        found = ", ".join(sorted(map(str, row)))[:200] or "none"
        fix = "set tokenised = true" if "input_ids" in row else "set column to the field that holds the text"
        raise UsageError(f"{where}: no field {field!r} (its fields: {found}); {fix}")
    if source.tokenised:
        return _tokens(where, row)
    text = row[field]
    if not isinstance(text, str):
        found = "null" if text is None else type(text).__name__
        raise UsageError(f"{where}, field {field!r}: expected text, got {found}; correct or remove it")
    return text


def _tokens(where: str, row: Mapping[str, Any]) -> Tokens:
    ids = _numbers(row["input_ids"])
    if ids is None or ids.dtype.kind not in "iu":
        raise UsageError(f"{where}, field 'input_ids': not a list of whole numbers; correct or remove it")
    given = row.get("weights")
    if given is None:
        return Tokens(ids.astype(np.int64), None)
    weights = _numbers(given)
    if weights is None or weights.dtype.kind not in "iuf" or not np.isfinite(weights).all() or (weights < 0).any():
        raise UsageError(f"{where}, field 'weights': not a list of numbers that are 0 or more; correct it")
    if len(weights) != len(ids):
        raise UsageError(f"{where}: {len(weights):,} weights for {len(ids):,} input_ids; give one for each token")
    return Tokens(ids.astype(np.int64), weights.astype(np.float32))


def _numbers(value: Any) -> NDArray[Any] | None:
    if not isinstance(value, list | np.ndarray):
        return None
    try:
        found = np.asarray(value) if len(value) else np.empty(0, dtype=np.int64)
    except (ValueError, OverflowError):
        return None
    return found if found.ndim == 1 else None


def _size(row: Mapping[str, Any]) -> int:
    return sum(len(value) for value in row.values() if isinstance(value, str | list))


def _columns(source: SourceConfig) -> list[str]:
    return ["input_ids", "weights"] if source.tokenised else [source.column]


def _parquet(source: SourceConfig, part: SourcePart) -> Iterator[tuple[int, Any, int, int]]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    path = part.paths[0]
    try:
        with ParquetFile(path, buffer_size=1 << 20) as file:
            there = file.schema_arrow.names
            wanted = _columns(source)
            if wanted[0] not in there:
                raise UsageError(f"{path}: no column {wanted[0]!r} (its columns: {', '.join(there)}); set column")
            total, row = max(1, file.metadata.num_rows), 0
            for batch in file.iter_batches(batch_size=64, columns=[name for name in wanted if name in there]):
                for values in batch.to_pylist():
                    row += 1
                    yield row, values, _size(values), part.size * row // total
    except (OSError, ValueError, OverflowError, MemoryError, pyarrow.ArrowException) as error:
        raise UsageError(f"{path}: not a readable Parquet file ({first_line(error)}); download it again") from error


def _hub_rows(source: SourceConfig, part: SourcePart) -> Iterator[Mapping[str, Any]]:
    import datasets

    wanted = _columns(source)
    try:
        found = datasets.load_dataset(
            source.hub, source.subset, split=source.split, revision=part.revision, streaming=True
        )
        for row in found:
            # Only the wanted columns are passed on; a row without them is passed on whole, for the error message.
            yield {name: row[name] for name in wanted if name in row} if wanted[0] in row else row
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise UsageError(
            f"source {source.name!r}: cannot read {source.hub} ({type(error).__name__}: {reason}); correct hub, "
            "subset and split, or use local files with path"
        ) from error
