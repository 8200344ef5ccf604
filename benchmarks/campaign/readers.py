"""Every kind of file that lr2eval reads, with the cheapest commands that read it. ``examples.py`` has the paths."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .examples import BUNDLE_TASKS, MIX, QUIET, RULER, RUN_WORDS, SEARCH, SUBJECT, TRAIN

Words = tuple[str, ...]
Seal = Callable[[bytes, Path], bool]
"""Whether the damaged file says something else than the good bytes, so that the command must not end with 0."""


def json_seal(good: bytes, path: Path) -> bool:
    """Another JSON value. A mark or a space around the same value is no damage."""
    try:
        return bool(json.loads(path.read_bytes()) != json.loads(good))
    except (OSError, ValueError, RecursionError):
        return True


def bytes_seal(good: bytes, path: Path) -> bool:
    """Other bytes."""
    try:
        return path.read_bytes() != good
    except OSError:
        return True


def store_seal(good: bytes, path: Path) -> bool:
    """Other answers, prompts or scores in the store of a run, or fewer."""
    query = "SELECT id, prompt_hash, answer, score FROM samples ORDER BY id"
    try:
        original = path.with_name("good.sqlite")
        original.write_bytes(good)
        rows = []
        for each in (path, original):
            db = sqlite3.connect(f"{each.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
            try:
                rows.append(db.execute(query).fetchall())
            finally:
                db.close()
        return repr(rows[0]) != repr(rows[1])
    except (OSError, sqlite3.Error):
        return True
    finally:
        original.unlink(missing_ok=True)


@dataclass(frozen=True)
class Reader:
    """A file, its kind (``damage.KINDS``), and commands that read it: one is drawn.

    ``seal``: how to see that the damage must be noticed. ``verdicts``: the file may ask another question of the gate,
    so its verdicts 1 and 3 are no failures. ``may_last``: the file may ask for hours of work, so a command that goes on
    working is no failure. ``remove`` is deleted first, so that there is something to do. ``weight``: how often it is
    drawn.
    """

    name: str
    file: str
    kind: str
    commands: tuple[Words, ...]
    seal: Seal | None = None
    verdicts: bool = False
    may_last: bool = False
    remove: tuple[str, ...] = ()
    weight: int = 4


def _plan(model: str, *tasks: str, data: str = "data", more: Words = ()) -> Words:
    return (
        "run",
        "--model",
        model,
        "--tasks",
        ",".join(tasks),
        "--limit",
        "2",
        "--data-dir",
        data,
        *QUIET,
        *more,
        "--dry-run",
        "--out",
        "out/run",
    )


def _data(name: str, file: str, kind: str, *tasks: str, data: str = "data", more: Words = ()) -> Reader:
    return Reader(f"data: {name}", f"{data}/{file}", kind, (_plan("model", *tasks, data=data, more=more),))


ONE_LENGTH = ("--lengths", "1k", "--samples-per-task", "2")
TWO = ("--lengths", "2k", "--samples-per-task", "2")
NO_SHOTS = ("--set", "short.hellaswag_shots=0", "--set", "short.gsm8k_shots=0", "--set", "short.mmlu_pro_shots=0")
ROPE = ("--target-length", "4k", "--rule", "yarn")


def _model(name: str, file: str, kind: str, folder: str = "model", weight: int = 4, chat: bool = False) -> Reader:
    plan = _plan(folder, "facts", more=("--chat",) if chat else ())
    rope = ("rope", "--model", folder, *ROPE)
    return Reader(
        f"checkpoint: {name}",
        f"{folder}/{file}",
        kind,
        (plan, rope) if file == "config.json" else (plan,),
        weight=weight,
    )


PAIR = ("runs/original", "runs/extended")
OF_A_PAIR: tuple[Words, ...] = (
    ("compare", *PAIR, "--out", "out/compared"),
    ("gate", *PAIR, "--margin", "90", "--out", "out/gate"),
)
OF_A_RUN: tuple[Words, ...] = (
    *OF_A_PAIR,
    ("report", "runs/original", "--out", "out/report.html"),
    ("baseline", "save", "runs/original", "--out", "out/baseline.json"),
    ("score", "ruler", "runs/original"),
)
AGAIN = ("run", "--model", "model", *RUN_WORDS, "--out", "runs/original")
GATE_FILE = ("gate", "runs/extended", "--config", "configs/gate.toml", "--out", "out/gate")
WITH_BASELINE: tuple[Words, ...] = (
    ("compare", "baseline.json", "runs/extended", "--out", "out/compared"),
    ("gate", "baseline.json", "runs/extended", "--margin", "90", "--out", "out/gate"),
)
FACTORS_USE = ("--model", "small", "--factors", "search/factors.json")
LAST = "training/checkpoints/step-000003"
RESUME = (*TRAIN, "--data", "rows", "--out", "training")
RESUMED = ("training/training.json", "training/model", "training/checkpoints/step-000004")


def _mix(file: str, *more: str) -> Words:
    return (*MIX, "--data", f"documents/{file}", *more, "--out", "out/rows")


def _train(name: str, file: str, kind: str) -> Reader:
    return Reader(f"training: {name}", f"{LAST}/{file}", kind, (RESUME,), remove=RESUMED, weight=2)


READERS: tuple[Reader, ...] = (
    _data("MMLU csv", f"mmlu/test/{SUBJECT}_test.csv", "csv", f"mmlu:{SUBJECT}"),
    _data("MMLU examples csv", f"mmlu/dev/{SUBJECT}_dev.csv", "csv", f"mmlu:{SUBJECT}"),
    _data("MMLU zip", "mmlu/mmlu_test_dev.zip", "zip", f"mmlu:{SUBJECT}", data="packed"),
    _data("LongBench jsonl", "longbench/trec.jsonl", "jsonl", "longbench:trec", more=("--lengths", "1k")),
    _data(
        "LongBench gzip", "longbench/trec.jsonl.gz", "gzip", "longbench:trec", data="packed", more=("--lengths", "1k")
    ),
    _data("LongBench v2", "longbench_v2/data.json", "json", "longbench2", more=("--lengths", "1k")),
    _data("essays json", "paul_graham/PaulGrahamEssays.json", "json", "ruler:niah_single_2", more=ONE_LENGTH),
    _data(
        "essays zip", "paul_graham/PaulGrahamEssays.zip", "zip", "ruler:niah_single_2", data="packed", more=ONE_LENGTH
    ),
    _data("SQuAD", "squad/dev-v2.0.json", "json", "ruler:qa_1", more=TWO),
    _data("HotpotQA", "hotpotqa/hotpot_dev_distractor_v1.json", "json", "ruler:qa_2", more=TWO),
    _data("HellaSwag", "hellaswag/hellaswag_val.jsonl", "jsonl", "short:hellaswag", more=NO_SHOTS),
    _data("GSM8K", "gsm8k/test.jsonl", "jsonl", "short:gsm8k", more=NO_SHOTS),
    _data("TruthfulQA", "truthfulqa/mc_task.json", "json", "short:truthfulqa"),
    _data("MMLU-Pro", "mmlu_pro/test.jsonl", "jsonl", "short:mmlu_pro", more=NO_SHOTS),
    Reader(
        "data: haystack text",
        "haystack/text.txt",
        "text",
        (_plan("model", "ruler:niah_single_2", more=(*ONE_LENGTH, "--set", "ruler.haystack=haystack/text.txt")),),
    ),
    Reader("data: predictions", "predictions/trec.jsonl", "jsonl", (("score", "longbench", "predictions"),)),
    Reader(
        "data: cached samples", "cache/data/ruler/*-1024-*.jsonl", "jsonl", (_plan("model", RULER, more=ONE_LENGTH),)
    ),
    Reader(
        "data: cached samples' manifest",
        "cache/data/ruler/*-1024-*.manifest.json",
        "json",
        (_plan("model", RULER, more=ONE_LENGTH),),
    ),
    Reader("data: cached weight hashes", "cache/weight-hashes.json", "json", (_plan("model", "facts"),)),
    _model("config.json", "config.json", "json", weight=8),
    _model("generation_config.json", "generation_config.json", "json"),
    _model("tokenizer.json", "tokenizer.json", "json"),
    _model("tokenizer_config.json", "tokenizer_config.json", "json"),
    _model("chat template", "chat_template.jinja", "text", "sharded", chat=True),
    _model("safetensors", "model.safetensors", "safetensors", weight=6),
    _model("safetensors shard", "model-00002-of-00003.safetensors", "safetensors", "sharded"),
    _model("safetensors index", "model.safetensors.index.json", "json", "sharded"),
    Reader("checkpoint: lr2eval.json", "sharded/lr2eval.json", "json", (_plan("sharded", "ruler"),)),
    Reader(
        "checkpoint: config.json of an extended model",
        "training/model/config.json",
        "json",
        (_plan("training/model", "facts"), ("rope", "--model", "training/model")),
    ),
    Reader("run: results.json", "runs/original/results.json", "json", OF_A_RUN, json_seal, weight=10),
    Reader("run: results.json of the extended model", "runs/extended/results.json", "json", OF_A_PAIR, json_seal),
    Reader(
        "run: manifest.json",
        "runs/original/manifest.json",
        "json",
        (AGAIN, ("report", "runs/original", "--out", "out/report.html")),
    ),
    Reader("run: samples.sqlite", "runs/original/samples.sqlite", "sqlite", OF_A_RUN, store_seal, weight=12),
    Reader("run: samples.sqlite, run again", "runs/original/samples.sqlite", "sqlite", (AGAIN,)),
    Reader(
        "search: search.json",
        "search/search.json",
        "json",
        (("report", "search", "--out", "out/page.html"),),
        json_seal,
        weight=6,
    ),
    Reader(
        "search: factors.json",
        "search/factors.json",
        "json",
        (("rope", *FACTORS_USE), ("export", *FACTORS_USE, "--out", "out/export")),
    ),
    Reader("search: evaluations.sqlite", "search/evaluations.sqlite", "sqlite", ((*SEARCH, "--out", "search"),)),
    Reader("search: manifest.json", "search/manifest.json", "json", ((*SEARCH, "--out", "search"),), weight=2),
    Reader(
        "factors: csv",
        "factors/plain.csv",
        "csv",
        (("rope", "--model", "model", "--factors", "factors/plain.csv", "--target-length", "4k"),),
    ),
    Reader(
        "factors: json",
        "factors/list.json",
        "json",
        (
            ("rope", "--model", "model", "--factors", "factors/list.json"),
            ("export", "--model", "model", "--factors", "factors/list.json", "--out", "out/export"),
        ),
    ),
    Reader("factors: wording", "wording.json", "json", ((*SEARCH, "--out", "search"),)),
    Reader(
        "rows: manifest.json",
        "rows/manifest.json",
        "json",
        (
            ("train", "--recipe", "recipe.toml", "--model", "small", "--data", "rows", "--offline", "--dry-run"),
            (*TRAIN, "--data", "rows", "--out", "out/training"),
        ),
        weight=6,
    ),
    *(
        Reader(
            f"rows: {name}",
            f"rows/{name}",
            "binary",
            ((*TRAIN, "--data", "rows", "--out", "out/training"),),
            bytes_seal,
            weight=2,
        )
        for name in ("rows.bin", "lengths.bin", "tokens.bin")
    ),
    _train("state.json", "state.json", "json"),
    _train("COMPLETE", "COMPLETE", "json"),
    _train("weights", "weights.safetensors", "safetensors"),
    _train("optimizer", "optimizer.safetensors", "safetensors"),
    _train("random states", "random.safetensors", "safetensors"),
    Reader("training: manifest.json", "training/manifest.json", "json", (RESUME,), remove=RESUMED, weight=2),
    Reader("training: log.jsonl", "training/log.jsonl", "jsonl", (RESUME,), remove=RESUMED, weight=2),
    Reader(
        "settings: recipe TOML",
        "recipe.toml",
        "toml",
        (
            ("train", "--recipe", "recipe.toml", "--model", "small", "--data", "rows", "--offline", "--dry-run"),
            (*MIX, "--out", "out/rows"),
        ),
        weight=6,
    ),
    Reader(
        "settings: run TOML",
        "run.toml",
        "toml",
        (("run", "--config", "run.toml", "--dry-run", "--out", "out/run"),),
        may_last=True,
        weight=10,
    ),
    Reader("settings: gate TOML", "configs/gate.toml", "toml", (GATE_FILE,), verdicts=True, weight=6),
    Reader(
        "settings: extend TOML",
        "extend.toml",
        "toml",
        (("extend", "--config", "extend.toml", "--offline", "--out", "out/extend", "--dry-run"),),
        weight=6,
    ),
    Reader("documents: jsonl", "documents/texts.jsonl", "jsonl", (_mix("texts.jsonl"),)),
    Reader("documents: jsonl gzip", "documents/texts.jsonl.gz", "gzip", (_mix("texts.jsonl.gz"),)),
    Reader("documents: jsonl zstd", "documents/texts.jsonl.zst", "binary", (_mix("texts.jsonl.zst"),)),
    Reader("documents: parquet", "documents/texts.parquet", "binary", (_mix("texts.parquet"),)),
    Reader(
        "documents: token ids",
        "documents/tokens.jsonl",
        "jsonl",
        (
            (
                *MIX,
                "--set",
                'sources=[{"name": "t", "path": "documents/tokens.jsonl", "tokenised": true}]',
                "--out",
                "out/rows",
            ),
        ),
    ),
    Reader("documents: token cache", "cache/tokens/*/*/000000.tok", "binary", ((*MIX, "--out", "out/rows"),)),
    Reader(
        "documents: token cache's record",
        "cache/tokens/*/*/complete.json",
        "json",
        ((*MIX, "--out", "out/rows"),),
        weight=2,
    ),
    Reader("baseline", "baseline.json", "json", WITH_BASELINE, json_seal, weight=8),
    Reader(
        "bundle: bundle.json",
        "bundle/bundle.json",
        "json",
        (
            ("data", "show", "bundle"),
            _plan("model", f"mmlu:{SUBJECT}", data="bundle"),
            ("data", "prepare", "--tasks", BUNDLE_TASKS, "--data-dir", "data", "--out", "bundle", "--offline"),
        ),
    ),
    Reader(
        "bundle: a file",
        f"bundle/mmlu/test/{SUBJECT}_test.csv",
        "csv",
        (("data", "show", "bundle"), _plan("model", f"mmlu:{SUBJECT}", data="bundle")),
        bytes_seal,
    ),
)


def verified() -> tuple[Reader, ...]:
    """The same files read by ``lr2eval verify FOLDER``, where this lr2eval has that command."""
    from lr2eval.cli import app

    names = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    if "verify" not in names:
        return ()
    sealed = {
        "runs/original/results.json": ("json", json_seal, "runs/original"),
        "runs/original/samples.sqlite": ("sqlite", store_seal, "runs/original"),
        "search/search.json": ("json", json_seal, "search"),
        "rows/tokens.bin": ("binary", bytes_seal, "rows"),
        "rows/lengths.bin": ("binary", bytes_seal, "rows"),
        "baseline.json": ("json", json_seal, "baseline.json"),
        f"bundle/mmlu/test/{SUBJECT}_test.csv": ("csv", bytes_seal, "bundle"),
        "training/training.json": ("json", json_seal, "training"),
        "runs/original/manifest.json": ("json", None, "runs/original"),
        "rows/manifest.json": ("json", None, "rows"),
        "bundle/bundle.json": ("json", None, "bundle"),
        "search/evaluations.sqlite": ("sqlite", None, "search"),
    }
    return tuple(
        Reader(f"verify: {file}", file, kind, (("verify", folder),), seal)
        for file, (kind, seal, folder) in sealed.items()
    )
