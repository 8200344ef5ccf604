"""A needle grid from the command line to results.json and report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tests.schemas import SCHEMAS

Run = Callable[..., Any]
GRID = ("--tasks", "niah:single,niah:distractor", "--lengths", "896,1k", "--offline",
        "--set", "niah.haystack=python-docs", "--set", "niah.depths=0,50,100",
        "--set", "niah.samples_per_cell=1")  # fmt: skip


def test_cells_reach_results_and_report(lr2eval: Run, toy_checkpoint: Path, shared_cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = lr2eval("run", "--model", toy_checkpoint, *GRID, "--dtype", "float32", "--device", "cpu", "--out", out)
    assert done.code == 0, done.err
    assert "effective length" not in done.out
    results = json.loads((out / "results.json").read_text())
    Draft202012Validator(json.loads((SCHEMAS / "results.schema.json").read_text())).validate(results)
    assert results["over_lengths"] == []
    assert [(shard["task"], shard["length"], shard["n"], shard["metric"]) for shard in results["shards"]] == [
        (task, length, 3, "found") for length in (896, 1024) for task in ("single", "distractor")
    ]
    for shard in results["shards"]:
        assert [(cell["depth"], cell["n"]) for cell in shard["cells"]] == [(0.0, 1), (0.5, 1), (1.0, 1)]
        assert shard["data"]["comparable"] is False
        assert shard["data"]["haystack"].startswith("python-docs")
    assert (out / "report.html").read_text().count(" by depth and length") == 2

    made = lr2eval("data", "make", "--model", toy_checkpoint, *GRID, "--out", tmp_path / "data")
    assert made.code == 0, made.err
    used = json.loads((out / "manifest.json").read_text())["data"]
    for shard, facts in used.items():
        name = shard.removeprefix("niah/").replace("@", "-") + ".jsonl"
        assert (tmp_path / "data" / name).read_bytes() == (shared_cache / facts["file"]).read_bytes()


def test_the_pieces_in_which_prompts_were_read_are_recorded(
    lr2eval: Run, toy_checkpoint: Path, tmp_path: Path, shared_cache: Path
) -> None:
    out = tmp_path / "run"
    where = ("--lengths", "896,1k", "--offline", "--dtype", "float32", "--device", "cpu", "--out", out)
    grid = ("--tasks", "niah:single", "--set", "niah.haystack=python-docs", "--set", "niah.depths=50",
            "--set", "niah.samples_per_cell=1")  # fmt: skip
    done = lr2eval("run", "--model", toy_checkpoint, *grid, *where, "--set", "prefill_chunk=256")
    assert done.code == 0, done.err
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["prefill_chunks"] == {"niah/single@896": [256], "niah/single@1024": [256]}
    assert "niah/single@1024: 256 tokens" in (out / "report.html").read_text()
