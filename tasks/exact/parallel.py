"""Making many samples in several processes. Which process makes a sample, and how many there are, changes no byte."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any, Protocol

from lr2eval.base.processes import main_is_not_run_again
from lr2eval.errors import TaskError, UsageError
from lr2eval.model.tokenizer import PromptTokenizer

Row = dict[str, Any]
BIG, BIG_BY_WORDS = 2_000_000, 20_000_000
"""Tokens from where on starting processes (seconds each) pays: counting whole prompts, and counting by words."""
CHUNK_TOKENS = 500_000
"""Tokens made per message between processes."""
AHEAD = 2
"""Finished or running chunks per process that wait for their turn in the file."""


class Plan(Protocol):
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

    def start(self, tokenizer: PromptTokenizer) -> Callable[[Iterable[int]], Iterator[Row]]:
        """A maker of the samples with these numbers; what it remembers between calls changes no sample."""


def rows(plan: Plan, count: int, tokenizer: PromptTokenizer, workers: int | None) -> Iterator[Row]:
    """The first ``count`` samples, in order, made here or by ``workers`` processes (``None``: as many as it deserves).

    Raises :class:`TaskError` when a process dies, and whatever the plan raises.
    """
    workers = processes(plan, count) if workers is None else workers
    if workers > 1 and count > 1:
        return make_in_processes(plan, count, tokenizer, min(workers, count))
    return plan.start(tokenizer)(range(count))


def chosen_workers(options: Mapping[str, Any], benchmark: str) -> int | None:
    """``--set BENCHMARK.workers=N``: processes that make the data; ``None`` when not given."""
    workers = options.get("workers")
    if workers is None or (isinstance(workers, int) and not isinstance(workers, bool) and workers >= 1):
        return workers
    raise UsageError(f"{benchmark}.workers is {workers!r}; give a whole number of processes, 1 or more")


def processes(plan: Plan, count: int) -> int:
    """How many processes the work deserves: the cores of this machine, or one when it is little."""
    return (os.cpu_count() or 1) if plan.length * count >= (BIG_BY_WORDS if plan.by_words else BIG) else 1


def make_in_processes(
    plan: Plan, count: int, tokenizer: PromptTokenizer, workers: int, chunk: int | None = None
) -> Iterator[Row]:
    """The same with ``workers`` processes in any case, ``chunk`` samples per message; few chunks are held at a time."""
    chunk = chunk or max(1, min(CHUNK_TOKENS // plan.length, -(-count // workers)))
    jobs = (range(start, min(start + chunk, count)) for start in range(0, count, chunk))
    # A fresh interpreter each: a fork would inherit the threads of torch and of the tokenizer.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_start,
        initargs=(plan, tokenizer.tokenizer, tokenizer.chat, tokenizer.name),
    )
    try:
        waiting: deque[Future[list[Row]]] = deque()
        with _deaf(), main_is_not_run_again():
            waiting.extend(pool.submit(_make, job) for job in islice(jobs, AHEAD * workers))
        while waiting:
            made = waiting.popleft().result()
            with _deaf(), main_is_not_run_again():
                waiting.extend(pool.submit(_make, job) for job in islice(jobs, 1))
            yield from made
    except BrokenProcessPool as error:
        benchmark = plan.name.partition(":")[0]
        raise TaskError(
            f"{plan.name} at length {plan.length}: a process making samples died (often for lack of memory); "
            f"make them in one process with --set {benchmark}.workers=1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)  # chunks are short, so running ones are waited for


@contextmanager
def _deaf() -> Iterator[None]:
    """Hold Ctrl-C back while processes are started: they never hear it, and none is lost half started. We do, after."""
    heard: list[int] = []
    here = threading.current_thread() is threading.main_thread()  # only there does Python answer signals
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number)) if here else None
    # What is blocked stays blocked in a process started meanwhile.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if here:
            signal.signal(signal.SIGINT, before or signal.SIG_DFL)
        if heard:
            signal.raise_signal(signal.SIGINT)


_here: dict[str, Callable[[Iterable[int]], Iterator[Row]]] = {}
"""The maker of a process started here."""


def _start(plan: Plan, tokenizer: Any, chat: bool, name: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _here["make"] = plan.start(PromptTokenizer(tokenizer, chat=chat, name=name))


def _end_with_the_parent() -> None:
    """A killed parent cannot tell its processes to end, and they would wait for work without end."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _make(indices: range) -> list[Row]:
    return list(_here["make"](indices))
