"""SmolLM2-135M: what random toy models cannot show. Skips by name where the model was not fetched."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.base.files import cache_dir
from lr2eval.benchmark import TaskContext
from lr2eval.errors import CheckpointError
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.names import locate
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.registry import resolve
from tests.tasks.ruler.exact import all_tasks, check

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("real-model")]


@pytest.fixture(scope="module")
def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct in the user's own cache."""
    try:
        return locate("smollm2-135m")
    except CheckpointError as error:
        if os.environ.get("LR2EVAL_REQUIRE_MODEL"):
            raise
        pytest.skip(f"real model absent: {error}")


def test_it_finds_needles(smollm2: Path, lr2eval: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "run"
    got = lr2eval(
        "run", "--model", smollm2, "--tasks", "ruler:niah_single_1", "--lengths", "512,1k", "--samples-per-task", "3",
        "--dtype", "bfloat16", "--offline", "--out", out,
    )  # fmt: skip
    assert got.code == 0, got.err
    results = json.loads((out / "results.json").read_text())
    assert [shard["score"] for shard in results["shards"]] == [100.0, 100.0]
    assert results["model"]["parameters"] == 134_515_008
    assert results["model"]["window"] == 8192


def test_mmlu_choices_are_lm_evals(smollm2: Path, shared_data: Path) -> None:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from lr2eval.backends.hf import WindowedHFLM

    context = TaskContext(
        PromptTokenizer.load(smollm2), (), 1, 0, cache_dir(), limit=3, data_dir=shared_data, offline=True
    )
    [(mmlu, names)] = resolve(["mmlu:global_facts", "mmlu:sociology"])
    shards = mmlu.prepare(names, context)
    ours = WindowedHFLM(Checkpoint.open(smollm2), dtype="float32", device="cpu")
    theirs = HFLM(pretrained=ours.model, tokenizer=ours.tokenizer, batch_size=1)
    compared = 0
    for shard in shards:
        answers = []
        for lm in (ours, theirs):
            task = shard.load()
            name = task.config.task
            logged = evaluate(lm, {"tasks": {name: task}, "groups": {}, "group_map": {}}, bootstrap_iters=0)
            answers.append([[response[0][0] for response in row["resps"]] for row in logged["samples"][name]])
        for a, b in zip(*answers, strict=True):
            assert a == pytest.approx(b, abs=1e-3)
            assert a.index(max(a)) == b.index(max(b))
            compared += 1
    assert compared == 6


def test_ruler_samples_are_maximal_with_its_tokenizer(smollm2: Path) -> None:
    tokenizer = PromptTokenizer.load(smollm2)
    tasks = all_tasks()
    assert len(tasks) == 13
    for task in tasks.values():
        for length in (4096, 32_768):
            assert check(task, length, 1, tokenizer).length == length
