from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lr2eval.errors import BackendError, RunFailedError
from lr2eval.workers.pool import LATER, Later, Processes
from tests.lr2eval.workers.pools import schedule

pytestmark = pytest.mark.xdist_group("processes")


class Squares:
    """Squares numbers; what an item with a name asks for is done to the worker."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.folder = number, folder
        (folder / f"built-{number}-{os.getpid()}").touch()

    def run(self, items: Sequence[int | str], /) -> Iterator[tuple[int | str, int]]:
        for item in items:
            if item == "die once":
                if not (self.folder / "died").exists():
                    (self.folder / "died").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                yield item, -1
            elif item == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif item == "raise":
                (self.folder / "raised").touch()
                raise BackendError("an item that cannot be done; choose another")
            elif item == "unpicklable":
                yield item, lambda: None  # type: ignore[misc]
            elif item == "last":
                while not (self.folder / "raised").exists():
                    time.sleep(0.01)
                time.sleep(0.1)
                yield item, -2
            elif item == "wait for another":
                # Ends only when the other worker's item has been computed at the same time.
                (self.folder / f"waiting-{self.number}").touch()
                while len(list(self.folder.glob("waiting-*"))) < 2:
                    time.sleep(0.01)
                yield item, self.number
            else:
                assert isinstance(item, int)
                yield item, item * item


def pool(folder: Path, workers: int = 2) -> Processes[int | str, tuple[int | str, int]]:
    return Processes(partial(Squares, folder=folder), workers)


def built(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("built-*"))


def test_every_item_has_its_result_and_workers_stay(tmp_path: Path) -> None:
    with pool(tmp_path) as executor:
        assert {number for _, number in executor.run(["wait for another"] * 2)} == {0, 1}
        assert sorted(executor.run(range(9))) == [(i, i * i) for i in range(9)]
        assert sorted(executor.run([3, 3, 5])) == [(3, 9), (3, 9), (5, 25)]
        assert list(executor.run([])) == []
    assert len(built(tmp_path)) == 2, "built once each, with all they keep"


def test_workers_work_at_the_same_time(tmp_path: Path) -> None:
    with pool(tmp_path) as executor:
        assert {number for _, number in executor.run(["wait for another"] * 2)} == {0, 1}


def test_an_item_whose_worker_dies_goes_to_another(tmp_path: Path) -> None:
    with pool(tmp_path) as executor:
        found = list(executor.run([1, "die once", 2, 3]))
        assert sorted(map(str, found)) == sorted(map(str, [(1, 1), ("die once", -1), (2, 4), (3, 9)]))
        both = {number for _, number in executor.run(["wait for another"] * 2)}
    assert both == {0, 1}, "the dead one was replaced"
    assert len(built(tmp_path)) == 3


def test_an_item_that_ends_every_worker_is_named_as_the_fault(tmp_path: Path) -> None:
    with pool(tmp_path) as executor:
        with pytest.raises(RunFailedError, match=r"3 workers died over the same item \(killed by SIGKILL\).*--workers"):
            list(executor.run(["die"]))
        assert list(executor.run([4])) == [(4, 16)], "the pool goes on"


def test_what_a_worker_raises_is_raised_here_and_finished_results_came_before(tmp_path: Path) -> None:
    with pool(tmp_path, workers=1) as executor:
        results = iter(executor.run([1, 2, "raise", 3]))
        assert [next(results), next(results)] == [(1, 1), (2, 4)]
        with pytest.raises(BackendError, match="an item that cannot be done; choose another"):
            next(results)
        with pytest.raises(RunFailedError, match="cannot send back its tuple"):
            list(executor.run(["unpicklable"]))


def test_what_others_are_at_is_not_lost_to_an_error(tmp_path: Path) -> None:
    with pool(tmp_path) as executor:
        results = executor.run(["last", "raise", 5, 6])
        assert next(results) == ("last", -2)
        with pytest.raises(BackendError):  # and nothing new was begun
            next(results)


def test_workers_that_never_begin_are_given_up(tmp_path: Path) -> None:
    with (
        Processes(Unreadable(), 2) as executor,
        pytest.raises(RunFailedError, match=r"3 workers died before they were ready"),
    ):
        list(executor.run([1, 2]))


class Unreadable:
    """Cannot be unpickled in a worker."""

    def __call__(self, number: int) -> Squares:
        raise AssertionError

    def __reduce__(self) -> Any:
        return os._exit, (3,)


def test_a_source_may_make_items_out_of_results(tmp_path: Path) -> None:
    made: list[int | Later] = [2]

    def source() -> Iterator[int | Later]:
        while made[-1] != 256:
            yield made[-1]
            asked = len(made)
            while len(made) == asked:
                yield LATER

    with pool(tmp_path) as executor:
        for _, square in executor.run(source()):
            made.append(square)
        assert made == [2, 4, 16, 256]
        with pytest.raises(RuntimeError, match="no item is running"):
            list(executor.run(itertools.repeat(LATER)))


@settings(deadline=None, max_examples=40)
@given(
    items=st.lists(st.integers(1, 9), max_size=40),
    workers=st.integers(1, 6),
    ahead=st.integers(0, 8),
    failures=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 10_000),
)
def test_results_in_order_of_the_items(items: list[int], workers: int, ahead: int, failures: float, seed: int) -> None:
    fake = schedule().FakePool(
        workers, answer=lambda item: item, seconds=lambda item: item[1], loading=1.5, failures=failures, seed=seed
    )
    taken = 0

    def source() -> Iterator[tuple[int, int]]:
        nonlocal taken
        for number, item in enumerate(items):
            taken = number
            yield number, item

    for number, result in enumerate(fake.run_in_order(source(), ahead)):
        assert result == (number, items[number])
        assert taken <= number + ahead + 1, "few items are begun before their turn"
    assert not fake._busy


def test_processes_give_results_in_order(tmp_path: Path) -> None:
    with pool(tmp_path) as executor:
        assert list(executor.run_in_order([3, "die once", 5, 4], 2)) == [(3, 9), ("die once", -1), (5, 25), (4, 16)]
        with pytest.raises(BackendError, match="cannot be done"):
            list(executor.run_in_order([1, "raise"], 2))


@pytest.mark.parametrize("workers", [1, 2, 5, 30])
def test_on_a_fake_clock_no_worker_idles_while_an_item_waits(workers: int) -> None:
    fake = schedule().FakePool(workers, answer=lambda item: item, seconds=float, loading=2.0)
    items = [5.0, 1.0, 1.0, 3.0] * 25
    assert sorted(fake.run(items)) == sorted(items)
    assert fake.now <= 2.0 + sum(items) / workers + 5.0
    assert fake.busy == sum(items)


@settings(deadline=None, max_examples=60)
@given(
    items=st.lists(st.integers(1, 9), max_size=40),
    workers=st.integers(1, 12),
    failures=st.sampled_from([0.0, 0.05, 0.4]),
    seed=st.integers(0, 10_000),
)
def test_every_item_has_one_result_whoever_dies(items: list[int], workers: int, failures: float, seed: int) -> None:
    numbered = list(enumerate(items))
    fake = schedule().FakePool(
        workers, answer=lambda item: item, seconds=lambda item: item[1], loading=1.5, failures=failures, seed=seed
    )
    assert sorted(fake.run(numbered)) == numbered
    assert len(fake._idle) + len(fake._starting) + len(fake._free) == workers


def test_results_of_an_abandoned_map_do_not_turn_up_in_the_next(tmp_path: Path) -> None:
    with pool(tmp_path) as executor:
        results = iter(executor.run(range(100, 120)))
        next(results)
        results.close()  # type: ignore[attr-defined]
        assert sorted(executor.run([1, 2, 3])) == [(1, 1), (2, 4), (3, 9)]


def test_no_worker_outlives_the_pool(tmp_path: Path) -> None:
    with pool(tmp_path) as executor:
        list(executor.run(range(4)))
        pids = [worker.process.pid for worker in executor._all.values()]
    for pid in pids:
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_no_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 workers; give at least 1"):
        pool(tmp_path, workers=0)
