"""``lr2eval sweep``: rules on the same samples, each in a run folder of its own, and one ranking."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval import RunConfig, SweepConfig, run, sweep
from lr2eval.benchmark import Shard
from lr2eval.errors import UsageError
from lr2eval.listener import Listener
from lr2eval.record.base import read_record
from lr2eval.record.comparison import Comparison
from lr2eval.record.folder import read_manifest
from lr2eval.record.results import read_results
from lr2eval.workflows.sweep import prepare_sweep

TARGET = 1536


@pytest.fixture
def asked(toy_checkpoint: Path, shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A sweep of the toy model, whose window is 1024 tokens."""
    monkeypatch.setenv("LR2EVAL_CACHE", str(shared_cache))
    haystack = {"haystack": "demo-filler", "repeat": True}
    return {"model": str(toy_checkpoint), "tasks": "ruler:niah_single_1", "lengths": "1024,1536", "device": "cpu",
            "samples_per_task": 2, "options": {"ruler": haystack}, "target_length": TARGET, "dtype": "float32",
            "rules": "none,yarn:beta_fast=8:attention_factor=1,ntk", "attention_factor": "su",
            "out": tmp_path / "sweep"}  # fmt: skip


class Stops(Listener):
    """Ends the workflow after this number of scored shards, as Ctrl-C would."""

    def __init__(self, after: int) -> None:
        self.left, self.kept, self.done = after, 0, 0

    def shard_kept(self, shard: Shard) -> None:
        self.kept += 1

    def shard_done(self, shard: Shard, score: float | None, n: int) -> None:
        self.left, self.done = self.left - 1, self.done + 1
        if not self.left:
            raise KeyboardInterrupt


def test_a_sweep_that_was_stopped_ends_like_one_that_was_not(asked: dict[str, Any], tmp_path: Path) -> None:
    whole = sweep(SweepConfig(**asked))
    parts = [path.name for path in whole.folder.iterdir() if path.is_dir()]
    assert sorted(parts) == ["none", "ntk", "original", "yarn-beta_fast-8-attention_factor-1"]
    rules = [pair.extended.model.rope_override for pair in whole.comparison.pairs]
    su = math.sqrt(1 + math.log(TARGET / 1024) / math.log(1024))
    assert [(one.rule.partition("(")[0], one.temperature) for one in rules if one] == [
        ("none", 1.0), ("yarn", 1.0), ("ntk", pytest.approx(su)),
    ]  # fmt: skip
    assert {rank.label for rank in whole.comparison.ranking} == {pair.extended.label for pair in whole.comparison.pairs}
    assert whole.comparison.ranking[0].difference is None
    assert read_record(whole.folder / "comparison.json", Comparison, missing="", repair="") == whole.comparison
    page = whole.report.read_text()
    best, *_, worst = whole.comparison.ranking
    lines = (whole.folder / "comparison.md").read_text().splitlines()
    assert any(f"| {best.n} | {best.score:.1f} |" in line and "the best" in line for line in lines)
    assert any(f"| {worst.n} | {worst.score:.1f} |" in line and f"{worst.difference:+.1f}" in line for line in lines)
    assert "The checkpoint was not changed" in page
    assert all(rank.label in page for rank in whole.comparison.ranking)

    stopped = asked | {"out": tmp_path / "stopped"}
    for _ in range(2):  # in the original, then in the second rule
        with pytest.raises(KeyboardInterrupt):
            sweep(SweepConfig(**stopped), listener=Stops(3))
    last = Stops(99)
    again = sweep(SweepConfig(**stopped), listener=last)
    assert (last.kept, last.done) == (1, 1)  # what is finished as a whole is only read
    digests = [read_results(folder / part).digest for part in sorted(parts) for folder in (whole.folder, again.folder)]
    assert digests[::2] == digests[1::2]
    assert again.comparison.ranking == whole.comparison.ranking
    fewer = Stops(99)
    sweep(SweepConfig(**stopped | {"rules": "none,ntk"}), listener=fewer)
    assert (fewer.kept, fewer.done) == (0, 0)


def test_a_rule_of_a_sweep_is_the_run_of_that_rule(asked: dict[str, Any], tmp_path: Path) -> None:
    done = sweep(SweepConfig(**asked | {"rules": "ntk"}))
    alone = {key: value for key, value in asked.items() if key != "rules"}
    single = run(RunConfig(**alone | {"rope": "ntk", "out": tmp_path / "run"}))
    found, other = (read_manifest(folder) for folder in (done.folder / "ntk", single.folder))
    assert found is not None
    assert other is not None
    assert found["settings"] == other["settings"]
    assert read_results(done.folder / "ntk").digest == single.results.digest
    plain = read_results(done.folder / "original")
    assert plain.model.rope_override is None
    assert [shard.length for shard in plain.shards] == [1024]
    run(RunConfig(**alone | {"rope": "ntk", "out": done.folder / "ntk"}))  # which may go on in this folder


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"rules": "yarn,ntk,yarn"}, "--rules 'yarn,ntk,yarn': names yarn twice; omit one"),
        ({"rules": " , "}, "--rules ' , ': give at least one name"),
        ({"rules": []}, "--rules: give at least one name"),
        ({"rules": 3}, "--rules 3: must be a name or a list of names"),
        ({"target_length": None}, "--target-length"),
        ({"rules": "none,yarm"}, "--rules yarm: unknown rule; did you mean yarn?"),
        ({"rules": "none,ntk-rcd"}, "--rules ntk-rcd: needs ntk-rcd:d_rcd=VALUE"),
        ({"rules": "none,yarn:beta_fast"}, "--set beta_fast: write key=value"),
        ({"rules": "none,yarn:attention_factor=0"}, "--attention-factor 0.0: not a positive number, su or yarn"),
        ({"rules": "none,nowhere.csv"}, "nowhere.csv: "),
        ({"target_length": 1024}, "--rules none: the target of 1,024 tokens is not longer than the window"),
        (
            {"lengths": "1024"},
            "--lengths: a sweep needs lengths up to the window of 1,024 tokens and beyond it",
        ),
        (
            {"lengths": "1536"},
            "--lengths: a sweep needs lengths up to the window of 1,024 tokens and beyond it",
        ),
        ({"baseline": "demo"}, "baseline: a sweep compares --rules with the model as it is; omit baseline"),
        ({"rope": "yarn"}, "rope: a sweep compares --rules"),
        ({"backend": "sglang", "dtype": "auto"}, "--rope: works with --backend hf and vllm"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_runs(
    changed: dict[str, Any], error: str, asked: dict[str, Any]
) -> None:
    with pytest.raises(UsageError) as caught:
        sweep(SweepConfig(**asked | changed))
    assert str(caught.value).startswith(error)
    assert "\n" not in str(caught.value)
    assert not asked["out"].exists()


def test_default_lengths_and_names(asked: dict[str, Any]) -> None:
    ready = prepare_sweep(SweepConfig(**asked | {"lengths": None, "out": None}))
    assert {shard.length for shard in ready.models["ntk"].shards} == {1024, TARGET}
    assert ready.folder.name.startswith("sweep-toy-1536-")
    other = prepare_sweep(SweepConfig(**asked | {"lengths": None, "out": None, "rules": "pi"}))
    third = prepare_sweep(SweepConfig(**asked | {"lengths": None, "out": None, "attention_factor": 1}))
    assert len({each.folder.name for each in (ready, other, third)}) == 3


def test_files_of_one_name_have_folders_of_their_own(asked: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "a-b"
    folder.mkdir()
    pairs = 8
    for path, factor in ((tmp_path / "a-b" / "f.csv", 1.5), (tmp_path / "a-b-f.csv", 1.4)):
        path.write_text(f"{factor}\n" * pairs)
    rules = f"{tmp_path}/a-b/f.csv,{tmp_path}/a-b-f.csv"
    models = prepare_sweep(SweepConfig(**asked | {"rules": rules})).models
    assert len(models) == 3
    assert {run.checkpoint.rope["long_factor"][0] for run in models.values() if run.checkpoint.override} == {1.5, 1.4}


def test_the_command_prints_plan_and_ranking(asked: dict[str, Any], lr2eval: Callable[..., Any]) -> None:
    words = ["--model", asked["model"], "--tasks", asked["tasks"], "--lengths", asked["lengths"], "--device", "cpu",
             "--samples-per-task", 2, "--set", "ruler.haystack=demo-filler", "--target-length", TARGET, "--dtype",
             "float32", "--rules", "none,longrope2", "--out", asked["out"]]  # fmt: skip
    planned = lr2eval("sweep", *words, "--dry-run")
    assert planned.code == 0, planned.err
    assert "RoPE: longrope2(" in planned.err
    assert "(the same for longrope2)" in planned.err
    assert not asked["out"].exists()
    done = lr2eval("sweep", *words)
    assert done.code == 0, done.err
    assert "the best" in done.out
    assert "longrope2 is the rule without a search" in done.out
    assert f"report: {asked['out'] / 'report.html'}" in done.out
    stored = json.loads((asked["out"] / "comparison.json").read_text())
    assert [rank["label"] for rank in stored["ranking"]] == ["toy (none, 1536)", "toy (longrope2, 1536)"]
