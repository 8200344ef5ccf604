"""Evaluation over workers: the same whatever the workers do, and written by the driver alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from lm_eval.api.instance import Instance

from lr2eval.errors import BackendError, RunFailedError, StoreError
from lr2eval.record.store import RunStore
from lr2eval.runs.config import RunConfig
from lr2eval.runs.recording import RecordingLM
from lr2eval.runs.spread import Answerer, Call, PooledLM, Reply, Wanted, Work
from lr2eval.workers.pool import LATER
from tests.lr2eval.runs.test_recording import FakeBackend, requests
from tests.lr2eval.runs.test_scoring import shard as some_shard
from tests.lr2eval.workers.pools import schedule

SHARDS = [some_shard(task=task, n=n) for task, n in (("vt", 5), ("cwe", 1), ("fwe", 9), ("qa_1", 4))]


def prompts(shard: Any, kind: str) -> list[Instance]:
    return requests(*(f"{shard.task} {'x' * (i * 7 % 5)}{i}" for i in range(shard.n)), kind=kind)


def ask(lm: Any, shard: Any) -> list[Any]:
    """What lm-eval does with a task that wants both kinds of answers."""
    lm.begin(shard.id)
    return [lm.generate_until(prompts(shard, "generate_until")), lm.loglikelihood(prompts(shard, "loglikelihood"))]


def alone(folder: Path, backend: Any = None, shards: Any = SHARDS) -> RunStore:
    folder.mkdir(exist_ok=True)
    store = RunStore.create(folder)
    for shard in shards:
        ask(RecordingLM(backend or FakeBackend(), store, {"model": "m"}), shard)
    return store


class Spread:
    """A run over fake workers that share one backend object, as all backends of a run are alike."""

    def __init__(self, folder: Path, backend: Any, **pool: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.store = RunStore.create(folder)
        self.lm = PooledLM(SimpleNamespace(), self.store, {"model": "m"}, pool.pop("truncation", "error"))
        self.answers: dict[str, list[Any]] = {}
        self.calls: list[Call] = []
        self._worker = Answerer(backend, self.lm.truncation)
        self._pool = {"workers": 3, "seconds": lambda call: 1.0 + len(call.requests), **pool}

    def _finish(self, shard: Any) -> None:
        self.answers[shard.id] = ask(self.lm, shard)

    def _answer(self, call: Call) -> Reply:
        self.calls.append(call)
        (reply,) = self._worker.run([call])
        return reply

    def run(self, shards: Any = SHARDS, *, memory: bool = False) -> Spread:
        pool = schedule().FakePool(answer=self._answer, **self._pool)
        work = Work(self.lm, shards, self._finish, pool.workers, memory=memory)
        for reply in pool.run(work):
            work.take(reply)
        return self


def contents(store: RunStore) -> tuple[Any, ...]:
    tables = ("SELECT * FROM responses ORDER BY 1, 2, 3", "SELECT * FROM batches ORDER BY 1, 2, 3")
    return tuple(store._db.execute(table).fetchall() for table in tables)


@pytest.mark.parametrize(("workers", "failures"), [(1, 0.0), (2, 0.0), (3, 0.2), (7, 0.3), (40, 0.1)])
def test_store_plans_and_answers_are_those_of_one_process(tmp_path: Path, workers: int, failures: float) -> None:
    expected = alone(tmp_path / "one")
    for seed in range(5):
        spread = Spread(
            tmp_path / str(seed), FakeBackend(), workers=workers, failures=failures, loading=3.0, seed=10 * seed
        ).run()
        assert contents(spread.store) == contents(expected)
        assert {*spread.answers} == {shard.id for shard in SHARDS}
        assert spread.answers[SHARDS[0].id][0] == [p.args[0][::-1] for p in prompts(SHARDS[0], "generate_until")]


def test_a_shard_is_surveyed_once_and_whole_and_batches_hold_their_requests(tmp_path: Path) -> None:
    spread = Spread(tmp_path, FakeBackend()).run()
    surveys = [call for call in spread.calls if call.batch is None]
    assert sorted((call.shard, len(call.requests)) for call in surveys) == sorted(
        (shard.id, shard.n) for shard in SHARDS for _ in range(2)
    )
    for call in spread.calls:
        assert all(request.doc == {} for request in call.requests)
        if call.batch is not None:
            assert [request.doc_id for request in call.requests] == list(call.batch)


def test_batches_of_several_shards_are_under_way_together(tmp_path: Path) -> None:
    spread = Spread(tmp_path, FakeBackend(), workers=8).run()
    first = [call.shard for call in spread.calls[:4]]
    assert len(set(first)) > 1


def test_what_was_answered_before_is_not_asked_again_and_the_plan_stays(tmp_path: Path) -> None:
    with pytest.raises(BackendError):
        alone(tmp_path / "run", FakeBackend(fail_at=prompts(SHARDS[2], "generate_until")[3].args[0]))
    before = contents(RunStore.create(tmp_path / "run"))
    other = FakeBackend()
    other.plan = lambda kind, reqs: [[i] for i in range(len(reqs))]  # type: ignore[method-assign]
    spread = Spread(tmp_path / "run", other).run()
    there = {(shard, kind, number) for shard, kind, number, *_ in before[0]}
    asked = {(call.shard, call.request_type, n) for call in spread.calls for n in call.batch or ()}
    assert there
    assert not there & asked
    assert {*before[1]} <= {*contents(spread.store)[1]}, "the stored plan of a shard that was begun"
    assert Spread(tmp_path / "run", FakeBackend()).run().calls == []


def test_skipped_and_refused_as_alone(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.limit = 8
    spread = Spread(tmp_path / "skip", backend, truncation="skip").run()
    answers = spread.answers[SHARDS[2].id][0]
    assert "" in answers
    assert any(answers)
    with pytest.raises(RunFailedError, match="requests need more than the window of 8 tokens"):
        Spread(tmp_path / "error", backend).run()
    tiny = FakeBackend()
    tiny.limit = 1
    every = Spread(tmp_path / "all", tiny, truncation="skip").run()
    assert every.answers[SHARDS[0].id][0] == [""] * 5
    assert contents(every.store)[1] == []


def test_an_error_names_shard_and_samples(tmp_path: Path) -> None:
    bad = prompts(SHARDS[0], "generate_until")[4].args[0]

    class Failing(FakeBackend):
        def generate_until(self, reqs: list[Instance], disable_tqdm: bool = False) -> list[str]:
            if bad in [request.args[0] for request in reqs]:
                raise BackendError("boom")
            return super().generate_until(reqs)

    with pytest.raises(BackendError, match=rf"{SHARDS[0].id}, batch of samples \[.*4.*\]: boom"):
        Spread(tmp_path, Failing()).run()


def test_responses_of_another_question_are_refused(tmp_path: Path) -> None:
    alone(tmp_path / "run", shards=SHARDS[:1])
    store = RunStore.create(tmp_path / "run")
    store._db.execute("UPDATE responses SET key='other' WHERE request=1")
    store._db.execute("DELETE FROM responses WHERE request=2")
    with pytest.raises(StoreError, match="choose a new --out"):
        Spread(tmp_path / "run", FakeBackend()).run(SHARDS[:1])


def test_one_worker_says_how_much_memory_a_batch_may_take_before_another_is_started(tmp_path: Path) -> None:
    backend: Any = FakeBackend()
    backend.device = torch.device("cpu")
    spread = Spread(tmp_path, backend, workers=5).run(memory=True)
    first, *others = spread.calls
    assert (first.shard, first.memory) == ("", None)
    assert {call.memory for call in others} == {backend.memory_limit}
    assert backend.memory_limit > 0
    lm = PooledLM(SimpleNamespace(), spread.store, {"model": "m"}, "error")
    fresh = Work(lm, SHARDS, lambda shard: None, 5, memory=True)
    calls = iter(fresh)
    assert next(calls) == Call()
    assert next(calls) is LATER, "nobody else has work, so nobody else is started"
    fresh.take(Reply("", memory=1))
    with pytest.raises(StopIteration):
        next(calls)


def test_shards_are_opened_as_workers_want_them(tmp_path: Path) -> None:
    lm = PooledLM(SimpleNamespace(), RunStore.create(tmp_path), {"model": "m"}, "error")
    opened: list[str] = []

    def finish(shard: Any) -> None:
        opened.append(shard.id)
        raise Wanted(shard.id, None, "generate_until", prompts(shard, "generate_until"), [""] * shard.n, {})

    shards = [some_shard(task=f"t{i}", n=10) for i in range(50)]
    work = Work(lm, shards, finish, 16, memory=False)
    calls = iter(work)
    found = [next(calls) for _ in range(20)]
    assert len(opened) == 4, "ten samples each for twice sixteen"
    assert found[4:] == [LATER] * 16
    reply = Reply(opened[0], plan=[[i] for i in range(10)])
    assert work.take(reply) == (0.0, 0)
    assert [call.batch for call in (next(calls) for _ in range(10))] == [(i,) for i in range(10)]  # type: ignore[union-attr]
    next(calls)
    assert len(opened) == 5


def test_workers_know_which_prompts_are_chats(tmp_path: Path) -> None:
    class Chats(FakeBackend):
        chat = False
        seen: ClassVar[set[tuple[str, bool]]] = set()

        def expect(self, *, chat: bool) -> None:
            self.chat = chat

        def measure(self, request_type: str, requests: list[Instance]) -> list[int]:
            self.seen |= {(request.args[0][0], self.chat) for request in requests}
            return super().measure(request_type, requests)

        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
            self.seen |= {(request.args[0][0], self.chat) for request in requests}
            return super().generate_until(requests)

    class ChatSpread(Spread):
        def _finish(self, shard: Any) -> None:
            self.lm.begin(shard.id, chat=shard.chat)
            self.lm.generate_until(prompts(shard, "generate_until"))

    ChatSpread(tmp_path, Chats()).run([some_shard(task="vt", n=3), some_shard(task="cwe", n=3, chat=False)])
    assert Chats.seen == {("v", True), ("c", False)}


def test_workers_are_no_part_of_what_is_evaluated() -> None:
    plain = RunConfig(model="m", tasks=("ruler",))
    spread = RunConfig(
        model="m", tasks=("ruler",), workers=3, executor="ray", gpus_per_worker=1, options={"ray": {"address": "h:1"}}
    )
    assert spread.settings() == plain.settings()


SPREAD = (
    *("--tasks", "ruler:niah_single_1,ruler:fwe", "--lengths", "768", "--samples-per-task", 4, "--batch-size", 2),
    *("--dtype", "float32", "--device", "cpu", "--offline"),
)


@pytest.fixture
def undivided(lr2eval: Callable[..., Any], toy_checkpoint: Path, once: Callable[..., Path]) -> Path:
    """That run in one process, made once. Do not change it in place."""

    def make(home: Path) -> None:
        done = lr2eval("run", "--model", toy_checkpoint, *SPREAD, "--out", home / "run")
        assert done.code == 0, done.err

    return once("undivided", make) / "run"


@pytest.mark.xdist_group("processes")
@pytest.mark.timeout(600)
def test_one_two_and_three_processes_give_the_same_digest(
    lr2eval: Callable[..., Any], toy_checkpoint: Path, undivided: Path, tmp_path: Path
) -> None:
    folders = [undivided]
    for count, spread in ((2, ("--workers", 2)), (3, ("--set", "workers=3"))):
        folders.append(tmp_path / str(count))
        done = lr2eval("run", "--model", toy_checkpoint, *SPREAD, *spread, "--out", folders[-1])
        assert done.code == 0, done.err
    for count, out in enumerate(folders, start=1):
        session = json.loads((out / "manifest.json").read_text())["sessions"][0]
        assert session["workers"] == count
        assert session["executor"] == ("in-process" if count == 1 else "processes")
        assert session["model_seconds"] > 0
    one, two, three = (json.loads((out / "results.json").read_text()) for out in folders)
    assert one == two == three
    # Finished with three: with one there is nothing left to do, and nothing to refuse.
    assert lr2eval("run", "--model", toy_checkpoint, *SPREAD, "--out", folders[-1]).code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers",), "Option '--workers' requires an argument"),
        (("--worker", "2"), "No such option: --worker"),
        (("stray",), "Got unexpected extra argument"),
        (("--workers", "0"), "--workers 0: must be greater than or equal to 1"),
        (("--executor=slurm",), "--executor 'slurm': must be 'processes' or 'ray'"),
        (("--workers=2", "--gpus-per-worker", "1"), "--gpus-per-worker: only works with --executor ray"),
        (("--workers=2", "--backend=local-completions", "--set", "local_completions.base_url=http://x"), "spreads its"),
        (("--set", "ray.adress=h:1"), "ray.adress: unknown option; did you mean ray.address?"),
    ],
)
def test_one_line_says_what_is_wrong(
    lr2eval: Callable[..., Any], toy_checkpoint: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = lr2eval("run", "--model", toy_checkpoint, "--tasks", "ruler:vt", *arguments)
    assert done.code == 2
    assert message in done.error
