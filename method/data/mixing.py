"""A folder of training rows out of documents: the mixture of LongRoPE2's mixed-window training (section 4.2).

Documents are tokenised (``token_cache``), chosen by length and source (``selection``), put into rows of
L tokens (``packing``) and written (``rows``). Only lengths and places are held for all of them, about
20 bytes a document; texts and tokens pass through.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr2eval.base.files import cache_dir, lock_file
from lr2eval.base.ids import digest
from lr2eval.errors import StoreError, UsageError
from lr2eval.method.data.config import MixtureConfig
from lr2eval.method.data.ledger import Ledger, already_there, describe
from lr2eval.method.data.packing import Joined, join, pack
from lr2eval.method.data.rows import Segment, SegmentData, SegmentWriter
from lr2eval.method.data.selection import Cell, Drawn, budget, draw, shares
from lr2eval.method.data.sources import Part, SourceConfig, parts
from lr2eval.method.data.token_cache import ChunkReader, Encoder, Say, tokenise
from lr2eval.model.tokenizer import PromptTokenizer

WASTE = 0.02
"""Share of padding in short rows from which on it is said."""


def prepare_mixture(
    config: MixtureConfig, tokenizer: PromptTokenizer, out_dir: Path, workers: int = 1, say: Say = lambda _: None
) -> SegmentData:
    """Training rows in ``out_dir``; at once if they are there already.

    The rows depend on configuration, tokenizer and the content of the sources alone. Interrupted, the same call goes on
    with the documents that were tokenised. ``say`` is told of progress and of what a reader should know. Raises
    :class:`UsageError` for configurations and data that cannot be used, :class:`StoreError` for disks that cannot.
    """
    encoder = Encoder(tokenizer, config.bos, config.eos)
    found = [(source, *parts(source)) for source in config.sources]
    settings = config.settings() | {
        "encoder": encoder.key,
        "content": {source.name: digest([part.sha256 for part in read]) for source, read, _ in found},
    }
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with lock_file(out_dir / ".lock", say):
            if (there := already_there(out_dir, settings)) is not None:
                return there
            sources = [(source, read) for source, read, _ in found]
            cache = config.token_cache or cache_dir() / "tokens"
            ledger = Ledger([(source, len(read), ignored) for source, read, ignored in found])
            return _prepare(config, tokenizer, encoder, sources, cache, out_dir, workers, say, settings, ledger)
    except OSError as error:
        raise StoreError(
            f"{out_dir}: {error.strerror or error}; free some space or make it writable, then run again"
        ) from error


def _prepare(
    config: MixtureConfig,
    tokenizer: PromptTokenizer,
    encoder: Encoder,
    sources: Sequence[tuple[SourceConfig, Sequence[Part]]],
    cache: Path,
    out_dir: Path,
    workers: int,
    say: Say,
    settings: Mapping[str, Any],
    ledger: Ledger,
) -> SegmentData:
    chunks = tokenise(sources, encoder, cache, workers, say)
    with ChunkReader([path for group in chunks for path in group]) as reader:
        index = Index.make(reader, [len(group) for group in chunks], config.sources)
        drawn = _choose(config, index, ledger)
        short, long = (_shuffled([each for each in drawn if each.cell.long == kind], config.seed) for kind in (0, 1))
        joined = join(long[1].tolist(), config.target_window)
        ledger.joined(joined)
        if not joined.rows:
            raise UsageError(
                f"the long documents chosen have {int(long[1].sum()):,} tokens together, less than one row of "
                f"{config.target_window:,}; raise tokens, add long documents or lower target_window"
            )
        pad = next((each for each in (_pad(tokenizer), encoder.eos, encoder.bos) if each is not None), 0)
        rows = _Rows(config, index, reader, pad)
        began = said = time.monotonic()
        with SegmentWriter(out_dir, config.original_window, config.target_window, encoder.vocabulary) as writer:
            for number, segment in enumerate(rows.all(long[0], joined, short[0])):
                writer.add(segment)
                ledger.row(segment)
                if time.monotonic() - said >= 20:
                    said = time.monotonic()
                    say(f"writing rows: {number + 1:,} in {said - began:.0f} s")
            facts = describe(config, tokenizer, encoder, drawn, ledger) | {"settings": settings}
            data = writer.finish(facts)
    for line in ledger.notices(WASTE):
        say(line)
    return data


def _pad(tokenizer: PromptTokenizer) -> int | None:
    found: int | None = getattr(tokenizer.tokenizer, "pad_token_id", None)
    return found


@dataclass(frozen=True)
class Index:
    """(documents,) of all sources in order: chunk, first token in the chunk, tokens, source."""

    chunk: NDArray[np.int32]
    first: NDArray[np.int64]
    length: NDArray[np.int64]
    source: NDArray[np.int16]

    @classmethod
    def make(cls, reader: ChunkReader, counts: Sequence[int], sources: Sequence[SourceConfig]) -> Index:
        """``counts``: chunks of each source. Raises :class:`UsageError` for a source without documents."""
        columns: list[tuple[NDArray[Any], ...]] = []
        chunk = 0
        for number, (count, source) in enumerate(zip(counts, sources, strict=True)):
            left = np.inf if source.first is None else source.first
            held = 0
            for _ in range(count):
                lengths = reader.lengths(chunk).astype(np.int64)
                first = np.cumsum(lengths) - lengths
                take = int(min(left, len(lengths)))
                left -= take
                held += take
                columns.append(
                    (
                        np.full(take, chunk, np.int32),
                        first[:take],
                        lengths[:take].astype(np.int32),
                        np.full(take, number, np.int16),
                    )
                )
                chunk += 1
            if not held:
                raise UsageError(f"source {source.name!r}: holds no documents; remove it or correct its path")
        return cls(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def _choose(config: MixtureConfig, index: Index, ledger: Ledger) -> list[Drawn]:
    """Documents of every cell, and in the ledger what is left out and why."""
    ledger.documents(index.source, index.length)
    ledger.leave_out(f"shorter than min_tokens ({config.min_tokens:,})", index.length[index.length < config.min_tokens])
    cells: list[Cell] = []
    lower = config.min_tokens - 1
    for number, bucket in enumerate(config.all_buckets):
        upper = np.inf if bucket.up_to is None else bucket.up_to
        inside = (index.length > lower) & (index.length <= upper)
        if bucket.share == 0:
            ledger.leave_out("in a bucket of share 0", index.length[inside])
        elif not inside.any():
            raise UsageError(_nothing(config, index.length, lower, bucket.up_to))
        else:
            long = lower >= config.original_window
            for at, source in enumerate(config.sources):
                documents = np.flatnonzero(inside & (index.source == at))
                if len(documents):
                    tokens = int(index.length[documents].sum())
                    cells.append(Cell(number, at, documents, tokens, source.upsample if long else 1.0, long))
        lower = max(lower, int(min(upper, np.iinfo(np.int64).max // 2)))
    last = config.all_buckets[-1].up_to
    if last is not None:
        ledger.leave_out(f"longer than the last bucket ({last:,})", index.length[index.length > last])
    of_buckets = {at: b.share for at, b in enumerate(config.all_buckets) if b.share} or None
    of_sources = {at: s.share for at, s in enumerate(config.sources) if s.share is not None} or None
    part = shares(cells, of_buckets, of_sources, [source.name for source in config.sources])
    most = budget(cells, part)
    total = most if config.tokens is None else config.tokens
    if total > most and not config.repeat:
        raise UsageError(_too_few(config, cells, part, total, most))
    drawn = []
    for cell, share in zip(cells, part, strict=True):
        found = draw(cell, index.length, round(total * share), config.seed)
        ledger.drawn(found, index.length)
        drawn.append(found)
    short = [found for found in drawn if not found.cell.long]
    if short and not any(len(found.documents) for found in short):
        raise UsageError(f"a budget of {total:,} tokens leaves too few for one short document; raise tokens")
    return drawn


def _nothing(config: MixtureConfig, lengths: NDArray[np.int64], lower: int, upper: int | None) -> str:
    there = f"of {len(lengths):,} documents the shortest has {lengths.min():,} tokens, the longest {lengths.max():,}"
    window = config.original_window
    if lengths.max() <= window:
        return (
            f"no long documents: {there}, none more than original_window {window:,}; add a source of longer documents "
            "(one file, or one line of JSONL, is one document)"
        )
    if upper is not None and upper <= window and not ((lengths >= config.min_tokens) & (lengths <= window)).any():
        return (
            f"no short documents: {there}, none from min_tokens {config.min_tokens:,} to original_window {window:,}; "
            'add a source of them (documents = "paragraphs" splits text at blank lines), or give their bucket share 0'
        )
    edge = "" if upper is None else f" and at most {upper:,}"
    return f"no documents of more than {lower:,}{edge} tokens ({there}); change buckets or add such documents"


def _too_few(config: MixtureConfig, cells: Sequence[Cell], part: NDArray[np.float64], total: int, most: int) -> str:
    there = [cell.tokens * cell.upsample for cell in cells]
    worst = int(np.argmax([total * share / tokens for share, tokens in zip(part, there, strict=True)]))
    cell = cells[worst]
    return (
        f"source {config.sources[cell.source].name!r} has {int(there[worst]):,} tokens in "
        f"{'long' if cell.long else 'short'} documents of bucket {cell.bucket + 1}, and {round(total * part[worst]):,} "
        f"are wanted; lower tokens to {most:,}, add documents, change shares, or set repeat = true"
    )


def _shuffled(drawn: Sequence[Drawn], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Documents and used lengths of some cells in one random order."""
    empty = np.empty(0, dtype=np.int64)
    documents = np.concatenate([empty, *(each.documents for each in drawn)])
    lengths = np.concatenate([empty, *(each.lengths for each in drawn)])
    order = np.random.default_rng([seed, 0, 0, 0, 1]).permutation(len(documents))  # no cell has five
    return documents[order], lengths[order]


class _Rows:
    """Rows as tokens, read from the chunks one row at a time."""

    def __init__(self, config: MixtureConfig, index: Index, reader: ChunkReader, pad: int) -> None:
        self._short, self._length = config.original_window, config.target_window
        self._index, self._reader, self._pad = index, reader, pad

    def all(self, long: NDArray[np.int64], joined: Joined, short: NDArray[np.int64]) -> Iterator[Segment]:
        """Long rows, then short ones."""
        for row in joined.rows:
            yield self._row([(int(long[document]), first, count) for document, first, count in row], long=True)
        # A view gives plain integers without an object for each of maybe millions.
        lengths = np.ascontiguousarray(self._index.length[short], dtype=np.int64).data
        for packed in pack(lengths, self._length):
            yield self._row([(int(short[document]), 0, lengths[document]) for document in packed], long=False)

    def _row(self, pieces: Sequence[tuple[int, int, int]], long: bool) -> Segment:
        ids = np.full(self._length, self._pad, dtype=np.int64)
        weights = np.ones(self._length, dtype=np.float32)
        at = 0
        for document, first, count in pieces:
            begin = int(self._index.first[document]) + first
            found, given = self._reader.tokens(int(self._index.chunk[document]), begin, count)
            ids[at : at + count] = found
            if given is not None:
                weights[at : at + count] = given
            at += count
        padding = self._length - at
        if long:
            documents: tuple[int, ...] = (self._length,)
        else:
            whole, rest = divmod(padding, self._short)
            documents = (*(count for _, _, count in pieces), *[self._short] * whole, *([rest] if rest else []))
        return Segment(long, ids, documents, padding, None if (weights == 1).all() else weights)
