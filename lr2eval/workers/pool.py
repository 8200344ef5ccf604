"""Processes that each keep something expensive (a model) and map over items; results come as they are ready.

All executors share one protocol: ``run(items)`` yields exactly one result for every item, in any order. A result does
not depend on the worker that computes it, so more workers change nothing but the time. :class:`Pool` is the scheduling,
shared by processes, Ray (``ray.py``) and the simulation in ``benchmarks/schedule.py``.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Final, Generic, Literal, Protocol, Self, TypeVar, cast

from lr2eval.base.console import guard_logs
from lr2eval.base.processes import interrupts_held_back, main_is_not_run_again
from lr2eval.errors import RunFailedError

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)

DEATHS = 3
"""After this many workers have died over the same item, or before they were ready, the work ends with an error."""


class Later:
    """A source of items yields this when its next item needs a result that is still being computed."""


LATER: Final = Later()


class Executor(Protocol[Item_contra, Result_co]):
    """Maps over items. An error that it raises ends the work; results that it has yielded are kept."""

    def run(self, items: Sequence[Item_contra], /) -> Iterable[Result_co]:
        """Exactly one result for every item."""


class Numbered(Protocol):
    """What the scheduling knows of a worker; the replacement of a dead worker has its number."""

    @property
    def number(self) -> int: ...


Worker = TypeVar("Worker", bound=Numbered)
Event = tuple[Literal["ready", "ended", "failed", "died"], Worker, Any]
"""What happened to a worker; the value is ``None``, the result, the error, or how the worker died."""


class Pool(ABC, Generic[Worker, Item, Result]):
    """Hands items to at most ``workers`` workers, each item to one at a time; use as a context manager.

    A worker is started when an item waits, and gets items once it is ready. If a worker dies, it is replaced and its
    item goes to the next free worker. :class:`RunFailedError` is raised when three workers died over one item, and when
    three in a row died before they were ready. An error in a worker is raised here after the other workers have
    finished their items. The cost of an event does not grow with the number of items or workers.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"{workers} workers; give at least 1")
        self._free = list(range(workers))
        self._starting: set[Worker] = set()
        self._idle: list[Worker] = []
        self._busy: dict[Worker, tuple[int, Item]] = {}
        self._source: Iterator[Item | Later] | None = None
        self._waiting: deque[tuple[int, Item]] = deque()
        self._taken = 0
        self._deaths_over: Counter[int] = Counter()
        self._stillborn = 0
        self.deaths = 0
        """Workers that died so far."""

    @abstractmethod
    def _start(self, number: int) -> Worker:
        """Start a worker, which reports when it is ready."""

    @abstractmethod
    def _send(self, worker: Worker, item: Item) -> None:
        """Give an item to an idle worker."""

    @abstractmethod
    def _wait(self) -> list[Event[Worker]]:
        """Wait for at least one event."""

    @abstractmethod
    def _stop(self, worker: Worker) -> None:
        """End a worker at once; it may be dead already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, at once."""
        for worker in [*self._starting, *self._idle, *self._busy]:
            self._end(worker)

    def run(self, items: Iterable[Item | Later], /) -> Iterator[Result]:
        """One result per item, as they are ready.

        An item is taken when a worker is free. An iterator may therefore make items out of results that this call has
        already yielded; while it cannot, it yields :data:`LATER`.
        """
        with contextlib.closing(self._run(items)) as found:
            yield from (result for _, result in found)

    def run_in_order(self, items: Iterable[Item], ahead: int) -> Iterator[Result]:
        """One result per item, in the order of the items; at most ``ahead`` items are begun before their turn."""
        ready: dict[int, Result] = {}
        turn = 0

        def source() -> Iterator[Item | Later]:
            for number, item in enumerate(items):
                while number > turn + ahead:
                    yield LATER
                yield item

        with contextlib.closing(self._run(source())) as found:
            for number, result in found:
                ready[number] = result
                while turn in ready:
                    yield ready.pop(turn)
                    turn += 1

    def _run(self, items: Iterable[Item | Later]) -> Generator[tuple[int, Result]]:
        self._source, self._taken = iter(items), 0
        self._waiting.clear()
        self._deaths_over.clear()
        failure: BaseException | None = None
        try:
            while True:
                if failure is None:
                    self._hand_out()
                elif not self._busy:  # the results of the other workers have been yielded first
                    raise failure
                if not self._busy and not self._has(1):
                    if self._source is None:
                        return
                    raise RuntimeError("the source of items waits for a result, but no item is running")
                for kind, worker, value in self._wait():
                    if kind == "died":
                        self._buried(worker, value)
                    elif worker in self._starting:
                        self._starting.remove(worker)
                        self._idle.append(worker)
                        self._stillborn = 0
                    elif (had := self._busy.pop(worker, None)) is not None:  # else the worker was ended meanwhile
                        self._idle.append(worker)
                        if kind == "failed":
                            failure = failure or value
                        else:
                            yield had[0], value
        finally:
            # If the caller stops early, nobody wants what is still being computed.
            for worker in list(self._busy):
                self._end(worker)

    def _has(self, count: int) -> bool:
        """Whether ``count`` items wait for a worker. Items are taken from the source only when they are asked for."""
        while len(self._waiting) < count and self._source is not None:
            try:
                item = next(self._source)
            except StopIteration:
                self._source = None
                break
            if isinstance(item, Later):
                break
            self._waiting.append((self._taken, item))
            self._taken += 1
        return len(self._waiting) >= count

    def _hand_out(self) -> None:
        while self._idle and self._has(1):
            worker = self._idle.pop()
            self._busy[worker] = self._waiting.popleft()
            self._send(worker, self._busy[worker][1])
        while self._free and self._has(len(self._starting) + 1):
            self._starting.add(self._start(heapq.heappop(self._free)))

    def _end(self, worker: Worker) -> None:
        self._starting.discard(worker)
        self._busy.pop(worker, None)
        if worker in self._idle:
            self._idle.remove(worker)
        heapq.heappush(self._free, worker.number)
        self._stop(worker)

    def _buried(self, worker: Worker, how: str) -> None:
        begun, item = worker not in self._starting, self._busy.get(worker)
        if begun and item is None and worker not in self._idle:
            return  # ended before, by us
        self._end(worker)
        self.deaths += 1
        if not begun:
            self._stillborn += 1
            count, where = self._stillborn, "before they were ready"
        elif item is not None:
            self._waiting.appendleft(item)
            self._deaths_over[item[0]] += 1
            count, where = self._deaths_over[item[0]], "over the same item"
        else:
            return
        if count >= DEATHS:
            raise RunFailedError(
                f"{DEATHS} workers died {where} ({how}); memory may have run out, so use fewer --workers (finished "
                "work is kept)"
            )


class Process:
    """A worker process and the pipe to it."""

    def __init__(self, build: Callable[[int], Executor[Any, Any]], number: int) -> None:
        # A fork would copy the threads of torch in whatever state they are.
        context = get_context("spawn")
        self.number = number
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(build, number, theirs), daemon=True)
        with main_is_not_run_again():
            self.process.start()
        theirs.close()


class Processes(Pool[Process, Item, Result]):
    """Worker processes on this machine.

    ``build`` (picklable) makes a worker's executor from the worker's number: once, in its process, when it has work.
    """

    def __init__(self, build: Callable[[int], Executor[Item, Result]], workers: int) -> None:
        super().__init__(workers)
        self._build = build
        self._all: dict[Connection, Process] = {}

    def _start(self, number: int) -> Process:
        with interrupts_held_back():
            worker = Process(self._build, number)
            self._all[worker.connection] = worker
        return worker

    def close(self) -> None:
        """End all workers, also one that Ctrl-C has kept from being counted."""
        super().close()
        for worker in list(self._all.values()):
            self._stop(worker)

    def _send(self, worker: Process, item: Item) -> None:
        with contextlib.suppress(OSError):  # it died while idle: the next wait notices and hands the item on
            worker.connection.send(item)

    def _wait(self) -> list[Event[Process]]:
        events: list[Event[Process]] = []
        for connection in wait(list(self._all)):
            worker = self._all[cast(Connection, connection)]
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                events.append(("died", worker, _how(worker.process.exitcode)))
                continue
            events.append(("ready", worker, None) if message is None else (message[0], worker, message[1]))
        return events

    def _stop(self, worker: Process) -> None:
        del self._all[worker.connection]
        worker.process.kill()
        worker.process.join()
        worker.connection.close()


def _how(code: int | None) -> str:
    return f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


def answered(executor: Executor[Any, Any], item: Any) -> tuple[Literal["ended", "failed"], Any]:
    """In a worker: the result of one item, or its error."""
    try:
        (result,) = executor.run([item])
    except Exception as error:
        return "failed", error
    return "ended", result


class Built:
    """The executor that ``build`` makes, when the first item comes."""

    def __init__(self, build: Callable[[int], Executor[Any, Any]], number: int) -> None:
        self._build, self._number = build, number
        self._inner: Executor[Any, Any] | None = None

    def run(self, items: Sequence[Any], /) -> Iterable[Any]:
        if self._inner is None:
            self._inner = self._build(self._number)
        return self._inner.run(items)


def _work(build: Callable[[int], Executor[Any, Any]], number: int, connection: Connection) -> None:
    # The driver handles Ctrl-C and ends its workers. If the driver itself is killed, they end at once, so that their
    # memory is free when the run is resumed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard_logs()
    driver = parent_process()
    assert driver is not None
    threading.Thread(target=lambda: (wait([driver.sentinel]), os._exit(1)), daemon=True).start()
    executor = Built(build, number)
    try:
        connection.send(None)
        while True:
            message = answered(executor, connection.recv())
            try:
                connection.send(message)
            except OSError:
                return
            except Exception:  # a result or an error that cannot be pickled
                kind = type(message[1]).__name__
                connection.send(("failed", RunFailedError(f"a worker cannot send back its {kind} (not picklable)")))
    except (EOFError, OSError):
        return  # the driver is gone
