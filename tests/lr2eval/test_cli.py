"""The command line as a user meets it: what a run leaves behind, and every bad input as one line and a code."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from lr2eval import cli
from lr2eval.record.store import FILE, RunStore
from tests.schemas import SCHEMAS

Run = Callable[..., Any]
QUICK = ("--tasks", "ruler:niah_single_1,ruler:fwe", "--lengths", "768,1k", "--samples-per-task", "2", "--offline",
         "--dtype", "float32", "--device", "cpu")  # fmt: skip


@pytest.fixture(scope="module")
def finished(toy_checkpoint: Path, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the toy model; copy it before changing it."""
    import os
    import subprocess
    import sys

    out = tmp_path_factory.mktemp("finished") / "run"
    arguments = [sys.executable, "-m", "lr2eval", "run", "--model", str(toy_checkpoint), *QUICK, "--out", str(out)]
    environment = {**os.environ, "LR2EVAL_CACHE": str(shared_cache)}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"report: {out / 'report.html'}")
    assert "Traceback" not in done.stderr
    return out


def test_a_run_leaves_a_complete_folder(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"manifest.json", "samples.sqlite", "results.json", "report.html"} <= names
    results = json.loads((finished / "results.json").read_text())
    Draft202012Validator(json.loads((SCHEMAS / "results.schema.json").read_text())).validate(results)
    assert results["complete"]
    assert {(s["task"], s["length"], s["n"]) for s in results["shards"]} == {
        (task, length, 2) for task in ("niah_single_1", "fwe") for length in (768, 1024)
    }
    assert [(s["length"], s["tasks"], s["n"]) for s in results["summaries"] if s["headline"]] == [
        (768, 2, 4),
        (1024, 2, 4),
    ]
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["sessions"][0]["outcome"] == "finished"
    assert 0 < manifest["sessions"][0]["model_seconds"] < manifest["sessions"][0]["wall_seconds"]


def test_samples_fill_their_length_and_can_be_found_again(finished: Path, shared_cache: Path) -> None:
    with RunStore.read(finished) as store:
        samples = list(store.samples())
        assert store.seals()[1] == json.loads((finished / "results.json").read_text())["digest"]
    assert len(samples) == 8
    for sample in samples:
        assert sample.length is not None
        assert sample.source is not None
        file, offset = sample.source
        with (shared_cache / file).open("rb") as data:
            data.seek(offset)
            row = json.loads(data.readline())
        assert row["id"] == sample.id, "the data file and the store must name a sample alike"
        assert row["prompt"].startswith(sample.prompt_head[:100])
        assert row["token_count"] == sample.detail.prompt_tokens + row["max_new_tokens"]
        assert row["token_count"] <= sample.length
        assert sample.detail.new_tokens <= row["max_new_tokens"]


def test_the_same_command_again_only_reports(
    finished: Path, toy_checkpoint: Path, lr2eval: Run, tmp_path: Path
) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    before = (out / "results.json").read_bytes()
    again = lr2eval("run", "--model", toy_checkpoint, *QUICK, "--out", out)
    assert again.code == 0
    assert "loading" not in again.err, "nothing is left to do, so the model must not be loaded"
    assert (out / "results.json").read_bytes() == before


def test_another_configuration_is_refused_with_the_keys(finished: Path, toy_checkpoint: Path, lr2eval: Run) -> None:
    got = lr2eval("run", "--model", toy_checkpoint, *QUICK, "--seed", "5", "--out", finished)
    assert got.code == 2
    assert "config.seed: was 0, now 5" in got.error
    got = lr2eval("run", "--model", toy_checkpoint, *QUICK, "--set", "ruler.compat=lm-eval", "--out", finished)
    assert got.code == 2
    assert "config.options" in got.error
    assert "lm-eval" in got.error


def test_another_model_is_refused(finished: Path, toy: Path, lr2eval: Run) -> None:
    config = json.loads((toy / "config.json").read_text())
    (toy / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    got = lr2eval("run", "--model", toy, *QUICK, "--out", finished)
    assert got.code == 2
    assert "model:" in got.error


def test_baseline_runs_both_on_the_same_samples(toy_checkpoint: Path, toy: Path, lr2eval: Run, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(toy / "model.safetensors")
    save_file({name: tensor * 1.5 for name, tensor in weights.items()}, toy / "model.safetensors", {"format": "pt"})
    out = tmp_path / "pair"
    got = lr2eval("run", "--model", toy, "--baseline", toy_checkpoint, *QUICK, "--out", out)
    assert got.code == 0, got.err
    with RunStore.read(out / "original") as original, RunStore.read(out / "extended") as extended:
        pairs = list(zip(original.samples(), extended.samples(), strict=True))
    assert all((a.id, a.prompt_hash) == (b.id, b.prompt_hash) for a, b in pairs)
    assert any(a.answer != b.answer for a, b in pairs)
    assert (out / "report.html").stat().st_size > 10_000


def test_baseline_with_another_tokenizer_is_not_comparable(toy_checkpoint: Path, toy: Path, lr2eval: Run) -> None:
    text = (toy / "tokenizer.json").read_text()
    (toy / "tokenizer.json").write_text(text.replace('"</s>"', '"</t>"'))
    settings = (toy / "tokenizer_config.json").read_text()
    (toy / "tokenizer_config.json").write_text(settings.replace("</s>", "</t>"))
    got = lr2eval("run", "--model", toy, "--baseline", toy_checkpoint, *QUICK, "--dry-run")
    assert got.code == 4
    assert "different tokenizers" in got.error


def test_baseline_with_a_smaller_window_runs_what_it_can(toy_checkpoint: Path, toy: Path, lr2eval: Run) -> None:
    config = json.loads((toy / "config.json").read_text())
    (toy / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 800}))
    got = lr2eval("run", "--model", toy_checkpoint, "--baseline", toy, *QUICK, "--dry-run")
    assert got.code == 0
    assert "not run: fwe at 1k: above the window of the original model (800 tokens)" in got.err


def test_the_plan_names_the_window_that_the_rope_suggests(toy: Path, lr2eval: Run) -> None:
    """Qwen2.5 with YaRN as its card says: factor 4, and max_position_embeddings still the old window."""
    config = json.loads((toy / "config.json").read_text())
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 2048}
    (toy / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048, "rope_parameters": rope}))
    got = lr2eval("run", "--model", toy, "--tasks", "ruler:vt", "--samples-per-task", "1", "--offline", "--dry-run")
    assert got.code == 0, got.err
    said = "the yarn factor in its configuration suggests a window of 8k, but max_position_embeddings is 2k; to run "
    assert f"{said}beyond 2k, add --lengths 2k..8k --set beyond_window=true" in got.err
    beyond = ("--lengths", "2k..8k", "--set", "beyond_window=true", "--samples-per-task", "1", "--offline", "--dry-run")
    got = lr2eval("run", "--model", toy, "--tasks", "ruler:vt", *beyond)
    assert got.code == 0, got.err
    assert "suggests a window" not in got.err


def test_a_multimodal_model_that_is_no_text_model(toy: Path, lr2eval: Run) -> None:
    config = json.loads((toy / "config.json").read_text())
    wrapped = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": config}
    (toy / "config.json").write_text(json.dumps(wrapped))
    got = lr2eval("run", "--model", toy, *QUICK)
    assert got.code == 2
    assert "transformers does not load LlavaForConditionalGeneration as a text model" in got.error


def test_dry_run_writes_nothing(toy_checkpoint: Path, lr2eval: Run, tmp_path: Path) -> None:
    got = lr2eval("run", "--model", toy_checkpoint, *QUICK, "--dry-run", "--out", tmp_path / "run")
    assert got.code == 0
    assert not (tmp_path / "run").exists()


def test_missing_data_is_listed_or_skipped_when_asked(toy_checkpoint: Path, lr2eval: Run, tmp_path: Path) -> None:
    arguments = (
        "run",
        "--model",
        toy_checkpoint,
        *QUICK[2:],
        "--tasks",
        "ruler:fwe,mmlu:anatomy",
        "--data-dir",
        tmp_path,
    )
    got = lr2eval(*arguments, "--out", tmp_path / "run")
    assert got.code == 2
    assert "mmlu" in got.error
    assert "--data-dir" in got.error
    got = lr2eval(*arguments, "--set", "missing_data=skip", "--out", tmp_path / "run")
    assert got.code == 0, got.err
    assert "not run: anatomy: missing data: mmlu" in got.out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [item["task"] for item in results["not_run"]] == ["anatomy"]
    assert "mmlu" in (tmp_path / "run" / "report.html").read_text()


def test_only_tasks_without_their_data_are_skipped(toy_checkpoint: Path, lr2eval: Run, tmp_path: Path) -> None:
    chosen = ("--tasks", "ruler:fwe,ruler:niah_single_2,ruler:qa_2", "--data-dir", tmp_path, "--offline")
    arguments = ("run", "--model", toy_checkpoint, *QUICK[2:], *chosen, "--dry-run")
    got = lr2eval(*arguments)
    assert got.code == 2
    assert "essays" in got.error
    assert "hotpotqa" in got.error
    got = lr2eval(*arguments, "--set", "missing_data=skip")
    assert got.code == 0, got.err
    assert "not run: niah_single_2: missing data: essays" in got.err
    assert "not run: qa_2: missing data: hotpotqa" in got.err
    assert "hotpotqa" not in next(line for line in got.err.splitlines() if "not run: niah_single_2" in line)
    got = lr2eval(*arguments, "--set", "missing_data=skip", "--set", "ruler.haystack=python-docs")
    assert got.code == 0, got.err
    assert "not run: niah_single_2" not in got.err


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda m: (m / "model.safetensors").unlink(), "safetensors"),
    "truncated weights": (
        lambda m: (m / "model.safetensors").write_bytes((m / "model.safetensors").read_bytes()[:-100]),
        "truncated",
    ),
    "pickle": (
        lambda m: (m / "model.safetensors").rename(m / "pytorch_model.bin"),
        "pickle",
    ),
    "no tokenizer": (
        lambda m: [(m / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")],
        "tokenizer",
    ),
    "empty tokenizer": (
        lambda m: (m / "tokenizer.json").write_text(
            json.dumps(
                {
                    **json.loads((m / "tokenizer.json").read_text()),
                    "normalizer": {"type": "Replace", "pattern": {"Regex": "."}, "content": ""},
                    "post_processor": None,
                }
            )
        ),
        "zero tokens",
    ),
    "bad factors": (
        lambda m: (m / "config.json").write_text(
            json.dumps(
                {
                    **json.loads((m / "config.json").read_text()),
                    "rope_parameters": {
                        "rope_type": "longrope",
                        "rope_theta": 10000.0,
                        "short_factor": [1.0] * 8,
                        "long_factor": [1.0] * 7,
                        "original_max_position_embeddings": 512,
                    },
                }
            )
        ),
        "7",
    ),
    "no config": (lambda m: (m / "config.json").unlink(), "config.json"),
}


@pytest.mark.parametrize("damage", BAD_MODELS)
def test_bad_checkpoints(damage: str, toy: Path, lr2eval: Run) -> None:
    change, word = BAD_MODELS[damage]
    change(toy)
    got = lr2eval("run", "--model", toy, *QUICK)
    assert got.code == 2
    assert word in got.error


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("--model", "nothing-here"), "nothing-here: no such folder"),
        (("--lengths", "2k"), "window (max_position_embeddings) is 1024 tokens, but --lengths asks for 2k"),
        (("--tasks", "ruler:niah_singel_1"), "did you mean 'niah_single_1'"),
        (("--lengths", "64"), "niah_single_1"),
        (("--lengths", "many"), "'many' is not a length"),
        (("--backend", "hff"), "did you mean"),
        (("--data-dir", "/nonexistent"), "no such folder"),
        (("--set", "rulr.x=1"), "no such backend or benchmark"),
        (("--config", "/nonexistent.toml"), "No such file"),
        (("--device", "gpu9"), "'gpu9': is not a device"),
        (("--device", "xpu"), "--device xpu: torch cannot use it here"),
    ],
)
def test_bad_arguments(
    changes: tuple[str, str], words: str, toy_checkpoint: Path, lr2eval: Run, tmp_path: Path
) -> None:
    arguments = {"--model": str(toy_checkpoint), "--out": str(tmp_path / "run")}
    flat = [item for pair in {**arguments, **dict([changes])}.items() for item in pair]
    rest = list(QUICK)
    if changes[0] in rest:
        at = rest.index(changes[0])
        del rest[at : at + 2]
    got = lr2eval("run", *flat, *rest)
    assert got.code == 2, got.err
    assert words in got.error


@pytest.mark.parametrize("place", ["under a file", "foreign folder"])
def test_bad_output_folders(place: str, toy_checkpoint: Path, lr2eval: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    out = tmp_path / "file" / "run" if place == "under a file" else tmp_path
    got = lr2eval("run", "--model", toy_checkpoint, *QUICK, "--out", out)
    assert got.code == 2
    assert "--out" in got.error
    assert (tmp_path / "file").read_text() == "precious"
    assert not (tmp_path / "samples.sqlite").exists()


def test_full_disk_keeps_what_is_finished(
    toy_checkpoint: Path, lr2eval: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("run", "--model", toy_checkpoint, *QUICK, "--batch-size", "1", "--out", tmp_path / "run")
    create = RunStore.create.__func__  # type: ignore[attr-defined]

    def small(cls: type[RunStore], folder: Path) -> RunStore:
        store: RunStore = create(cls, folder)
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count={pages}")  # SQLite then reports a full disk, for real
        return store

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "create", classmethod(small))
        got = lr2eval(*arguments)
    assert got.code == 5
    assert "the disk is full: free some space" in got.error
    with sqlite3.connect(tmp_path / "run" / FILE) as db:
        (kept,) = db.execute("SELECT count(*) FROM responses").fetchone()
    assert kept > 0
    assert lr2eval(*arguments).code == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["complete"]


def test_corrupt_database_is_named(finished: Path, toy_checkpoint: Path, lr2eval: Run, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "run")
    (out / FILE).write_bytes(b"not a database at all" * 1000)
    got = lr2eval("run", "--model", toy_checkpoint, *QUICK, "--out", out)
    assert got.code == 5
    assert FILE in got.error
    assert "damaged" in got.error


def test_nan_logits_end_the_run_with_everything_finished_kept(toy: Path, lr2eval: Run, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(toy / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, toy / "model.safetensors", {"format": "pt"})
    got = lr2eval("run", "--model", toy, *QUICK, "--out", tmp_path / "run")
    assert got.code == 5
    assert "NaN" in got.error
    assert "ruler/niah_single_1@768, batch of samples [0, 1]" in got.error
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["sessions"][0]["outcome"] == "failed"


def test_a_run_that_is_being_written_is_left_alone(finished: Path, toy_checkpoint: Path, lr2eval: Run) -> None:
    from filelock import FileLock

    with FileLock(finished / "run.lock"):
        got = lr2eval("run", "--model", toy_checkpoint, *QUICK, "--out", finished)
    assert got.code == 5
    assert "another lr2eval" in got.error


def test_interrupt_resumes(toy_checkpoint: Path, lr2eval: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lr2eval.runs import recording

    run = recording.RecordingLM._run
    calls: list[int] = []

    def interrupted(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run(self, *arguments)

    arguments = ("run", "--model", toy_checkpoint, *QUICK, "--batch-size", "1", "--out", tmp_path / "run")
    monkeypatch.setattr(recording.RecordingLM, "_run", interrupted)
    got = lr2eval(*arguments)
    assert got.code == 130
    assert "same command resumes" in got.error
    assert not json.loads((tmp_path / "run" / "results.json").read_text())["complete"]
    assert lr2eval(*arguments).code == 0
    assert len(calls) == 8 + 1, "eight samples, one interrupted attempt, nothing twice"


@pytest.mark.parametrize(
    ("command", "kept"),
    [
        ("run --model m", "finished batches are kept, the same command resumes"),
        ("data mix --model m", "tokenised documents are kept, the same command resumes"),
        ("data show folder", ""),
        ("gate run data", ""),
        ("baseline save run", ""),
        ("models fetch train", ""),
        ("", ""),
    ],
)
def test_an_interrupted_command_promises_only_what_it_keeps(command: str, kept: str) -> None:
    assert cli.interrupted(command.split()) == f"interrupted{'; ' * bool(kept)}{kept}"


def test_gate_interrupted(lr2eval: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lr2eval.workflows.compare.read_all", stopped)
    got = lr2eval("gate", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    assert (got.code, got.error) == (130, "interrupted")


def test_tasks_doctor_models_and_report(finished: Path, lr2eval: Run, tmp_path: Path) -> None:
    got = lr2eval("tasks")
    assert got.code == 0
    assert "ruler:niah_single_1" in got.out
    assert "mmlu: 57 tasks" in got.out
    got = lr2eval("doctor")
    assert got.code == 0, got.out
    assert "torch" in got.out
    assert re.search(
        r"^note +extras +installed: .*(; not installed: .* \(pip install 'lr2eval\[.*\]'\))?$", got.out, re.M
    )
    got = lr2eval("models", "list")
    assert got.code == 0
    assert "smollm2-135m" in got.out
    got = lr2eval("report", finished, "--out", tmp_path / "again.html")
    assert got.code == 0
    assert got.out.strip() == str(tmp_path / "again.html")
    got = lr2eval("report", tmp_path)
    assert got.code == 2
    assert "give the folder of a run" in got.error


def test_version_and_usage(lr2eval: Run) -> None:
    assert lr2eval("--version").out.startswith("lr2eval ")
    assert lr2eval("run").code == 2
    assert lr2eval("run", "--no-such-flag").code == 2
    assert lr2eval("nonsense").code == 2


def test_a_strangers_task_runs(
    install: Callable[..., None], toy_checkpoint: Path, lr2eval: Run, tmp_path: Path
) -> None:
    from tests.lr2eval.test_registry import PLUGIN

    install("strange_echo", PLUGIN, "echo = strange_echo:ECHO")
    out = tmp_path / "run"
    done = lr2eval("run", "--model", toy_checkpoint, "--tasks", "echo:twice", "--out", out)
    assert done.code == 0, done.err
    with RunStore.read(out) as store:
        samples = list(store.samples())
    assert [sample.prompt_head for sample in samples] == ["twice 0", "twice 1", "twice 2"]
    assert all(sample.detail.prompt_tokens and sample.gold == ("echo",) for sample in samples)
