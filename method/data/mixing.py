"""Documents to a folder of training rows: the mixture of LongRoPE2's mixed-window training (section 4.2).

Documents are tokenised (``token_cache``), chosen by length and source (``selection``), put into rows of L tokens
(``packing``) and written (``rows``). Memory holds only the length and position of every document, about 20 bytes each.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr2eval.base.files import cache_dir, disk_problem, lock_file
from lr2eval.base.ids import digest
from lr2eval.errors import StoreError, UsageError
from lr2eval.method.data.config import MixtureConfig
from lr2eval.method.data.ledger import Ledger, already_there, describe
from lr2eval.method.data.packing import Joined, join, pack
from lr2eval.method.data.rows import Segment, SegmentData, SegmentWriter
from lr2eval.method.data.selection import Drawn, MixtureCell, budget, draw, shares
from lr2eval.method.data.sources import SourceConfig, parts
from lr2eval.method.data.token_cache import Encoder, Say, read_lengths, read_tokens, tokenise
from lr2eval.model.tokenizer import PromptTokenizer

WASTE = 0.02
"""Share of padding in short rows above which a note is printed."""


def prepare_mixture(
    config: MixtureConfig, tokenizer: PromptTokenizer, out_dir: Path, workers: int = 1, say: Say = lambda _: None
) -> SegmentData:
    """Training rows in ``out_dir``; returned at once if they exist already.

    The rows depend only on the configuration, the tokenizer and the content of the sources. After an interruption the
    same call keeps the documents that were tokenised. ``say`` gets lines of progress and notes. Raises
    :class:`UsageError` for unusable configurations and data, :class:`StoreError` if a folder cannot be written.
    """
    encoder = Encoder(tokenizer, config.bos, config.eos)
    found = [(source, *parts(source)) for source in config.sources]
    settings = config.settings() | {
        "encoder": encoder.key,
        "content": {source.name: digest([part.sha256 for part in read]) for source, read, _ in found},
    }
    ledger = Ledger([(source, len(read), ignored) for source, read, ignored in found])
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with lock_file(out_dir / ".lock", say):
            if (there := already_there(out_dir, settings)) is not None:
                return there
            cache = config.token_cache or cache_dir() / "tokens"
            chunks = tokenise([(source, read) for source, read, _ in found], encoder, cache, workers, say)
            documents = DocumentIndex.make(chunks, config.sources)
            drawn = _choose(config, documents, ledger)
            long, joined = _join_long(config, drawn)
            ledger.joined(joined)
            rows = _rows(config, documents, _padding_token(tokenizer, encoder), long, joined, drawn)
            with SegmentWriter(out_dir, config.original_window, config.target_window, encoder.vocabulary) as writer:
                _write(rows, writer, ledger, say)
                data = writer.finish(describe(config, tokenizer, encoder, drawn, ledger) | {"settings": settings})
    except OSError as error:
        raise StoreError(f"{out_dir}: {disk_problem(error, 'make it writable')}, then run again") from error
    for line in ledger.notices(WASTE):
        say(line)
    return data


def _padding_token(tokenizer: PromptTokenizer, encoder: Encoder) -> int:
    candidates = (getattr(tokenizer.tokenizer, "pad_token_id", None), encoder.eos, encoder.bos)
    return next((each for each in candidates if each is not None), 0)


def _write(rows: Iterable[Segment], writer: SegmentWriter, ledger: Ledger, say: Say) -> None:
    began = said = time.monotonic()
    for number, segment in enumerate(rows):
        writer.add(segment)
        ledger.row(segment)
        if time.monotonic() - said >= 20:
            said = time.monotonic()
            say(f"writing rows: {number + 1:,} in {said - began:.0f} s")


@dataclass(frozen=True)
class DocumentIndex:
    """Where the tokens of every document are. The arrays (documents,) list all sources in order."""

    chunks: Sequence[Path]
    chunk: NDArray[np.int32]
    """Number of the document's chunk."""
    first: NDArray[np.int64]
    """First token in the chunk."""
    length: NDArray[np.int64]
    """Tokens."""
    source: NDArray[np.int16]

    @classmethod
    def make(cls, chunks: Sequence[Sequence[Path]], sources: Sequence[SourceConfig]) -> DocumentIndex:
        """``chunks`` of each source. Raises :class:`UsageError` for a source without documents."""
        columns: list[tuple[NDArray[Any], ...]] = []
        for number, (paths, source) in enumerate(zip(chunks, sources, strict=True)):
            left = source.first
            held = 0
            for path in paths:
                lengths = read_lengths(path).astype(np.int64)
                first = np.cumsum(lengths) - lengths
                take = len(lengths) if left is None else min(left - held, len(lengths))
                held += take
                chunk = np.full(take, len(columns), np.int32)
                columns.append((chunk, first[:take], lengths[:take].astype(np.int32), np.full(take, number, np.int16)))
            if not held:
                raise UsageError(f"source {source.name!r}: has no documents; remove it or correct its path")
        every = [path for paths in chunks for path in paths]
        return cls(every, *(np.concatenate(column) for column in zip(*columns, strict=True)))


def _choose(config: MixtureConfig, documents: DocumentIndex, ledger: Ledger) -> list[Drawn]:
    """Documents of every cell; the ledger counts what is left out and why."""
    ledger.documents(documents.source, documents.length)
    length = documents.length
    ledger.leave_out(f"shorter than min_tokens ({config.min_tokens:,})", length[length < config.min_tokens])
    cells: list[MixtureCell] = []
    lower = config.min_tokens - 1
    for number, bucket in enumerate(config.all_buckets):
        upper = np.inf if bucket.up_to is None else bucket.up_to
        inside = (length > lower) & (length <= upper)
        if bucket.share == 0:
            ledger.leave_out("in a bucket of share 0", length[inside])
        elif not inside.any():
            raise UsageError(_nothing(config, length, lower, bucket.up_to))
        else:
            long = lower >= config.original_window
            for at, source in enumerate(config.sources):
                held = np.flatnonzero(inside & (documents.source == at))
                if len(held):
                    tokens = int(length[held].sum())
                    cells.append(MixtureCell(number, at, held, tokens, source.upsample if long else 1.0, long))
        lower = max(lower, int(min(upper, np.iinfo(np.int64).max // 2)))
    last = config.all_buckets[-1].up_to
    if last is not None:
        ledger.leave_out(f"longer than the last bucket ({last:,})", length[length > last])
    of_buckets = {at: b.share for at, b in enumerate(config.all_buckets) if b.share} or None
    of_sources = {at: s.share for at, s in enumerate(config.sources) if s.share is not None} or None
    part = shares(cells, of_buckets, of_sources, [source.name for source in config.sources])
    most = budget(cells, part)
    total = most if config.tokens is None else config.tokens
    if total > most and not config.repeat:
        raise UsageError(_too_few(config, cells, part, total, most))
    drawn = []
    for cell, share in zip(cells, part, strict=True):
        found = draw(cell, length, round(total * share), config.seed)
        ledger.drawn(found, length)
        drawn.append(found)
    short = [found for found in drawn if not found.cell.long]
    if short and not any(len(found.documents) for found in short):
        raise UsageError(f"tokens = {total:,} leaves too few tokens for even one short document; raise tokens")
    return drawn


def _nothing(config: MixtureConfig, lengths: NDArray[np.int64], lower: int, upper: int | None) -> str:
    found = f"{len(lengths):,} documents have {lengths.min():,} to {lengths.max():,} tokens"
    window = config.original_window
    if lengths.max() <= window:
        return (
            f"no long documents: {found}, none has more than original_window ({window:,}); add a source of longer "
            "documents (each file, or each line of JSONL, is one document)"
        )
    if upper is not None and upper <= window and not ((lengths >= config.min_tokens) & (lengths <= window)).any():
        return (
            f"no short documents: {found}, none has between min_tokens ({config.min_tokens:,}) and original_window "
            f'({window:,}); add a source of short documents (documents = "paragraphs" splits text at blank lines), or '
            "give their bucket share 0"
        )
    edge = "" if upper is None else f" and at most {upper:,}"
    return f"no documents of more than {lower:,}{edge} tokens ({found}); change buckets or add documents of this length"


def _too_few(
    config: MixtureConfig, cells: Sequence[MixtureCell], part: NDArray[np.float64], total: int, most: int
) -> str:
    held = [cell.tokens * cell.upsample for cell in cells]
    worst = int(np.argmax([total * share / tokens for share, tokens in zip(part, held, strict=True)]))
    cell = cells[worst]
    return (
        f"source {config.sources[cell.source].name!r} has only {int(held[worst]):,} tokens in "
        f"{'long' if cell.long else 'short'} documents of bucket {cell.bucket + 1}, but the mixture needs "
        f"{round(total * part[worst]):,}; lower tokens to {most:,}, add documents, change shares, or set repeat = true"
    )


def _shuffled(drawn: Sequence[Drawn], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Documents of some cells and their used lengths, in one random order."""
    empty = np.empty(0, dtype=np.int64)
    documents = np.concatenate([empty, *(each.documents for each in drawn)])
    lengths = np.concatenate([empty, *(each.lengths for each in drawn)])
    order = np.random.default_rng([seed, 0, 0, 0, 1]).permutation(len(documents))  # five numbers: the seed of no cell
    return documents[order], lengths[order]


def _join_long(config: MixtureConfig, drawn: Sequence[Drawn]) -> tuple[NDArray[np.int64], Joined]:
    """The long documents in a random order and their rows. Raises :class:`UsageError` if they fill no row."""
    long, used = _shuffled([each for each in drawn if each.cell.long], config.seed)
    joined = join(used.tolist(), config.target_window)
    if not joined.rows:
        raise UsageError(
            f"the long documents chosen have {int(used.sum()):,} tokens together, less than one row of "
            f"{config.target_window:,}; raise tokens, add long documents or lower target_window"
        )
    return long, joined


def _rows(
    config: MixtureConfig,
    documents: DocumentIndex,
    pad: int,
    long: NDArray[np.int64],
    joined: Joined,
    drawn: Sequence[Drawn],
) -> Iterator[Segment]:
    """Long rows, then short ones; their tokens are read from the chunks one row at a time."""

    def row(pieces: Sequence[tuple[int, int, int]], is_long: bool) -> Segment:
        ids = np.full(config.target_window, pad, dtype=np.int64)
        weights = np.ones(config.target_window, dtype=np.float32)
        at = 0
        for document, first, count in pieces:
            begin = int(documents.first[document]) + first
            found, given = read_tokens(documents.chunks[documents.chunk[document]], begin, count)
            ids[at : at + count] = found
            if given is not None:
                weights[at : at + count] = given
            at += count
        padding = config.target_window - at
        lengths: tuple[int, ...] = (config.target_window,)
        if not is_long:
            whole, rest = divmod(padding, config.original_window)
            lengths = (*(count for *_, count in pieces), *[config.original_window] * whole, *([rest] if rest else []))
        return Segment(is_long, ids, lengths, padding, None if (weights == 1).all() else weights)

    for pieces in joined.rows:
        yield row([(int(long[number]), first, count) for number, first, count in pieces], True)
    short, _ = _shuffled([each for each in drawn if not each.cell.long], config.seed)
    # A view gives plain integers without an object for each of maybe millions.
    lengths = np.ascontiguousarray(documents.length[short], dtype=np.int64).data
    for packed in pack(lengths, config.target_window):
        yield row([(int(short[number]), 0, lengths[number]) for number in packed], False)
