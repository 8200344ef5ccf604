"""What a change of the code must leave as it is: small folders of every kind, made by the command line, and hashes.

``python benchmarks/evidence.py OUT`` evaluates the demo models, compares and judges the runs, searches, mixes rows and
trains tiny models in the new folder OUT, with no network, in about two minutes on one core. ``OUT/evidence.json`` then
holds digests and hashes of what was written, and nothing of times, versions or places: two trees that do the same on
one machine write the same bytes. Nothing is imported from lr2eval, so that the script runs in old trees and new ones.

The last bits of a float differ between processors and versions of torch: hashes of responses, searches and weights are
to be compared on one machine only. Digests of runs are over answers and scores, and hold elsewhere too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

Command = tuple[str, ...]

VERSION_KEYS = ("lr2eval_version", "sha256")
"""Left out of ``sha256_without_version``: the version, and the checksum of a file, which covers it."""
CHECKS = ("samples_sha256",)
"""Left out as well: 9c8e5ba had no such checksums."""
RENAMED_KEYS = {"caveats": "mind"}
"""Keys of ``comparison.json`` and ``gate.json``, now and in 9c8e5ba. The values are compared under the old key."""
DROPPED_KEYS = (*VERSION_KEYS, "schema_version", "paired", "checksum")
"""Not compared in these two files: the schema version; ``paired``, always true and gone; ``checksum``, which is new."""
SENTENCE_KEYS = ("paragraph", "message", "reason")
"""Sentences in these two files, and all of ``summary.md``: reworded since, so only their numbers are compared."""
TIMING_KEYS = ("seconds", "tokens_per_second", "memory_gib")
"""Left out of the hash of a training's log and result."""
ASSET = "tiny-retrieval"
TARGET = 1024
"""Window of search and training; the tiny model has 128."""

QUIET: Command = ("--dtype", "float32", "--device", "cpu", "--offline")
SAMPLES: Command = (
    *("--tasks", "ruler:niah_single_1,ruler:niah_multikey_2,niah:single,facts", "--samples-per-task", "3"),
    *("--limit", "12", "--set", "niah.samples_per_cell=1", "--set", "niah.depths=3", *QUIET),
)
PLAIN: Command = ("run", "--model", "demo", "--lengths", "384,512", *SAMPLES)
PAIR = ("runs/pair/original", "runs/pair/extended")
OWN_DATA = "ruler:niah_single_1,ruler:niah_multikey_2,ruler:niah_multikey_3,ruler:vt,ruler:cwe,ruler:fwe,niah:multi"
"""Tasks that make their data themselves."""
MIX: Command = ("data", "mix", "--recipe", "recipe.toml", "--model", "small")
EVOLUTION = ("initial=10", "population=6", "parents=4", "mutations=3", "crossovers=3", "needles=8")

STEPS: dict[str, Command] = {
    "run plain": (*PLAIN, "--out", "runs/plain"),
    "run workers": (*PLAIN, "--workers", "2", "--out", "runs/workers"),
    "run pair": (
        *("run", "--model", "demo-longrope2", "--baseline", "demo", "--lengths", "512,2k", *SAMPLES),
        *("--set", "beyond_window=true", "--out", "runs/pair"),
    ),
    "compare": ("compare", *PAIR, "--out", "compare"),
    "gate": ("gate", *PAIR, "--margin", "20", "--out", "gate"),
    "gate of a loss": ("gate", *reversed(PAIR), "--margin", "20", "--out", "gate-loss"),
    "baseline": ("baseline", "save", PAIR[0], "--out", "baseline.json"),
    "gate against the baseline": ("gate", "baseline.json", PAIR[1], "--tasks", "facts", "--out", "gate-baseline"),
    "data make": (
        *("data", "make", "--model", "demo", "--tasks", OWN_DATA, "--lengths", "2k", "--samples-per-task", "3"),
        *("--set", "niah.samples_per_cell=1", "--set", "niah.depths=3", "--set", "niah.haystack=sentences.txt"),
        *("--offline", "--out", "data"),
    ),
    "rope": ("rope", "--model", ASSET, "--target-length", str(TARGET), "--rule", "all", "--json"),
    "search": (
        *("search", "--model", ASSET, "--target-length", str(TARGET), "--haystack", f"{ASSET}/haystack.txt"),
        *("--wording", f"{ASSET}/wording.json", "--repeat", "--splits", "12,14", "--samples", "3", "--held-out", "2"),
        *("--iterations", "2", "--depths", "grid", *QUIET, "--out", "search"),
        *(word for setting in EVOLUTION for word in ("--set", setting)),
    ),
    "export": ("export", "--model", ASSET, "--factors", "search/factors.json", "--copy-weights", "--out", "export"),
    "data mix": (*MIX, "--data", "texts.jsonl", "--out", "rows"),
    "data mix held out": (*MIX, "--data", "held.jsonl", "--set", "tokens=4096", "--out", "held"),
    "train": (
        *("train", "--recipe", "recipe.toml", "--model", "small", "--factors", "search/factors.json", "--data", "rows"),
        *("--held-out", "held", "--device", "cpu", "--offline", "--out", "train"),
    ),
}
VERDICTS = (0, 1, 3)
"""Exit codes of the gate that are no errors."""

RECIPE = f"""\
name = "evidence"
original_window = 128
target_window = {TARGET}
short_tokens = 0
long_tokens = 0
global_batch = 2
steps = 4
dtype = "float32"
gradient_checkpointing = true

[optimizer]
learning_rate = 1e-3
warmup_steps = 2

[evaluation]
every = 2
needles = 2
haystack = "{ASSET}/haystack.txt"
wording = "{ASSET}/wording.json"
repeat = true

[saving]
every = 2
keep = 2

[data]
tokens = 12288
buckets = [{{ up_to = 128, share = 0.5 }}, {{ share = 0.5 }}]
"""


def lr2eval(command: Sequence[str], out: Path) -> tuple[int, str]:
    """Exit code and standard output of a command, run in ``out`` with one thread a process and a cache of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")} | {
        "LR2EVAL_CACHE": str(out / "cache"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONSAFEPATH": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "lr2eval", *command],
        cwd=out, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    crashed = done.returncode not in VERDICTS or "Traceback" in done.stderr
    return (-1, done.stderr) if crashed else (done.returncode, done.stdout)


def prepare(asset: Path, out: Path) -> None:
    """The inputs: the tiny model under a relative name, a smaller one to train, its recipe and its texts."""
    shutil.copytree(asset, out / ASSET)
    small_model(out / ASSET, out / "small")
    (out / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    words = (asset / "haystack.txt").read_text(encoding="utf-8").split()
    sentences = [" ".join(words[at : at + 10]).capitalize() for at in range(0, len(words), 10)]
    (out / "sentences.txt").write_text(". ".join(sentences) + ".\n", encoding="utf-8")
    rng = random.Random(0)
    for name, documents in (("texts", 120), ("held", 60)):
        lines = []
        for number in range(documents):
            # Three of four documents are short; each begins somewhere else, so no two are the same.
            count = 70 + rng.randrange(50) if number % 4 else 700 + rng.randrange(400)
            first = rng.randrange(len(words) - count)
            lines.append(json.dumps({"text": " ".join(words[first : first + count])}) + "\n")
        (out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def small_model(source: Path, folder: Path) -> None:
    """A Llama of 10,000 random parameters with tokenizer and RoPE of ``source``: its checkpoints are small."""
    folder.mkdir()
    for path in source.glob("*.json"):
        if path.name != "wording.json":
            shutil.copy(path, folder)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    hidden, inner, heads = 16, 32, config["head_dim"]
    config |= {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens": (config["vocab_size"], hidden),
        **{f"{layer}self_attn.{name}_proj": (heads, hidden) for name in "qkv"},
        f"{layer}self_attn.o_proj": (hidden, heads),
        **{f"{layer}mlp.{name}_proj": (inner, hidden) for name in ("gate", "up")},
        f"{layer}mlp.down_proj": (hidden, inner),
    }
    # Integers of the legacy generator, whose stream numpy has frozen.
    rng = np.random.RandomState(0)
    draw = {name: rng.randint(-99, 100, shape) for name, shape in shapes.items()}
    weights = {f"{name}.weight": value.astype(np.float32) / 512 for name, value in draw.items()}
    norms = (f"{layer}input_layernorm", f"{layer}post_attention_layernorm", "model.norm")
    weights |= {f"{name}.weight": np.ones(hidden, dtype=np.float32) for name in norms}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def sha256(value: bytes | str) -> str:
    """Hex digest of bytes or text."""
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()


def without(value: Any, keys: Sequence[str]) -> Any:
    """A JSON value without some keys at any depth."""
    if isinstance(value, Mapping):
        return {key: without(item, keys) for key, item in value.items() if key not in keys}
    return [without(item, keys) for item in value] if isinstance(value, list) else value


def canonical(value: Any) -> str:
    """Hash of a JSON value, whatever the order of its keys."""
    return sha256(json.dumps(value, sort_keys=True))


def read(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def of_json(path: Path, **then: int) -> dict[str, str]:
    """Hash of a file that may name a version, as it is and without. ``then``: the schema version in 9c8e5ba."""
    kept = without(read(path), (*VERSION_KEYS, *CHECKS)) | then
    return {"sha256": sha256(path.read_bytes()), "sha256_without_version": canonical(kept)}


def numbers(text: str) -> list[str]:
    """The numbers in a sentence, sorted: the order of words is free."""
    return sorted(re.findall(r"\d(?:[\d,.]*\d)?", text))


def comparable(value: Any) -> Any:
    """A comparison or a verdict with the keys of 9c8e5ba and the numbers of its sentences."""
    if isinstance(value, Mapping):
        return {
            RENAMED_KEYS.get(key, key): numbers(item or "") if key in SENTENCE_KEYS else comparable(item)
            for key, item in value.items()
            if key not in DROPPED_KEYS
        }
    return [comparable(item) for item in value] if isinstance(value, list) else value


def of_markdown(path: Path) -> str:
    """Hash of a table; of ``summary.md``, the hash of the numbers in each line."""
    if path.stem != "summary":
        return sha256(path.read_bytes())
    return canonical([numbers(line) for line in path.read_text(encoding="utf-8").splitlines()])


def of_table(path: Path, query: str) -> str:
    """Hash of the rows of a query of a SQLite file."""
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True)
    try:
        db.execute("PRAGMA query_only=ON")
        return canonical(db.execute(query).fetchall())
    finally:
        db.close()


def files(folder: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    """(path below ``folder``, path) of what fits a pattern, in order."""
    for path in sorted(folder.rglob(pattern)):
        yield path.relative_to(folder).as_posix(), path


def run_facts(folder: Path) -> dict[str, Any]:
    """Digest and hashes of a run folder; the responses hold every log-probability to the last bit."""
    results = read(folder / "results.json")
    store = folder / "samples.sqlite"
    return {
        "digest": results["digest"],
        "results.json": of_json(folder / "results.json", schema_version=1),
        "summaries": {f"{each['benchmark']}@{each['length']}": each["score"] for each in results["summaries"]},
        "samples": of_table(store, "SELECT * FROM samples ORDER BY id"),
        # Keys and batches are followed by a check today.
        "responses": of_table(
            store,
            "SELECT shard, request_type, request, substr(key, 1, 64), response, detail FROM responses "
            "ORDER BY shard, request_type, request",
        ),
        "batches": of_table(
            store,
            "SELECT shard, request_type, number, substr(members, 1, instr(members, ']')) FROM batches "
            "ORDER BY shard, request_type, number",
        ),
    }


def search_facts(folder: Path) -> dict[str, Any]:
    """The found factors, and hashes of files and journal."""
    found = read(folder / "search.json")
    journal = "SELECT factors, sample, nll, tokens FROM evaluations ORDER BY number"
    return {
        **{key: found[key] for key in ("digest", "split", "evaluations", "best_nll", "factors")},
        "search.json": of_json(folder / "search.json", version=2),
        "factors.json": of_json(folder / "factors.json"),
        "journal": of_table(folder / "evaluations.sqlite", journal),
    }


def train_facts(folder: Path) -> dict[str, Any]:
    """Losses, and hashes of log, result and every file of weights."""
    told = read(folder / "training.json")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        **{key: told[key] for key in ("digest", "steps", "loss_first", "loss_last", "evaluations")},
        "training.json": canonical(without(told, (*TIMING_KEYS, *VERSION_KEYS))),
        "log.jsonl": canonical(without(lines, TIMING_KEYS)),
        "safetensors": {name: sha256(path.read_bytes()) for name, path in files(folder, "*.safetensors")},
        "config.json": sha256((folder / "model" / "config.json").read_bytes()),
    }


def facts(out: Path, codes: Mapping[str, int], rope: str) -> dict[str, Any]:
    """What ``evidence.json`` holds."""
    runs = ("runs/plain", "runs/workers", *PAIR)
    records = ("comparison.json", "gate.json")
    made = read(out / "data" / "manifest.json")
    return {
        "exit_codes": dict(codes),
        "runs": {name: run_facts(out / name) for name in runs},
        "comparisons": {name: canonical(comparable(read(path))) for file in records for name, path in files(out, file)},
        "tables": {name: of_markdown(path) for end in ("csv", "md") for name, path in files(out, f"*.{end}")
                   if path.stem in ("comparison", "summary")},
        "baseline.json": of_json(out / "baseline.json"),
        "data": {name: sha256(path.read_bytes()) for name, path in files(out / "data", "*.jsonl")},
        "data_not_made": [each["task"] for each in made["not_made"]],
        "rope": sha256(rope),
        "search": search_facts(out / "search"),
        "export": {name: sha256((out / "export" / name).read_bytes()) for name in ("config.json", "model.safetensors")},
        "rows": {name: {key: read(out / name / "manifest.json")[key] for key in ("digest", "tokens")}
                 for name in ("rows", "held")},
        "train": train_facts(out / "train"),
        "left_out": {"sha256_without_version": list(VERSION_KEYS), "log.jsonl, training.json": list(TIMING_KEYS),
                     "comparisons": list(DROPPED_KEYS)},
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="the tree with tests/")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True)  # never over an older one, whose folders would be resumed
    prepare(arguments.root / "tests" / "assets" / ASSET, out)
    codes: dict[str, int] = {}
    texts: dict[str, str] = {}
    for name, command in STEPS.items():
        print(f"{name}: lr2eval {' '.join(command)}", file=sys.stderr, flush=True)
        codes[name], texts[name] = lr2eval(command, out)
        if codes[name] not in VERDICTS:
            raise SystemExit(f"{name} failed:\n{texts[name]}")
    text = json.dumps(facts(out, codes, texts["rope"]), indent=1)
    (out / "evidence.json").write_text(text + "\n", encoding="utf-8")
    print(out / "evidence.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
