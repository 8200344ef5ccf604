"""The scheduling of an evaluation over workers, on a fake clock: no time passes in workers, only in the driver's code.

``python benchmarks/schedule.py --json benchmarks/results/schedule.json`` runs the real scheduling (``Pool`` in
``lr2eval/workers/pool.py``) and the real work order (``Work`` in ``lr2eval/runs/spread.py``) with workers that only
exist as entries of a heap: they take their time to load, for a survey and for each batch, and some die over a batch.
Reported are the driver's CPU time per item (of the
whole simulation, which holds little else) and the shares of the workers' time in which they loaded, were idle, or
worked for nothing because they died.

What is not in it: the store's writing, lm-eval's building and scoring of requests, and the transport of items.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import machine

from lr2eval.workers.pool import DEATHS, Pool

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False)
class FakeWorker:
    """``item`` is what it has."""

    number: int
    item: Any = None


@dataclass
class FakePool(Pool[FakeWorker, Item, Result], Generic[Item, Result]):
    """Workers on a clock of their own.

    Args:
        answer: the result of an item.
        seconds: how long an item takes.
        loading: seconds until a worker is ready.
        failures: share of the items over which a worker dies, somewhere within; two at most over one.
        seed: of the failures.
    """

    workers: int
    answer: Callable[[Item], Result]
    seconds: Callable[[Item], float]
    loading: float = 0.0
    failures: float = 0.0
    seed: int = 0
    now: float = 0.0
    busy: float = 0.0
    lost: float = 0.0
    loaded: float = 0.0
    _heap: list[tuple[float, int, str, FakeWorker]] = field(default_factory=list)
    _events: int = 0

    def __post_init__(self) -> None:
        super().__init__(self.workers)
        self._random = random.Random(self.seed)
        self._gone: set[FakeWorker] = set()
        self._died: Counter[int] = Counter()

    def _later(self, after: float, kind: str, worker: FakeWorker) -> None:
        self._events += 1
        heapq.heappush(self._heap, (self.now + after, self._events, kind, worker))

    def _start(self, number: int) -> FakeWorker:
        worker = FakeWorker(number)
        self._later(self.loading, "ready", worker)
        return worker

    def _send(self, worker: FakeWorker, item: Item) -> None:
        worker.item = item
        seconds = self.seconds(item)
        if self._random.random() < self.failures and self._died[id(item)] < DEATHS - 1:
            self._died[id(item)] += 1
            part = seconds * self._random.random()
            self.lost += part
            self._later(part, "died", worker)
        else:
            self.busy += seconds
            self._later(seconds, "ended", worker)

    def _wait(self) -> list[Any]:
        while True:
            self.now, _, kind, worker = heapq.heappop(self._heap)
            if worker not in self._gone:
                self.loaded += self.loading if kind == "ready" else 0.0
                return [(kind, worker, self.answer(worker.item) if kind == "ended" else "made up")]

    def _stop(self, worker: FakeWorker) -> None:
        self._gone.add(worker)


@dataclass(frozen=True)
class FakeShard:
    id: str
    n: int
    length: int | None = None


class FakeStore:
    """Plans and numbers of what was answered; every batch once, or it raises."""

    def __init__(self) -> None:
        self.plans: dict[str, list[list[int]]] = {}
        self.done: dict[str, int] = {}

    def plan(self, shard: str, request_type: str) -> list[list[int]] | None:
        return self.plans.get(shard)

    def save_plan(self, shard: str, request_type: str, plan: list[list[int]]) -> None:
        assert shard not in self.plans
        self.plans[shard] = plan

    def save_batch(self, shard: str, request_type: str, rows: list[Any]) -> None:
        self.done[shard] = self.done.get(shard, 0) + len(rows)


class FakeLM:
    def __init__(self, store: FakeStore) -> None:
        self.store = store


def evaluation(shards: int, workers: int, failures: float, samples: int = 100, seed: int = 0) -> dict[str, Any]:
    """A suite over six lengths with ``samples`` batches a shard; a batch takes 2 s at the shortest length, 64 s at the
    longest, within a fifth; a survey takes a batch's time / 4; loading takes two minutes."""
    from lm_eval.api.instance import Instance

    from lr2eval.benchmark import ResponseDetail
    from lr2eval.runs.spread import Call, Reply, Wanted, Work

    rng = random.Random(seed)
    store = FakeStore()
    every = [FakeShard(f"s{number}", samples, 2 << (6 * number // shards)) for number in range(shards)]
    lengths = {shard.id: float(shard.length or 0) for shard in every}
    request = Instance("generate_until", {}, ("", {}), 0, metadata=("t", 0, 1))
    detail = ResponseDetail()
    finished = 0

    def finish(shard: FakeShard) -> None:
        nonlocal finished
        if store.done.get(shard.id, 0) < shard.n:
            raise Wanted(shard.id, None, "generate_until", [request] * shard.n, [""] * shard.n, {})
        finished += 1

    def answer(call: Call) -> Reply:
        if not call.shard:
            return Reply("", memory=1)
        if call.batch is None:
            return Reply(call.shard, plan=[[number] for number in range(len(call.requests))])
        return Reply(call.shard, ended=[(number, "", detail) for number in call.batch])

    def seconds(call: Call) -> float:
        if not call.shard:
            return 0.1
        return lengths[call.shard] * rng.uniform(0.8, 1.2) * (0.25 if call.batch is None else 1.0)

    pool: FakePool[Any, Any] = FakePool(workers, answer, seconds, loading=120.0, failures=failures, seed=seed)
    work = Work(FakeLM(store), every, finish, workers, memory=True)  # type: ignore[arg-type]
    began = time.process_time()
    for reply in pool.run(work):
        work.take(reply)
    spent = time.process_time() - began
    assert finished == shards
    assert all(count == samples for count in store.done.values())
    return _facts(pool, shards * (samples + 1), spent, shards=shards, workers=workers, failures=failures)


def plain(items: int, workers: int, failures: float, seed: int = 0) -> dict[str, Any]:
    """One list of equal items, as a round of a search is: the scheduling alone."""
    rng = random.Random(seed)
    pool: FakePool[int, int] = FakePool(
        workers, lambda item: item, lambda item: rng.uniform(0.8, 1.2), loading=120.0, failures=failures, seed=seed
    )
    began = time.process_time()
    found = sorted(pool.run(range(items)))
    spent = time.process_time() - began
    assert found == list(range(items))
    return _facts(pool, items, spent, items=items, workers=workers, failures=failures)


def _facts(pool: FakePool[Any, Any], ran: int, spent: float, **given: Any) -> dict[str, Any]:
    total = pool.now * pool.workers
    used = pool.busy + pool.lost + pool.loaded
    return {
        **given,
        "items_run": ran,
        "deaths": pool.deaths,
        "driver_microseconds_per_item": round(spent / ran * 1e6, 1),
        "makespan_seconds": round(pool.now, 1),
        "idle_percent": round(100 * (1 - used / total), 2),
        "loading_percent": round(100 * pool.loaded / total, 2),
        "lost_to_deaths_percent": round(100 * pool.lost / total, 2),
    }


def rows(scales: Iterable[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    for shards, workers in scales:
        for failures in (0.0, 0.001):
            yield {"what": "evaluation", **evaluation(shards, workers, failures)}
    for items in (1_000, 10_000, 100_000):
        for workers in (8, 512):
            yield {"what": "one list", **plain(items, workers, 0.001)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    found = []
    for row in rows([(100, 8), (1_000, 8), (1_000, 512), (3_000, 512), (10_000, 512)]):
        print(json.dumps(row), flush=True)
        found.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rows": found, "machine": machine.facts()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
