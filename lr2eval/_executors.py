"""Workers that keep something expensive resident (a model) and map over items; results come as they end.

One protocol for all of them: ``run(items)`` yields exactly one result for every item, in any order. Which worker had an
item never shows in its result, so adding workers changes nothing but the time.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, cast

from lr2eval._errors import RunFailedError

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)

_DEATHS = 3
"""An item that ended so many workers is given up; the fault is then its own."""


class Executor(Protocol[Item_contra, Result_co]):
    """Maps over items. Whatever it raises ends the work; results that were yielded stand."""

    def run(self, items: Sequence[Item_contra], /) -> Iterable[Result_co]:
        """Exactly one result for every item."""


class _Worker(Generic[Item]):
    def __init__(self, build: Callable[[int], Executor[Any, Any]], number: int) -> None:
        # A fork would copy the threads of torch in whatever state they are.
        context = get_context("spawn")
        self.number = number
        self.connection: Connection
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_work, args=(build, number, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.item: tuple[int, Item] | None = None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class _Waiting(Generic[Item]):
    """Numbered items that no worker has yet; true while there are any. At most one is taken from its source ahead."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._source = enumerate(items)
        self._held: deque[tuple[int, Item]] = deque()

    def __bool__(self) -> bool:
        if not self._held:
            self._held.extend(itertools.islice(self._source, 1))
        return bool(self._held)

    def take(self) -> tuple[int, Item]:
        return self._held.popleft() if self._held else next(self._source)

    def put_back(self, item: tuple[int, Item]) -> None:
        self._held.appendleft(item)


class Processes(Generic[Item, Result]):
    """Worker processes; use as a context manager.

    ``build`` (picklable) makes a worker's executor from the worker's number, in its process, once, when there is work.
    An item whose worker dies goes to another one and the dead one is replaced; :class:`RunFailedError` for an item that
    ended three. What an executor raises in a worker is raised here.
    """

    def __init__(self, build: Callable[[int], Executor[Item, Result]], workers: int) -> None:
        if workers < 1:
            raise ValueError(f"{workers} workers; give at least 1")
        self._build, self._count = build, workers
        self._workers: list[_Worker[Item]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, at once."""
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def run(self, items: Iterable[Item], /) -> Iterator[Result]:
        """Items are taken as workers become free, so an iterator may make them one by one."""
        waiting = _Waiting(items)
        deaths: Counter[int] = Counter()
        try:
            while waiting or any(worker.item is not None for worker in self._workers):
                self._hand_out(waiting)
                busy = {worker.connection: worker for worker in self._workers if worker.item is not None}
                for connection in wait(list(busy)):
                    worker = busy[cast(Connection, connection)]
                    assert worker.item is not None
                    try:
                        failed, value = worker.connection.recv()
                    except (EOFError, OSError):
                        place, _ = worker.item
                        deaths[place] += 1
                        self._bury(worker, deaths[place])
                        waiting.put_back(worker.item)
                        continue
                    worker.item = None
                    if failed:
                        raise value
                    yield value
        finally:
            # Left half-way: what is still being computed belongs to nobody.
            for worker in [worker for worker in self._workers if worker.item is not None]:
                worker.stop()
                self._workers.remove(worker)

    def _hand_out(self, waiting: _Waiting[Item]) -> None:
        idle = [worker for worker in self._workers if worker.item is None]
        while waiting and (idle or len(self._workers) < self._count):
            if not idle:
                number = min(set(range(self._count)) - {worker.number for worker in self._workers})
                idle.append(_Worker(self._build, number))
                self._workers.append(idle[-1])
            worker = idle.pop()
            worker.item = waiting.take()
            with contextlib.suppress(OSError):  # it died while idle: the next wait finds that out and hands the item on
                worker.connection.send(worker.item[1])

    def _bury(self, worker: _Worker[Item], deaths: int) -> None:
        worker.process.join()
        code = worker.process.exitcode
        self._workers.remove(worker)
        worker.connection.close()
        if deaths >= _DEATHS:
            how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
            raise RunFailedError(
                f"{deaths} workers died over the same item ({how}), perhaps for want of memory; use fewer --workers "
                "(what was finished is kept)"
            )


def _work(build: Callable[[int], Executor[Any, Any]], number: int, connection: Connection) -> None:
    # The driver decides what an interrupt means; it ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    executor: Executor[Any, Any] | None = None
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return  # the driver is gone
        try:
            if executor is None:
                executor = build(number)
            (result,) = executor.run([item])
            message = (False, result)
        except Exception as error:
            message = (True, error)
        try:
            connection.send(message)
        except OSError:
            return
        except Exception:  # a result or an error that cannot be pickled
            connection.send((True, RunFailedError(f"a worker cannot hand over its {type(message[1]).__name__}")))
