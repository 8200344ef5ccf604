"""Tokenised documents on disk: written once by any number of processes, in chunks, and found again by content.

A chunk holds the documents of one batch of ``documents``. Its path depends on everything that decides its content: the
tokenizer, BOS and EOS, how the source is read, the hash of the source file and the number of the batch. A chunk is
written atomically. So a killed preparation resumes, and its result does not depend on the number of processes.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from lr2eval.base.files import lock_file, write_all, write_json
from lr2eval.base.ids import digest
from lr2eval.base.reading import checked, opened, read_bytes, read_object
from lr2eval.base.units import format_seconds
from lr2eval.errors import StoreError, UsageError, first_line
from lr2eval.method.data.documents import BATCH_BYTES, DocumentBatch, Tokens, batches, documents
from lr2eval.method.data.sources import SourceConfig, SourcePart
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.workers.pool import Processes

Say = Callable[[str], None]
VERSION = "tokens-1"
_EVERY = 20.0
"""Seconds between two lines of progress."""


class Encoder:
    """A tokenizer that worker processes can receive; it also adds BOS and EOS to each document.

    ``bos`` and ``eos``: ``True`` adds the token, ``False`` does not, ``None`` adds it if the tokenizer has one. Raises
    :class:`UsageError` for ``True`` without the token, and if nothing would mark the ends of documents by default.
    """

    def __init__(self, tokenizer: PromptTokenizer, bos: bool | None = None, eos: bool | None = None) -> None:
        hf = tokenizer.tokenizer
        self.bos = _end(tokenizer, "bos", bos)
        self.eos = _end(tokenizer, "eos", eos)
        if self.bos is None and self.eos is None and (bos is None or eos is None):
            raise UsageError(
                f"{tokenizer.name}: the tokenizer has neither BOS nor EOS, so nothing marks where a document ends; set "
                "eos_token in its tokenizer_config.json, or set bos = false and eos = false"
            )
        self.vocabulary: int = len(hf)
        self.token_type = np.dtype("<u2" if self.vocabulary <= 1 << 16 else "<u4")
        self.key = digest([VERSION, tokenizer.fingerprint(), self.bos, self.eos, BATCH_BYTES])
        # A worker needs only the small tokenizers package to load this part. Computing the fingerprint above has also
        # removed any truncation and padding that an earlier call left in the tokenizer.
        self._fast: Any = deepcopy(hf.backend_tokenizer) if getattr(hf, "is_fast", False) else None
        self._slow: Any = None if self._fast else hf

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Token ids of each text, with BOS and EOS as configured."""
        head, tail = ([] if end is None else [end] for end in (self.bos, self.eos))
        return [np.array([*head, *ids, *tail], dtype=np.int64) for ids in self._ids(list(texts))]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if self._fast is None:
            return [] if not texts else list(self._slow(texts, add_special_tokens=False, verbose=False)["input_ids"])
        return [found.ids for found in self._fast.encode_batch_fast(texts, add_special_tokens=False)]


def _end(tokenizer: PromptTokenizer, name: str, wanted: bool | None) -> int | None:
    found: int | None = getattr(tokenizer.tokenizer, f"{name}_token_id", None)
    if wanted and found is None:
        raise UsageError(
            f"{tokenizer.name}: {name} = true, but the tokenizer has no {name.upper()} token; set {name}_token in its "
            f"tokenizer_config.json, or set {name} = false"
        )
    return None if wanted is False else found


@dataclass(frozen=True)
class ChunkJob:
    """Tokenise a batch of a source and write it to ``path``."""

    path: Path
    source: SourceConfig
    batch: DocumentBatch


class ChunkMaker:
    """Does jobs, in this process or in a worker (as an ``lr2eval.workers.pool.Executor``)."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def run(self, jobs: Iterable[ChunkJob], /) -> Iterator[tuple[int, int]]:
        """(documents, tokens) of each job."""
        for job in jobs:
            ids, weights = _tokens(self._encoder, job)
            write_chunk(job.path, ids, weights, self._encoder.token_type)
            yield len(ids), sum(map(len, ids))


def _in_worker(encoder: Encoder, number: int) -> ChunkMaker:
    # Threads of the tokenizer would compete with the other worker processes for the same cores.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return ChunkMaker(encoder)


def tokenise(
    sources: Sequence[tuple[SourceConfig, Sequence[SourcePart]]], encoder: Encoder, cache: Path, workers: int, say: Say
) -> list[list[Path]]:
    """The chunks of every source, in the order of its documents; only those not in the cache are made.

    Raises :class:`UsageError` for bad data, :class:`StoreError` for a cache that cannot be written and
    :class:`RunFailedError` if processes die. Finished chunks are kept.
    """
    home = cache / encoder.key[:16]
    try:
        home.mkdir(parents=True, exist_ok=True)
        with lock_file(home / "lock", say), Processes(partial(_in_worker, encoder), workers) as pool:
            executor = pool if workers > 1 else ChunkMaker(encoder)
            return [_tokenise_source(source, parts, home, executor, say) for source, parts in sources]
    except OSError as error:
        raise StoreError(
            f"{error.filename or home}: {error.strerror or error}; fix this or choose another token_cache"
        ) from error


def _tokenise_source(
    source: SourceConfig, parts: Sequence[SourcePart], home: Path, executor: Any, say: Say
) -> list[Path]:
    chunks: list[Path] = []
    counts: dict[Path, int] = {}
    """Chunks of each part that was read to its end. Parts of the same content share a folder and its chunks."""
    progress = _Progress(source.name, sum(part.size for part in parts), say)

    def jobs() -> Iterator[ChunkJob]:
        left = source.first
        begun: set[Path] = set()
        before = 0
        for part in parts:
            folder = home / _part_key(source, part)
            known = _complete(folder) if left is None else None
            if known is not None:
                chunks.extend(known)
            else:
                again, count = folder in begun, 0
                begun.add(folder)
                if not again:
                    folder.mkdir(exist_ok=True)
                    for left_over in folder.glob(".*.tmp"):  # of a process that was killed; we hold the lock
                        left_over.unlink()
                for batch in batches(source, part):
                    count += 1
                    chunks.append(folder / f"{batch.number:06}.tok")
                    progress.position = before + batch.position
                    if not again and not intact(chunks[-1]):
                        yield ChunkJob(chunks[-1], source, batch)
                    if left is not None:
                        left -= len(batch.items)
                        if left <= 0:
                            return
                counts[folder] = count
            before += part.size

    for documents_made, tokens in executor.run(jobs()):
        progress.add(documents_made, tokens)
    for folder, count in counts.items():
        write_json(folder / "complete.json", {"chunks": count})
    progress.finish()
    return chunks


class FinishedPart(BaseModel):
    """``complete.json``: the number of chunks of a part that was read to its end."""

    chunks: int = Field(ge=0, strict=True)


def _part_key(source: SourceConfig, part: SourcePart) -> str:
    how: list[Any] = [source.tokenised, None if source.tokenised else source.column]
    return digest([part.kind, part.sha256, how if part.kind in ("jsonl", "parquet", "hub") else None])[:32]


def _complete(folder: Path) -> list[Path] | None:
    """All chunks of a part; ``None`` if some are missing or damaged."""
    path = folder / "complete.json"
    try:
        count = checked(FinishedPart, read_object(path), str(path)).chunks
    except UsageError:
        return None
    chunks: list[Path] = []
    while len(chunks) < count:  # a damaged count may be huge
        chunks.append(folder / f"{len(chunks):06}.tok")
        if not intact(chunks[-1]):
            return None
    return chunks


def _tokens(encoder: Encoder, job: ChunkJob) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32] | None]]:
    found = list(documents(job.source, job.batch))
    encoded = iter(encoder.encode([document for document in found if isinstance(document, str)]))
    ids: list[NDArray[np.int64]] = []
    for document, (line, _) in zip(found, job.batch.items, strict=True):
        if isinstance(document, Tokens):
            given = document.input_ids
            if len(given) and not 0 <= given.min() <= given.max() < encoder.vocabulary:
                bad = given[(given < 0) | (given >= encoder.vocabulary)][0]
                raise UsageError(
                    f"{job.batch.place(line)}, field 'input_ids': token {bad:,} is outside the tokenizer's "
                    f"vocabulary of {encoder.vocabulary:,}; tokenise the data with the tokenizer of this model"
                )
            ids.append(given)
        else:
            ids.append(next(encoded))
    return ids, [document.weights if isinstance(document, Tokens) else None for document in found]


class _Progress:
    """One line every 20 seconds while chunks are made, and one at the end."""

    def __init__(self, name: str, size: int, say: Say) -> None:
        self._name, self._size, self._say = name, size, say
        self._documents = self._tokens = self.position = 0
        """``position``: bytes of the source that were read so far."""
        self._began = self._line = time.monotonic()

    def add(self, documents: int, tokens: int) -> None:
        self._documents += documents
        self._tokens += tokens
        now = time.monotonic()
        if now - self._line >= _EVERY:
            self._line = now
            share = self.position / self._size if self._size else 0
            left = f", {share:.0%}, about {format_seconds((now - self._began) * (1 / share - 1))} left" if share else ""
            self._say(f"tokenising {self._name}: {self._tokens:,} tokens{left}")

    def finish(self) -> None:
        if self._documents:
            took = time.monotonic() - self._began
            self._say(f"tokenised {self._name}: {self._documents:,} documents, {self._tokens:,} tokens in {took:.0f} s")


_HEADER = struct.Struct("<8sQQBBI")
"""Magic, documents, tokens, bytes of a token, whether weights follow, checksum of everything behind the header."""
_MAGIC = b"lr2tok01"


def write_chunk(
    path: Path,
    ids: Sequence[NDArray[np.int64]],
    weights: Sequence[NDArray[np.float32] | None],
    token_type: np.dtype[Any],
) -> None:
    """Write documents atomically. Weights are kept for all documents or, if all weights are 1, for none."""
    weighted = any(given is not None for given in weights)
    parts = [
        np.array([len(each) for each in ids], dtype="<i4").tobytes(),
        *(each.astype(token_type).tobytes() for each in ids),
    ]
    if weighted:
        for each, given in zip(ids, weights, strict=True):
            parts.append((np.ones(len(each)) if given is None else given).astype("<f4").tobytes())
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    header = _HEADER.pack(_MAGIC, len(ids), sum(map(len, ids)), token_type.itemsize, weighted, checksum)
    write_all({path: [header, *parts]}, "choose another token_cache")


def intact(path: Path) -> bool:
    """Whether a chunk exists and is undamaged."""
    try:
        content = memoryview(read_bytes(path))
        magic, documents, total, size, weighted, checksum = _HEADER.unpack_from(content)
    except (UsageError, struct.error):
        return False
    # The checksum does not cover the header itself.
    whole = size in (2, 4) and len(content) == _HEADER.size + 4 * documents + (size + 4 * bool(weighted)) * total
    return bool(whole and magic == _MAGIC and zlib.crc32(content[_HEADER.size :]) == checksum)


def read_lengths(path: Path) -> NDArray[np.int32]:
    """Tokens of each document of a chunk."""
    with _opened(path) as (file, (_, documents, *_)):
        return np.fromfile(file, "<i4", documents)


def read_tokens(path: Path, first: int, count: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """``count`` tokens of a chunk from ``first`` on, counted over its documents, and their weights."""
    with _opened(path) as (file, (_, documents, total, size, weighted, _)):
        begin = _HEADER.size + 4 * documents
        ids = np.frombuffer(os.pread(file.fileno(), count * size, begin + first * size), f"<u{size}")
        if not weighted:
            return ids, None
        return ids, np.frombuffer(os.pread(file.fileno(), 4 * count, begin + total * size + 4 * first), "<f4")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, tuple[Any, ...]]]:
    """A chunk behind its header, and the header."""
    fix = "it was removed or damaged while rows were written; run the same command again"
    try:
        with opened(path, error=StoreError, fix=fix) as file:
            yield file, _HEADER.unpack(file.read(_HEADER.size))
    except (struct.error, TypeError, ValueError, MemoryError) as error:
        raise StoreError(f"{path}: {first_line(error)}; {fix}") from error
