"""Tokens of the plan against those that a run then counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.evaluator import evaluate

from lr2eval.backends.hf import WindowedHFLM
from lr2eval.estimate import plan
from lr2eval.estimate.cost import Asked
from lr2eval.estimate.plan import _batched, asked
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.runs.config import RunConfig
from lr2eval.runs.prepare import Prepared, prepare
from tests.tasks.longbench.test_benchmark import item, write

Run = Callable[..., Any]


@pytest.fixture
def prepared(toy_checkpoint: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Prepared]:
    monkeypatch.setenv("LR2EVAL_CACHE", str(shared_cache))

    def make(tasks: str, **flags: Any) -> Prepared:
        given = {"model": str(toy_checkpoint), "tasks": tasks, "offline": True, "device": "cpu", "dtype": "float32"}
        return prepare(RunConfig.load(given | flags), lambda text: None)

    return make


@pytest.fixture
def mmlu(tmp_path: Path) -> Path:
    """21 questions of one subject, ever longer, of which the longest is beyond the toy's window with its shots."""
    for split, n in (("dev", 5), ("test", 21)):
        (tmp_path / split).mkdir()
        lines = [f"{'why ' * (1 + 3 * i if i < 20 else 300)},a,b,c,d,{'ABCD'[i % 4]}\n" for i in range(n)]
        (tmp_path / split / f"anatomy_{split}.csv").write_text("".join(lines))
    return tmp_path


def counted(lr2eval: Run, model: Path, out: Path, *flags: object) -> dict[str, tuple[int, int]]:
    """Prompt tokens and cut samples of every shard of a run."""
    done = lr2eval("run", "--model", model, "--offline", "--dtype", "float32", "--device", "cpu", "--out", out, *flags)
    assert done.code == 0, done.err
    shards = json.loads((out / "results.json").read_text())["shards"]
    return {f"{s['task']}@{s['length']}": (s["prompt_tokens"], s["truncated"]) for s in shards}


def test_prompts_of_data_files_are_counted_to_the_token(
    toy_checkpoint: Path, prepared: Callable[..., Prepared], tmp_path: Path, lr2eval: Run
) -> None:
    """LongBench's files count the prompt alone."""
    data = write(tmp_path / "data" / "longbench", "trec", [item(), item(context="Question: 1 ?\nType: Food")])
    (found,) = asked(prepared("longbench:trec", lengths="512", data_dir=data, truncation="middle"))
    taken = counted(lr2eval, toy_checkpoint, tmp_path / "run", "--tasks", "longbench:trec", "--lengths", "512",
                    "--data-dir", data, "--truncation", "middle")  # fmt: skip
    assert {"trec@512": (found.tokens, found.over)} == taken
    assert (found.over, found.new, found.exact, found.longest) == (1, 64, True, 512)


def test_files_that_count_the_answer_too(prepared: Callable[..., Prepared]) -> None:
    """RULER's and the needles' do."""
    run = prepared("ruler:niah_single_1,ruler:fwe", lengths="768,1k", samples_per_task=2)
    for shard, found in zip(run.shards, asked(run), strict=True):
        rows = list(shard.load().eval_docs)
        whole = [run.tokenizer.count_prompt(row["prompt"], row["answer_prefix"]) for row in rows]
        assert found.prompts == whole
        assert (found.new, found.over, found.exact) == (shard.max_new_tokens, 0, True)


def test_skipped_prompts_are_counted_and_not_read(prepared: Callable[..., Prepared], tmp_path: Path) -> None:
    data = write(tmp_path / "data" / "longbench", "trec", [item(), item(context="Question: 1 ?\nType: Food")])
    (found,) = asked(prepared("longbench:trec", lengths="512", data_dir=data, truncation="skip"))
    assert (found.samples, found.over, len(found.prompts)) == (2, 1, 1)
    assert found.prompts[0] + found.new <= 512


def one(prepared: Callable[..., Prepared], **flags: Any) -> Asked:
    (found,) = asked(prepared("mmlu:anatomy", **flags))
    return found


def test_few_prompts_without_a_file_are_all_built(
    toy_checkpoint: Path, prepared: Callable[..., Prepared], mmlu: Path, tmp_path: Path, lr2eval: Run
) -> None:
    found = one(prepared, data_dir=mmlu, limit=4)
    taken = counted(lr2eval, toy_checkpoint, tmp_path / "run", "--tasks", "mmlu:anatomy", "--limit", "4", "--data-dir",
                    mmlu)  # fmt: skip
    # " A" is two tokens for the toy, of which the last is only predicted, so that four choices are read as one. A run
    # counts that last token.
    assert (found.exact, len(found.prompts), found.new) == (True, 4, 0)
    assert found.tokens + 4 == taken["mmlu_anatomy@None"][0]


def test_what_questions_share_is_planned_as_the_backend_reads_it(
    toy_checkpoint: Path, prepared: Callable[..., Prepared], mmlu: Path
) -> None:
    """The five examples once, then what is left of every choice: to the token where nothing is padded."""
    run = prepared("mmlu:anatomy", data_dir=mmlu, limit=4)
    (found,) = asked(run)
    planned, _, _ = _batched(run, [found])
    lm = WindowedHFLM(Checkpoint.open(toy_checkpoint), dtype="float32", device="cpu")
    read: list[int] = []
    forward = lm.model.forward

    def counted(input_ids: Any, *rest: Any, **inputs: Any) -> Any:
        read.append(input_ids.numel())
        return forward(input_ids, *rest, **inputs)

    lm.model.forward = counted
    task = run.shards[0].load()
    task.set_fewshot_seed(0)
    evaluate(lm, {"tasks": {"t": task}, "groups": {}, "group_map": {}}, bootstrap_iters=0)
    assert max(read) < found.tokens / 4  # shared indeed
    assert sum(found.prompts) - sum(found.taken) + sum(found.beginnings) <= sum(read)
    assert sum(batch.rows * batch.width for batch in planned[0]) == pytest.approx(sum(read), rel=0.1)


def test_a_sample_of_questions_shares_what_all_do(prepared: Callable[..., Prepared], mmlu: Path) -> None:
    few, many = one(prepared, data_dir=mmlu, limit=8), one(prepared, data_dir=mmlu)
    assert many.beginnings == few.beginnings
    assert len(many.taken) == len(many.prompts) == 21
    assert set(many.taken) == set(few.taken)


def test_many_prompts_are_a_spread_of_them(prepared: Callable[..., Prepared], mmlu: Path) -> None:
    found, whole = one(prepared, data_dir=mmlu), [one(prepared, data_dir=mmlu, limit=n).tokens for n in (4, 8)]
    assert (found.exact, found.samples, len(found.prompts)) == (False, 21, 21)
    assert found.over == 1
    assert whole[0] < whole[1] < found.tokens
    assert len(set(found.prompts)) == 16  # of 21, from the shortest up


def test_each_of_many_tasks_has_some_built(prepared: Callable[..., Prepared], mmlu: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(plan, "SAMPLED", 1)
    found = one(prepared, data_dir=mmlu)
    assert (len(set(found.prompts)), len(found.prompts), found.over) == (2, 21, 1)
