"""``lr2eval data make``: the bytes a run uses, in a folder of the user's."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.benchmark import SampleInfo, Shard
from lr2eval.errors import UsageError
from lr2eval.method.data.rows import SegmentData
from lr2eval.workflows import data as data_module
from tests.processes import interruptible

Run = Callable[..., Any]


ROOT = Path(__file__).parents[3]


TASKS = ("--tasks", "ruler:niah_single_1,ruler:fwe", "--lengths", "768,1k", "--samples-per-task", "2", "--offline")
FILES = {f"{task}-{length}.jsonl" for task in ("niah_single_1", "fwe") for length in (768, 1024)}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_are_those_of_a_run(lr2eval: Run, toy_checkpoint: Path, shared_cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "data"
    done = lr2eval("data", "make", "--model", toy_checkpoint, *TASKS, "--out", out)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == str(out)
    files = content(out)
    assert set(files) == {*FILES, "manifest.json"}
    manifest = json.loads(files["manifest.json"])
    assert set(manifest["files"]) == FILES
    rows = [json.loads(line) for line in files["niah_single_1-1024.jsonl"].decode().splitlines()]
    assert [row["index"] for row in rows] == [0, 1]
    keys = {"id", "task", "length", "index", "prompt", "answer_prefix", "answers", "max_new_tokens", "token_count"}
    assert all(keys | {"depth"} <= set(row) and row["token_count"] <= 1024 for row in rows)
    for name in FILES:
        facts = manifest["files"][name]
        assert facts["sha256"] == hashlib.sha256(files[name]).hexdigest()
        assert (facts["samples"], facts["benchmark"]) == (2, "ruler")
    run = lr2eval("run", "--model", toy_checkpoint, *TASKS, "--out", tmp_path / "run", "--dtype", "float32",
                  "--device", "cpu")  # fmt: skip
    assert run.code == 0, run.err
    used = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]
    for facts in used.values():
        assert (shared_cache / facts["file"]).read_bytes() in files.values()
    assert {facts["hash"] for facts in used.values()} == {facts["sha256"] for facts in manifest["files"].values()}


def test_again_leaves_the_same_bytes_and_mends_damage(lr2eval: Run, toy_checkpoint: Path, tmp_path: Path) -> None:
    command = ("data", "make", "--model", toy_checkpoint, *TASKS, "--out", tmp_path / "data")
    assert lr2eval(*command).code == 0
    first = content(tmp_path / "data")
    (tmp_path / "data" / "fwe-768.jsonl").write_text("damaged")
    (tmp_path / "data" / ".fwe-768.jsonl.1.tmp").write_text("left by a killed command")
    (tmp_path / "data" / "manifest.json").unlink()
    assert lr2eval(*command).code == 0
    (tmp_path / "data" / ".fwe-768.jsonl.1.tmp").unlink()
    assert content(tmp_path / "data") == first


@pytest.mark.parametrize("foreign", ["thesis.txt", "manifest.json", "vt-4096.jsonl"])
def test_foreign_folders_are_refused(foreign: str, lr2eval: Run, toy_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / foreign).write_text('{"mine": 1}')
    done = lr2eval("data", "make", "--model", toy_checkpoint, *TASKS, "--out", tmp_path)
    assert done.code == 2
    assert f"holds {foreign}, which this command does not write" in done.error
    assert content(tmp_path) == {foreign: b'{"mine": 1}'}


def test_bad_input(lr2eval: Run, toy_checkpoint: Path, tmp_path: Path) -> None:
    def error(*arguments: object, code: int = 2) -> str:
        done = lr2eval("data", "make", *arguments)
        assert done.code == code
        return str(done.error)

    (tmp_path / "file").write_text("")
    where = ("--out", tmp_path / "data")
    assert "--out" in error("--model", toy_checkpoint, *TASKS, "--out", tmp_path / "file")
    assert "--model" in error(*TASKS, *where)
    assert "niah_single_1" in error("--model", toy_checkpoint, "--tasks", "ruler:niah_singel_1", *where)
    assert "use a length of at least" in error("--model", toy_checkpoint, *TASKS, "--lengths", "64", *where)
    assert "not a length" in error("--model", toy_checkpoint, *TASKS, "--lengths", "soon", *where)
    assert "vt: unknown option" in error("--model", toy_checkpoint, *TASKS, *where, "--set", "vt.x=1")


def test_tasks_without_data_files_are_named() -> None:
    shard = Shard("mmlu", "mmlu_anatomy", None, 1, "1", "h", "acc", load=dict, describe=lambda doc: SampleInfo(()))
    with pytest.raises(UsageError, match=r"^mmlu: .*no data to make"):
        data_module._source(shard)


def test_a_copy_that_fails_leaves_no_manifest(
    lr2eval: Run, toy_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("data", "make", "--model", toy_checkpoint, *TASKS, "--out", tmp_path / "data")
    assert lr2eval(*command).code == 0

    def full(source: Path, target: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.replace", full)
    done = lr2eval(*command)
    assert done.code == 5
    assert "No space left" in done.error
    assert set(content(tmp_path / "data")) == FILES


@pytest.mark.parametrize(
    "task", [("ruler:fwe", "--samples-per-task", "500", "--set", "ruler.workers=2"),
             ("niah:single", "--set", "niah.haystack=python-docs", "--set", "niah.samples_per_cell=15")]
)  # fmt: skip
def test_a_real_interrupt_leaves_nothing(
    task: tuple[str, ...], lr2eval: Run, toy_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches the whole process group while samples are being written; the same command then makes the file."""
    cache, out = tmp_path / "cache", tmp_path / "data"
    command = ("data", "make", "--model", str(toy_checkpoint), "--lengths", "4k", "--offline", "--tasks", *task)

    def start() -> subprocess.Popen[str]:
        return interruptible(
            [sys.executable, "-m", "lr2eval", *command, "--out", str(out)],
            {**os.environ, "LR2EVAL_CACHE": str(cache)},
        )

    def left() -> list[Path]:
        return [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]

    making = start()
    until = time.monotonic() + 120
    while not any(path.name.startswith(".") and path.stat().st_size > 100_000 for path in left()):
        assert making.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(making.pid, signal.SIGINT)
    _, said = making.communicate(timeout=60)
    assert making.returncode == 130
    assert "Traceback" not in said
    assert left() == []
    assert not list(out.iterdir())
    with monkeypatch.context() as patch:
        patch.setenv("LR2EVAL_CACHE", str(cache))
        assert lr2eval(*command, "--out", out).code == 0
    alone = [word.replace("workers=2", "workers=1") for word in command]
    assert lr2eval(*alone, "--out", tmp_path / "other").code == 0
    assert content(out) == content(tmp_path / "other")


RECIPE = """
name = "small"
original_window = 128
target_window = 512
short_tokens = 0
long_tokens = 1
global_batch = 1
[data]
min_tokens = 8
buckets = [{ up_to = 128, share = 0.5 }, { share = 0.5 }]
"""


def test_rows_for_training_from_a_recipe_and_files(lr2eval: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    words = " ".join(f"w{i % 48}" for i in range(120))
    short = [{"text": words[: 40 + i]} for i in range(200)]
    long = [{"text": " ".join([words] * 6)} for _ in range(20)]
    documents = tmp_path / "documents.jsonl"
    documents.write_text("".join(json.dumps(line) + "\n" for line in (*short, *long)))
    model = ROOT / "tests" / "assets" / "tiny-retrieval"
    command = ("data", "mix", "--recipe", recipe, "--model", model, "--data", documents, "--out", tmp_path / "rows")
    done = lr2eval(*command)
    assert done.code == 0, done.err
    said, folder = done.out.splitlines()[-2:]
    assert folder == str(tmp_path / "rows")
    data = SegmentData.open(tmp_path / "rows")
    assert said == f"{len(data)} rows of 512 tokens: {len(data) - sum(data.long)} short, {sum(data.long)} long"
    assert 0 < sum(data.long) < len(data)
    before = (tmp_path / "rows" / "manifest.json").stat().st_mtime_ns
    assert lr2eval(*command).code == 0
    assert (tmp_path / "rows" / "manifest.json").stat().st_mtime_ns == before, "rows that are there are not made again"
    other = lr2eval(*command, "--set", "min_tokens=9")
    assert other.code == 2
    assert "min_tokens" in other.err


def test_rows_of_nothing_are_refused(lr2eval: Run, tmp_path: Path) -> None:
    model = ROOT / "tests" / "assets" / "tiny-retrieval"
    recipe = "tiny-retrieval-2k"
    done = lr2eval("data", "mix", "--recipe", recipe, "--model", model, "--out", tmp_path / "rows")
    assert done.code == 2
    assert "there is no data; give --data" in done.err
    assert not (tmp_path / "rows").exists()
