from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lr2eval.commands import plan as plan_command
from lr2eval.estimate import cost, plan
from lr2eval.estimate.cost import Speed, kv_bytes
from lr2eval.estimate.plan import Estimator, Planned, asked
from lr2eval.model.shape import config_shape
from lr2eval.runs.config import RunConfig
from lr2eval.runs.prepare import Prepared, prepare
from tests.tasks.longbench.test_benchmark import item, write

Run = Callable[..., Any]
SPEED = Speed(matrix=1e9, attention=1e9, step=0.1, row=0.01, context=1e-6)


@pytest.fixture
def prepared(toy_checkpoint: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Prepared]:
    monkeypatch.setenv("LR2EVAL_CACHE", str(shared_cache))

    def make(tasks: str, **flags: Any) -> Prepared:
        given = {"model": str(toy_checkpoint), "tasks": tasks, "offline": True, "device": "cpu", "dtype": "float32"}
        return prepare(RunConfig.load(given | flags), lambda text: None)

    return make


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A speed that is not measured; what it was asked for."""
    calls: list[dict[str, Any]] = []

    def calibrated(config: Any, dtype: str, device: str, **at: int) -> Speed:
        calls.append({"dtype": dtype, "device": device, **at})
        return SPEED

    monkeypatch.setattr(cost, "calibrate", calibrated)
    return calls


def test_batches_are_those_of_the_backend(prepared: Callable[..., Prepared]) -> None:
    from lr2eval.runs.backend import load_backend

    run = prepared("ruler:niah_single_1,ruler:fwe", lengths="768,1k", samples_per_task=40)
    work = asked(run)
    batches, _, _ = plan._batched(run, work)
    lm = load_backend(run.checkpoint, run.config)
    several = 0
    for shard, made in zip(run.shards, batches, strict=True):
        task = shard.load()
        task.build_all_requests()
        lengths = [lm.measure("generate_until", task.instances)[n] - (shard.max_new_tokens or 0) for n in range(40)]
        planned = lm.plan("generate_until", task.instances)
        assert [(b.rows, b.width) for b in made] == [(len(p), max(lengths[n] for n in p)) for p in planned]
        assert [b.padded for b in made] == [len({lengths[n] for n in p}) > 1 for p in planned]
        several += len(made) > 1
    assert several


def test_lines_tell_memory_and_time(prepared: Callable[..., Prepared], known: list[dict[str, Any]]) -> None:
    run = prepared("ruler:niah_single_1", lengths="768,1k", samples_per_task=3)
    estimator = Estimator()
    lines, why = estimator.plan(run)
    sizes = config_shape(plan._batched(run, asked(run))[2])
    assert why == ""
    assert [(line.name, line.length, line.samples, line.new, line.over) for line in lines] == [
        ("ruler:niah_single_1", n, 3, 3 * 128, 0) for n in (768, 1024)
    ]
    for line in lines:
        assert line.kv_sample <= line.kv_batch == 3 * line.kv_sample
        assert 0.9 * (line.length or 0) * kv_bytes(sizes, 4) < line.kv_sample <= (line.length or 0) * kv_bytes(sizes, 4)
        assert line.seconds is not None
        assert line.seconds > 128 * (0.1 + 3 * 0.01)
    assert [call["rows"] for call in known] == [3]
    assert known[0]["longest"] == max(max(work.prompts) for work in asked(run))
    estimator.plan(run)
    assert len(known) == 1  # measured once


def test_the_table_names_what_is_too_long(
    toy_checkpoint: Path, known: list[dict[str, Any]], tmp_path: Path, lr2eval: Run
) -> None:
    data = write(tmp_path / "data" / "longbench", "trec", [item(), item(context="Question: 1 ?\nType: Food")])
    command = (
        "run", "--model", toy_checkpoint, "--tasks", "longbench:trec", "--lengths", "512", "--offline",
        "--device", "cpu", "--data-dir", data, "--dry-run", "--out", tmp_path / "run",
    )  # fmt: skip
    for policy, fate in (("middle", "cut in the middle"), ("skip", "skipped")):
        done = lr2eval(*command, "--truncation", policy)
        assert done.code == 0, done.err
        assert f"1 prompts are too long for their window: {fate}" in done.err
        assert "longbench:trec" in done.err
        assert "of work for the model on this machine" in done.err
    assert not (tmp_path / "run").exists()


def test_another_backend_has_a_plan_and_no_time(prepared: Callable[..., Prepared], known: list[Any]) -> None:
    run = prepared("ruler:niah_single_1", lengths="768", samples_per_task=2)
    run = replace(run, config=run.config.model_copy(update={"backend": "dummy"}))
    lines, why = Estimator().plan(run)
    assert (lines[0].seconds, why, known) == (None, "--backend dummy is not measured", [])
    assert lines[0].tokens > 0


def test_a_model_that_cannot_be_measured_still_runs(
    toy_checkpoint: Path, lr2eval: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Speed:
        raise ValueError("no such layer\nsecond line")

    monkeypatch.setattr(cost, "calibrate", broken)
    done = lr2eval("run", "--model", toy_checkpoint, "--tasks", "ruler:niah_single_1", "--lengths", "768",
                   "--samples-per-task", "2", "--offline", "--device", "cpu", "--dry-run")  # fmt: skip
    assert (done.code, "no time estimate: the calibration failed: no such layer\n" in done.err) == (0, True)


def line(name: str, n: int, *, seconds: float | None = 1.0, length: int | None = None) -> Planned:
    return Planned(name, length, n, 10 * n, n, n % 2, n > 1, 5 * n, 7 * n, seconds)


def test_many_tasks_of_a_benchmark_share_a_line() -> None:
    many, few = [line(f"mmlu:{n}", n) for n in range(1, 17)], [line("ruler:vt", 3, length=512)]
    together, alone = plan_command._few([*many, *few])
    assert alone == few[0]
    assert (together.name, together.samples, together.tokens, together.over) == ("mmlu (16 tasks)", 136, 1360, 8)
    assert (together.kv_batch, together.seconds, together.exact) == (7 * 16, 16.0, False)
    assert plan_command._sum("all", None, [*few, line("x:y", 1, seconds=None)]).seconds is None
    assert plan_command._few(many[:15]) == many[:15]


@pytest.mark.parametrize(("count", "text"), [(0, "-"), (1000, "0.1 MiB"), (2**21, "2.0 MiB"), (2**34, "16.0 GiB")])
def test_bytes(count: int, text: str) -> None:
    assert plan_command._bytes(count) == text
