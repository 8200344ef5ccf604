"""Makes many samples in several processes. The samples do not depend on which process makes them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from lr2eval.errors import RunFailedError, TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact.fit import Fit
from lr2eval.workers.pool import Processes

Row = dict[str, Any]
BIG, BIG_BY_WORDS = 2_000_000, 20_000_000
"""Tokens above which more processes pay (each takes seconds to start): for whole prompts, and for counts by words."""
CHUNK_TOKENS = 500_000
"""Tokens of the samples in one message between processes."""
AHEAD = 2
"""Chunks per process that may be made before their turn in the file."""


class SampleMaker(Protocol):
    """How the samples of one task and length are made. It is sent to every process once."""

    @property
    def name(self) -> str:
        """What the user calls the task: ``ruler:vt``."""

    @property
    def length(self) -> int:
        """Tokens of a sample."""

    @property
    def by_words(self) -> bool:
        """Whether prompts are counted by words, which is cheap."""

    def sample(self, index: int, tokenizer: PromptTokenizer) -> Row:
        """The sample of this number."""


def rows(maker: SampleMaker, count: int, tokenizer: PromptTokenizer, workers: int | None) -> Iterator[Row]:
    """The first ``count`` samples, in order, made here or by ``workers`` processes (``None``: chosen here).

    Raises :class:`TaskError` when processes die, and what the maker raises.
    """
    workers = processes(maker, count) if workers is None else workers
    if workers > 1 and count > 1:
        return make_in_processes(maker, count, tokenizer, min(workers, count))
    return (maker.sample(index, tokenizer) for index in range(count))


def row(identity: Mapping[str, Any], fit: Fit, max_new_tokens: int, **more: float) -> Row:
    """A sample as it stands in the data file. ``token_count`` includes the tokens to generate."""
    return {
        **identity,
        "prompt": fit.draft.prompt,
        "answer_prefix": fit.draft.answer_prefix,
        "answers": list(fit.draft.answers),
        "max_new_tokens": max_new_tokens,
        "token_count": fit.tokens + max_new_tokens,
        "depth": fit.draft.depth,
        **more,
        "marks": list(fit.draft.marks),
    }


def processes(maker: SampleMaker, count: int) -> int:
    """Number of processes: all cores of this machine, or one for little work."""
    return (os.cpu_count() or 1) if maker.length * count >= (BIG_BY_WORDS if maker.by_words else BIG) else 1


def make_in_processes(
    maker: SampleMaker, count: int, tokenizer: PromptTokenizer, workers: int, chunk: int | None = None
) -> Iterator[Row]:
    """The same, always with ``workers`` processes; each handles ``chunk`` samples at a time."""
    chunk = chunk or max(1, min(CHUNK_TOKENS // maker.length, -(-count // workers)))
    chunks = (range(start, min(start + chunk, count)) for start in range(0, count, chunk))
    try:
        with Processes(MakerInProcess(maker, tokenizer), workers) as pool:
            for made in pool.run_in_order(chunks, AHEAD * workers):
                yield from made
    except RunFailedError as error:
        benchmark = maker.name.partition(":")[0]
        raise TaskError(
            f"{maker.name} at length {maker.length}: processes that make samples died (often because memory ran out); "
            f"make them in one process with --set {benchmark}.workers=1"
        ) from error


class MakerInProcess:
    """Goes to a worker process and makes the samples of a chunk there."""

    def __init__(self, maker: SampleMaker, tokenizer: PromptTokenizer) -> None:
        self._maker, self._tokenizer = maker, tokenizer.with_chat(tokenizer.chat)

    def __call__(self, number: int) -> MakerInProcess:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        return self

    def run(self, chunks: Sequence[range], /) -> Iterator[list[Row]]:
        for indices in chunks:
            yield [self._maker.sample(index, self._tokenizer) for index in indices]
