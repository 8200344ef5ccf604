"""Tokenised documents on disk: made once by any number of processes, kept chunk by chunk, found again by content.

A chunk holds the documents of one batch of ``documents``. Its place in the cache says what it was made from: the
tokenizer, what was added at the ends of documents, how the source was read, the hash of its file, its number. Chunks
appear whole or not at all, so a killed preparation goes on where it was, and its result does not depend on how many
processes there were.
"""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr2eval.base.files import lock_file, write_json, write_parts
from lr2eval.base.ids import digest
from lr2eval.base.units import format_seconds
from lr2eval.errors import StoreError, UsageError
from lr2eval.method.data.documents import BATCH_BYTES, Batch, Tokens, batches, documents
from lr2eval.method.data.sources import Part, SourceConfig
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.workers.pool import Processes

Say = Callable[[str], None]
VERSION = "tokens-1"
_EVERY = 20.0
"""Seconds between two lines of progress."""


class Encoder:
    """A tokenizer as worker processes need it, with what stands at the ends of each document.

    ``bos`` and ``eos``: put there (an error if the tokenizer has none), left out, or by default put there if there is
    one. Raises :class:`UsageError` if that is asked or if by default nothing would mark where documents end.
    """

    def __init__(self, tokenizer: PromptTokenizer, bos: bool | None = None, eos: bool | None = None) -> None:
        hf = tokenizer.tokenizer
        self.bos = _end(tokenizer, "bos", bos)
        self.eos = _end(tokenizer, "eos", eos)
        if self.bos is None and self.eos is None and (bos is None or eos is None):
            raise UsageError(
                f"{tokenizer.name}: the tokenizer has neither BOS nor EOS, so nothing would mark where documents end; "
                "set eos_token in its tokenizer_config.json, or bos = false and eos = false"
            )
        self.vocabulary: int = len(hf)
        self.token_type = np.dtype("<u2" if self.vocabulary <= 1 << 16 else "<u4")
        self.key = digest([VERSION, tokenizer.fingerprint(), self.bos, self.eos, BATCH_BYTES])
        # Text rather than the object: a worker then imports the small tokenizers package alone. The fingerprint's own
        # encoding has just undone any truncation and padding that an earlier call left in the tokenizer.
        self._fast: str | None = hf.backend_tokenizer.to_str() if getattr(hf, "is_fast", False) else None
        self._slow: Any = None if self._fast else hf
        self._loaded: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_loaded": None}

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Token ids of each text with the ends that were asked for."""
        head, tail = ([] if end is None else [end] for end in (self.bos, self.eos))
        return [np.array([*head, *ids, *tail], dtype=np.int64) for ids in self._ids(list(texts))]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if self._fast is None:
            return [] if not texts else list(self._slow(texts, add_special_tokens=False, verbose=False)["input_ids"])
        if self._loaded is None:
            from tokenizers import Tokenizer

            self._loaded = Tokenizer.from_str(self._fast)
        return [found.ids for found in self._loaded.encode_batch_fast(texts, add_special_tokens=False)]


def _end(tokenizer: PromptTokenizer, name: str, wanted: bool | None) -> int | None:
    found: int | None = getattr(tokenizer.tokenizer, f"{name}_token_id", None)
    if wanted and found is None:
        raise UsageError(
            f"{tokenizer.name}: {name} = true, but the tokenizer has no {name.upper()}; set {name}_token in its "
            f"tokenizer_config.json, or {name} = false"
        )
    return None if wanted is False else found


@dataclass(frozen=True)
class Job:
    """Tokenise a batch of a source into this file; ``position``: bytes of the source up to the end of the batch."""

    path: Path
    source: SourceConfig
    batch: Batch
    position: int


@dataclass(frozen=True)
class Done:
    """What came of a job."""

    documents: int
    tokens: int
    position: int


class InProcess:
    """Does jobs where it is; satisfies ``lr2eval.workers.pool.Executor``."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def run(self, jobs: Iterable[Job], /) -> Iterator[Done]:
        for job in jobs:
            ids, weights = _tokens(self._encoder, job)
            write_chunk(job.path, ids, weights, self._encoder.token_type)
            yield Done(len(ids), sum(map(len, ids)), job.position)


@dataclass(frozen=True)
class _Build:
    encoder: Encoder

    def __call__(self, number: int) -> InProcess:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        return InProcess(self.encoder)


def tokenise(
    sources: Sequence[tuple[SourceConfig, Sequence[Part]]], encoder: Encoder, cache: Path, workers: int, say: Say
) -> list[list[Path]]:
    """The chunks of every source, in the order of its documents; what is not in the cache yet is made.

    Raises :class:`UsageError` for bad data, :class:`StoreError` for a cache that cannot be written and
    :class:`RunFailedError` if processes die; finished chunks stay.
    """
    home = cache / encoder.key[:16]
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{home}: {error.strerror or error}; choose another token_cache") from error
    with lock_file(home / "lock", say), Processes(_Build(encoder), workers) as pool, _one_core_each():
        here = InProcess(encoder)
        return [_tokenise_source(source, parts, home, pool if workers > 1 else here, say) for source, parts in sources]


def _tokenise_source(source: SourceConfig, parts: Sequence[Part], home: Path, pool: Any, say: Say) -> list[Path]:
    chunks: list[Path] = []
    whole: list[tuple[Path, int]] = []
    progress = _Progress(source.name, sum(part.size for part in parts), say)
    begun: set[Path] = set()  # files of the same content share a folder and its chunks

    def jobs() -> Iterator[Job]:
        left, before = source.first, 0
        for part in parts:
            folder = home / _part_key(source, part)
            known = _complete(folder)
            if known is not None and left is None:
                chunks.extend(known)
            else:
                before_part = len(chunks)
                again = folder in begun
                begun.add(folder)
                if not again:
                    _make(folder)
                for batch in batches(source, part):
                    chunks.append(folder / f"{batch.number:06}.tok")
                    if not again and not intact(chunks[-1]):
                        yield Job(chunks[-1], source, batch, before + batch.position)
                    if left is not None:
                        left -= len(batch.items)
                        if left <= 0:
                            return
                whole.append((folder, len(chunks) - before_part))
            before += part.size

    for done in pool.run(jobs()):
        progress.add(done)
    for folder, count in whole:
        write_json(folder / "complete.json", {"chunks": count})
    progress.finish()
    return chunks


def _part_key(source: SourceConfig, part: Part) -> str:
    how: list[Any] = [source.tokenised, None if source.tokenised else source.column]
    return digest([part.kind, part.sha256, how if part.kind in ("jsonl", "parquet", "hub") else None])[:32]


def _complete(folder: Path) -> list[Path] | None:
    """All chunks of a part, if it is finished and nothing was damaged since."""
    try:
        count = int(json.loads((folder / "complete.json").read_text(encoding="utf-8"))["chunks"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    chunks = [folder / f"{number:06}.tok" for number in range(count)]
    return chunks if all(map(intact, chunks)) else None


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".*.tmp"):  # of a process that was killed while writing; we hold the lock
            left.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}; choose another token_cache") from error


def _tokens(encoder: Encoder, job: Job) -> tuple[list[NDArray[np.int64]], list[NDArray[np.float32] | None]]:
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
                    f"vocabulary of {encoder.vocabulary:,}; tokenise with the tokenizer of this model"
                )
            ids.append(given)
        else:
            ids.append(next(encoded))
    return ids, [document.weights if isinstance(document, Tokens) else None for document in found]


class _Progress:
    """A line when something is made, at most one every 20 seconds, and one at the end."""

    def __init__(self, name: str, size: int, say: Say) -> None:
        self._name, self._size, self._say = name, size, say
        self._documents = self._tokens = self._position = 0
        self._began = self._line = time.monotonic()

    def add(self, done: Done) -> None:
        self._documents += done.documents
        self._tokens += done.tokens
        self._position = max(self._position, done.position)
        now = time.monotonic()
        if now - self._line >= _EVERY:
            self._line = now
            share = self._position / self._size if self._size else 0
            left = f", {share:.0%}, about {format_seconds((now - self._began) * (1 / share - 1))} left" if share else ""
            self._say(f"tokenising {self._name}: {self._tokens:,} tokens{left}")

    def finish(self) -> None:
        if self._documents:
            took = time.monotonic() - self._began
            self._say(f"tokenised {self._name}: {self._documents:,} documents, {self._tokens:,} tokens in {took:.0f} s")


@contextmanager
def _one_core_each() -> Iterator[None]:
    """Processes are the parallelism here: threads of the tokenizer would fight over the same cores."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


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
