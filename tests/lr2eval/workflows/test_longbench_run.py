"""LongBench from end to end: what a run keeps of a cut prompt, two windows of two models, a real model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.errors import CheckpointError
from lr2eval.model.names import locate
from lr2eval.record.store import RunStore
from tests.tasks.longbench.test_benchmark import item, write

Run = Callable[..., Any]
CPU = ("--dtype", "float32", "--device", "cpu", "--offline")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two samples of trec: one of some 600 characters, which are tokens for the toy, and a short one."""
    return write(tmp_path / "data" / "longbench", "trec", [item(), item(context="Question: 1 ?\nType: Food")])


@pytest.fixture(scope="module")
def smollm2() -> Path:
    """Folder of SmolLM2-135M-Instruct in the user's own cache."""
    try:
        return locate("smollm2-135m")
    except CheckpointError as error:
        pytest.skip(f"real model absent: {error}")


def samples(run: Path) -> dict[str, list[Any]]:
    with RunStore.read(run) as store:
        found: dict[str, list[Any]] = {}
        for sample in store.samples():
            found.setdefault(sample.shard, []).append(sample)
    return found


def shard(run: Path, name: str) -> dict[str, Any]:
    results = json.loads((run / "results.json").read_text())
    return next(s for s in results["shards"] if f"{s['benchmark']}/{s['task']}@{s['length']}" == name)


def test_a_cut_prompt_is_recorded(toy_checkpoint: Path, data: Path, tmp_path: Path, lr2eval: Run) -> None:
    run = tmp_path / "run"
    command = ("run", "--model", toy_checkpoint, "--tasks", "longbench:trec", "--lengths", "512", *CPU, "--data-dir",
               data, "--out", run)  # fmt: skip
    refused = lr2eval(*command)
    assert (refused.code, "1 of 2 prompts are longer than 448 tokens" in refused.error) == (2, True)
    done = lr2eval(*command, "--truncation", "middle")
    assert done.code == 0, done.err
    (kept,) = samples(run).values()
    assert kept[0].detail.truncated_tokens > 0 == kept[1].detail.truncated_tokens
    assert kept[0].detail.prompt_tokens == 448
    assert (kept[0].prompt_head + kept[0].prompt_tail).endswith("\nType:")
    assert shard(run, "longbench/trec@512")["truncated"] == 1
    again = lr2eval("score", "longbench", run, "--json")
    assert json.loads(again.out)["scores"] == {"trec@512": shard(run, "longbench/trec@512")["score"]}
    assert "Truncated prompts" in (run / "report.html").read_text()


def test_skipped(toy_checkpoint: Path, data: Path, tmp_path: Path, lr2eval: Run) -> None:
    """The window of the shard decides, not the model's, which is twice as wide."""
    run = tmp_path / "run"
    done = lr2eval("run", "--model", toy_checkpoint, "--tasks", "longbench:trec", "--lengths", "512", *CPU,
                   "--data-dir", data, "--truncation", "skip", "--out", run)  # fmt: skip
    assert done.code == 0, done.err
    found = shard(run, "longbench/trec@512")
    assert (found["n"], found["skipped"], found["truncated"]) == (1, 1, 0)
    (kept,) = samples(run).values()
    assert [sample.skipped for sample in kept] == [True, False]


def test_two_windows_of_two_models(toy: Path, data: Path, tmp_path: Path, lr2eval: Run) -> None:
    """Both models at the original's window, the extended one at its own as well; no length need be named."""
    original = Path(shutil.copytree(toy, tmp_path / "original"))
    config = json.loads((original / "config.json").read_text())
    (original / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
    out = tmp_path / "runs"
    done = lr2eval("run", "--model", toy, "--baseline", original, "--tasks", "longbench:trec", *CPU, "--data-dir", data,
                   "--truncation", "middle", "--out", out)  # fmt: skip
    assert done.code == 0, done.err
    before, after = samples(out / "original"), samples(out / "extended")
    assert list(before) == ["longbench/trec@512"]
    assert sorted(after) == ["longbench/trec@1024", "longbench/trec@512"]
    assert [s.prompt_hash for s in before["longbench/trec@512"]] == [s.prompt_hash for s in after["longbench/trec@512"]]
    assert [s.detail.truncated_tokens for s in after["longbench/trec@1024"]] == [0, 0]
    (pair,) = json.loads((out / "comparison.json").read_text())["pairs"]
    assert [(row["benchmark"], row["length"]) for row in pair["differences"] if row["level"] == "shard"] == [
        ("longbench", 512)
    ]
    total, trec = pair["gains"]
    assert (total["level"], total["task"], trec["level"], trec["task"]) == ("benchmark", None, "task", "trec")
    assert (trec["window"], trec["length"], trec["n"], trec["cut"]) == (512, 1024, 2, 1)
    short, long = (sum(s.score for s in run[name]) / 2 for run, name in ((before, "longbench/trec@512"),
                                                                        (after, "longbench/trec@1024")))  # fmt: skip
    assert (trec["original"], trec["extended"]) == (short, long)
    assert "Gain from the longer window" in (out / "report.html").read_text()
    assert "longbench:trec@512-1k" in done.out


@pytest.mark.xdist_group("real-model")
@pytest.mark.real_model
@pytest.mark.shared_data
def test_smollm2(smollm2: Path, shared_data: Path, tmp_path: Path, lr2eval: Run) -> None:
    """A real model on real samples: one of hotpotqa, and one of trec, which --chat leaves as it is."""
    run = tmp_path / "run"
    done = lr2eval("run", "--model", smollm2, "--tasks", "longbench:trec,longbench:hotpotqa", "--lengths", "1k",
                   "--limit", "1", *CPU, "--chat", "--data-dir", shared_data, "--truncation", "middle",
                   "--out", run)  # fmt: skip
    assert done.code == 0, done.err
    found = samples(run)
    (trec,), (hotpotqa,) = found["longbench/trec@1024"], found["longbench/hotpotqa@1024"]
    assert trec.prompt_head.startswith("Please determine the type of the question")
    assert trec.prompt_tail.endswith("Type:")
    assert hotpotqa.prompt_head.startswith("<|im_start|>")
    assert 950 < trec.detail.prompt_tokens <= 1024 - 64
    assert 980 < hotpotqa.detail.prompt_tokens <= 1024 - 32
    assert trec.detail.truncated_tokens > 0 < hotpotqa.detail.truncated_tokens
    assert trec.answer.strip()
