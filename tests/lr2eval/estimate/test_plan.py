"""The plan of a run against what the backend and a run then do."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lm_eval.evaluator import evaluate
from transformers import AutoConfig

from lr2eval.backends.hf import WindowedHFLM
from lr2eval.commands import plan as plan_command
from lr2eval.estimate import plan
from lr2eval.estimate.cost import Rates, kv_bytes
from lr2eval.estimate.plan import PlannedShard, make_plan, plan_run
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.shape import config_shape
from lr2eval.runs.backend import load_backend
from lr2eval.runs.config import RunConfig
from lr2eval.runs.prepare import Prepared, prepare
from tests.tasks.longbench.test_benchmark import item, write

Run = Callable[..., Any]
Prepare = Callable[..., Prepared]
RATES = Rates(operations=1e9, bandwidth=1e8)


@pytest.fixture
def prepared(toy_checkpoint: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Prepare:
    monkeypatch.setenv("LR2EVAL_CACHE", str(shared_cache))

    def make(tasks: str, **flags: Any) -> Prepared:
        given = {"model": str(toy_checkpoint), "tasks": tasks, "offline": True, "device": "cpu", "dtype": "float32"}
        return prepare(RunConfig.load(given | flags), lambda text: None)

    return make


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Rates that are not measured; what they were asked for."""
    calls: list[tuple[str, str]] = []

    def measured(dtype: str, device: str) -> Rates:
        calls.append((dtype, device))
        return RATES

    monkeypatch.setattr(plan, "measure_rates", measured)
    return calls


@pytest.fixture
def mmlu(tmp_path: Path) -> Path:
    """21 questions of one subject, ever longer, of which the longest is beyond the toy's window with its shots."""
    for split, n in (("dev", 5), ("test", 21)):
        (tmp_path / split).mkdir()
        lines = [f"{'why ' * (1 + 3 * i if i < 20 else 300)},a,b,c,d,{'ABCD'[i % 4]}\n" for i in range(n)]
        (tmp_path / split / f"anatomy_{split}.csv").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def long_and_short(tmp_path: Path) -> Path:
    """A LongBench folder with two questions, of which one is longer than 512 tokens."""
    return write(tmp_path / "data" / "longbench", "trec", [item(), item(context="Question: 1 ?\nType: Food")])


def one(run: Prepared) -> PlannedShard:
    (found,) = plan_run(run, RATES)
    return found


def counted(lr2eval: Run, model: Path, out: Path, *flags: object) -> dict[str, tuple[int, int]]:
    """Prompt tokens and cut samples of every shard of a run."""
    done = lr2eval("run", "--model", model, "--offline", "--dtype", "float32", "--device", "cpu", "--out", out, *flags)
    assert done.code == 0, done.err
    shards = json.loads((out / "results.json").read_text())["shards"]
    return {f"{s['task']}@{s['length']}": (s["prompt_tokens"], s["truncated"]) for s in shards}


# Tokens


def test_prompts_of_data_files_are_counted_to_the_token(
    toy_checkpoint: Path, prepared: Prepare, long_and_short: Path, tmp_path: Path, lr2eval: Run
) -> None:
    """LongBench's files count the prompt alone."""
    found = one(prepared("longbench:trec", lengths="512", data_dir=long_and_short, truncation="middle"))
    taken = counted(lr2eval, toy_checkpoint, tmp_path / "run", "--tasks", "longbench:trec", "--lengths", "512",
                    "--data-dir", long_and_short, "--truncation", "middle")  # fmt: skip
    assert {"trec@512": (found.tokens, found.over)} == taken
    assert (found.over, found.new, found.exact, found.batches) == (1, 2 * 64, True, 1)


def test_files_that_count_the_answer_too(prepared: Prepare) -> None:
    """RULER's and the needles' do."""
    run = prepared("ruler:niah_single_1,ruler:fwe", lengths="768,1k", samples_per_task=2)
    for shard, found in zip(run.shards, plan_run(run, RATES), strict=True):
        rows = list(shard.load().eval_docs)
        assert found.tokens == sum(run.tokenizer.count_prompt(row["prompt"], row["answer_prefix"]) for row in rows)
        assert (found.new, found.over, found.exact) == (2 * (shard.max_new_tokens or 0), 0, True)


def test_skipped_prompts_are_counted_and_not_read(prepared: Prepare, long_and_short: Path) -> None:
    found = one(prepared("longbench:trec", lengths="512", data_dir=long_and_short, truncation="skip"))
    assert (found.samples, found.over, found.batches, found.new) == (2, 1, 1, 64)
    assert found.tokens + 64 <= 512


def test_few_prompts_without_a_file_are_all_built(
    toy_checkpoint: Path, prepared: Prepare, mmlu: Path, tmp_path: Path, lr2eval: Run
) -> None:
    found = one(prepared("mmlu:anatomy", data_dir=mmlu, limit=4))
    taken = counted(lr2eval, toy_checkpoint, tmp_path / "run", "--tasks", "mmlu:anatomy", "--limit", "4", "--data-dir",
                    mmlu)  # fmt: skip
    # " A" is two tokens for the toy, of which the last is only predicted, so that four choices are read as one. A run
    # counts that last token.
    assert (found.exact, found.samples, found.new, found.cache) == (True, 4, 0, 0)
    assert found.tokens + 4 == taken["mmlu_anatomy@None"][0]


def test_many_prompts_are_a_spread_of_them(prepared: Prepare, mmlu: Path) -> None:
    found = one(prepared("mmlu:anatomy", data_dir=mmlu))
    few, more = (one(prepared("mmlu:anatomy", data_dir=mmlu, limit=n)) for n in (4, 8))
    assert (found.exact, found.samples, found.over) == (False, 21, 1)
    assert few.tokens < more.tokens < found.tokens


def test_each_of_many_tasks_has_some_built(prepared: Prepare, mmlu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SAMPLED", 1)
    built = []
    requests = plan._requests

    def counting(shard: Any, task: Any, documents: Any, run: Any) -> Any:
        built.append(len(documents))
        return requests(shard, task, documents, run)

    monkeypatch.setattr(plan, "_requests", counting)
    found = one(prepared("mmlu:anatomy", data_dir=mmlu))
    assert (built[0], found.samples, found.exact, found.over) == (2, 21, False, 1)


def test_lengths_beyond_the_window_on_purpose_are_not_too_long(prepared: Prepare, mmlu: Path) -> None:
    """The backend then takes prompts of the longest length, so the run would not stop."""
    asked = {"data_dir": mmlu, "lengths": "4k", "samples_per_task": 1}
    run = prepared("mmlu:anatomy,ruler:niah_single_1", beyond_window=True, **asked)
    assert run.checkpoint.window < 4096
    assert [(line.name, line.over) for line in plan_run(run, RATES)] == [
        ("mmlu:mmlu_anatomy", 0), ("ruler:niah_single_1", 0)
    ]  # fmt: skip
    inside = prepared("mmlu:anatomy", data_dir=mmlu)
    assert [line.over for line in plan_run(inside, RATES)] == [1]


# Batches, memory and time


def test_batches_are_those_of_the_backend(prepared: Prepare) -> None:
    run = prepared("ruler:niah_single_1,ruler:fwe", lengths="768,1k", samples_per_task=40)
    lm = load_backend(run.checkpoint, run.config)
    item = kv_bytes(config_shape(AutoConfig.from_pretrained(run.checkpoint.folder)), 4)
    several = 0
    for shard, found in zip(run.shards, plan_run(run, RATES), strict=True):
        task = shard.load()
        task.build_all_requests()
        needed = lm.measure("generate_until", task.instances)
        planned = lm.plan("generate_until", task.instances)
        assert found.batches == len(planned)
        assert found.cache == item * max(len(batch) * max(needed[n] for n in batch) for batch in planned)
        several += len(planned) > 1
    assert several


def test_what_questions_share_is_planned_as_the_backend_reads_it(
    toy_checkpoint: Path, prepared: Prepare, mmlu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The five examples once, then what is left of every choice: to the token where nothing is padded."""
    run = prepared("mmlu:anatomy", data_dir=mmlu, limit=4)
    counts: list[float] = []

    def operations(shape: Any, tokens: float, *rest: float) -> tuple[float, float]:
        counts.append(tokens)
        return 1.0, 1.0

    monkeypatch.setattr(plan, "operations", operations)
    found = one(run)
    lm = WindowedHFLM(Checkpoint.open(toy_checkpoint), dtype="float32", device="cpu")
    read: list[int] = []
    forward = lm.model.forward

    def reading(input_ids: Any, *rest: Any, **inputs: Any) -> Any:
        read.append(input_ids.numel())
        return forward(input_ids, *rest, **inputs)

    lm.model.forward = reading
    task = run.shards[0].load()
    task.set_fewshot_seed(0)
    evaluate(lm, {"tasks": {"t": task}, "groups": {}, "group_map": {}}, bootstrap_iters=0)
    assert max(read) < found.tokens / 4  # shared indeed
    assert counts[0] <= sum(read)
    assert counts[0] == pytest.approx(sum(read), rel=0.1)


def test_a_sample_of_questions_tells_the_time_of_all(
    prepared: Prepare, mmlu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The examples are read once, however many questions follow."""
    some = one(prepared("mmlu:anatomy", data_dir=mmlu))
    monkeypatch.setattr(plan, "MOST", 64)
    all_ = one(prepared("mmlu:anatomy", data_dir=mmlu))
    assert (some.exact, all_.exact) == (False, True)
    assert some.seconds == pytest.approx(all_.seconds, rel=0.25)  # the longest question is not in the sample


def test_lines_tell_memory_and_time(prepared: Prepare, known: list[Any]) -> None:
    run = prepared("ruler:niah_single_1", lengths="768,1k", samples_per_task=3)
    made = make_plan({"a": run, "b": run})
    assert (made.rates, made.reason, known) == (RATES, "", [("float32", "cpu")])  # measured once
    assert made.lines["a"] == made.lines["b"]
    for line, length in zip(made.lines["a"], (768, 1024), strict=True):
        assert (line.name, line.length, line.samples, line.new) == ("ruler:niah_single_1", length, 3, 3 * 128)
        assert line.batches == 1
        assert line.seconds is not None
        assert line.seconds > 0


def test_another_backend_has_a_plan_and_no_time(prepared: Prepare, known: list[Any]) -> None:
    run = prepared("ruler:niah_single_1", lengths="768", samples_per_task=2)
    run = replace(run, config=run.config.model_copy(update={"backend": "dummy"}))
    made = make_plan({"": run})
    (line,) = made.lines[""]
    assert (line.seconds, line.batches, made.reason, known) == (None, None, "--backend dummy is not timed", [])
    assert line.tokens > 0


def test_a_model_of_unknown_sizes_still_runs(
    toy_checkpoint: Path, lr2eval: Run, known: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("no such layer\nsecond line")

    monkeypatch.setattr(plan, "config_shape", broken)
    done = lr2eval("run", "--model", toy_checkpoint, "--tasks", "ruler:niah_single_1", "--lengths", "768",
                   "--samples-per-task", "2", "--offline", "--device", "cpu", "--dry-run")  # fmt: skip
    assert done.code == 0
    assert "no time estimate: the model's configuration does not state its sizes\n" in done.err


# What is printed


def test_the_table_names_what_is_too_long(
    toy_checkpoint: Path, known: list[Any], long_and_short: Path, tmp_path: Path, lr2eval: Run
) -> None:
    command = (
        "run", "--model", toy_checkpoint, "--tasks", "longbench:trec", "--lengths", "512", "--offline",
        "--device", "cpu", "--data-dir", long_and_short, "--dry-run", "--out", tmp_path / "run",
    )  # fmt: skip
    for policy, fate in (("middle", "the middle is cut out"), ("skip", "skipped")):
        done = lr2eval(*command, "--truncation", policy)
        assert done.code == 0, done.err
        assert f"1 prompt longer than the window: {fate}" in done.err
        assert "longbench:trec" in done.err
        assert "of model time, if every answer uses all its tokens" in done.err
        assert "data: 1 file in " in done.err
    assert not (tmp_path / "run").exists()


def line(name: str, n: int, *, seconds: float | None = 1.0, length: int | None = None) -> PlannedShard:
    return PlannedShard(name, length, n, 10 * n, n, n % 2, n > 1, 2, 7 * n, seconds)


def test_many_tasks_of_a_benchmark_share_a_line() -> None:
    many, few = [line(f"mmlu:{n}", n) for n in range(1, 17)], [line("ruler:vt", 3, length=512)]
    together, alone = plan_command._grouped([*many, *few])
    assert alone == few[0]
    assert (together.name, together.samples, together.tokens, together.over) == ("mmlu (16 tasks)", 136, 1360, 8)
    assert (together.batches, together.cache, together.seconds, together.exact) == (32, 7 * 16, 16.0, False)
    assert plan_command._sum("all", None, [*few, line("x:y", 1, seconds=None)]).seconds is None
    assert plan_command._grouped(many[:15]) == many[:15]


@pytest.mark.parametrize(
    ("count", "text"), [(None, "-"), (0, "-"), (1000, "0.1 MiB"), (2**21, "2.0 MiB"), (2**34, "16.0 GiB")]
)
def test_bytes(count: int | None, text: str) -> None:
    assert plan_command._bytes(count) == text
