"""Making many samples in several processes. Which process makes a sample, and how many there are, changes no byte."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import Any

from lr2eval._errors import TaskError
from lr2eval._tokens import PromptTokenizer
from lr2eval.tasks.ruler.counting import counting
from lr2eval.tasks.ruler.generate import Plan, make_samples

Rows = list[dict[str, Any]]
BIG, BIG_BY_WORDS = 2_000_000, 20_000_000
"""Tokens from where on starting processes (seconds each) pays: counting whole prompts, and counting by words."""
CHUNK_TOKENS = 500_000
"""Tokens made per message between processes."""
AHEAD = 2
"""Finished or running chunks per process that wait for their turn in the file."""


def processes(plan: Plan, count: int, tokenizer: PromptTokenizer) -> int:
    """How many processes the work deserves: the cores of this machine, or one when it is little."""
    big = BIG_BY_WORDS if counting(tokenizer).additive else BIG
    return (os.cpu_count() or 1) if plan.length * count >= big else 1


def make_in_processes(
    plan: Plan, count: int, tokenizer: PromptTokenizer, workers: int, chunk: int | None = None
) -> Iterator[dict[str, Any]]:
    """The first ``count`` samples, in order, made by ``workers`` processes in chunks of ``chunk`` samples.

    Few chunks are held at a time. Raises :class:`TaskError` when a process dies.
    """
    chunk = chunk or max(1, min(CHUNK_TOKENS // plan.length, -(-count // workers)))
    jobs = (range(start, min(start + chunk, count)) for start in range(0, count, chunk))
    # A fresh interpreter each: a fork would inherit the threads of torch and of the tokenizer.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_start,
        initargs=(tokenizer.tokenizer, tokenizer.chat, tokenizer.name, counting(tokenizer).additive),
    )
    try:
        waiting: deque[Future[Rows]] = deque(pool.submit(_make, plan, job) for job in islice(jobs, AHEAD * workers))
        while waiting:
            rows = waiting.popleft().result()
            waiting.extend(pool.submit(_make, plan, job) for job in islice(jobs, 1))
            yield from rows
    except BrokenProcessPool as error:
        raise TaskError(
            f"ruler:{plan.task} at length {plan.length}: a process making samples died (often for lack of memory); "
            "make them in one process with --set ruler.workers=1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # chunks are short, so running ones are waited for


_here: dict[str, PromptTokenizer] = {}
"""The tokenizer of a process started here."""


def _start(tokenizer: Any, chat: bool, name: str, additive: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _here["tokenizer"] = PromptTokenizer(tokenizer, chat=chat, name=name)
    counting(_here["tokenizer"]).additive &= additive


def _make(plan: Plan, indices: range) -> Rows:
    return list(make_samples(plan, indices, _here["tokenizer"]))
