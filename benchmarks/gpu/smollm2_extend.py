"""SmolLM2-135M from 8k to 32k tokens (or 128k) on one GPU, in slices: search, mixed-window training, comparison.

    python benchmarks/gpu/smollm2_extend.py --model MODEL --books BOOKS --data-dir DATA --out FOLDER [--target 128k]
    python benchmarks/gpu/smollm2_extend.py --rehearse --out FOLDER      # every stage with the demo model on a CPU

``MODEL`` is SmolLM2's folder (``lr2eval models fetch smollm2-135m``), ``BOOKS`` a folder of long texts, ``DATA`` holds
essays and MMLU in the layout of ``--data-dir``. One call works for at most ``--slice`` seconds, interrupts what is
running (everything finished is kept) and exits with 75: the same command goes on, until it prints one table, original
against extended, writes ``FOLDER/result.json`` with the device's name, exits with 0. ``lr2eval extend`` does it all.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[1]))
import machine
from demo_model.rows import write_documents, write_wording

from lr2eval.base.units import parse_length
from lr2eval.model.names import BUILT_IN

MORE = 75
"""Exit code of a slice that ended before the work did (EX_TEMPFAIL)."""
GRACE = 60
"""Seconds in which an interrupted step keeps what it has."""

CONFIG = """\
model = {model}
target_length = {target}
data_dir = {data_dir}
offline = true

[search]
haystack = {books}
race = true
samples = 8
population = 32
initial = 64
iterations = 12
parents = 16
mutations = 16
crossovers = 16
dtype = "bfloat16"

[data]
sources = [{{ name = "books", path = {books} }}]
repeat = true
tokens = {tokens}

[training]
recipe = "smollm2-135m-32k"
saving.every = 10

[evaluation]
tasks = ["ruler", "niah:single", "mmlu"]
lengths = {lengths}
samples_per_task = 20
limit = 20
beyond_window = true
missing_data = "skip"
dtype = "bfloat16"

[evaluation.niah]
samples_per_cell = 2
"""
STEPS = 300
"""Optimizer steps of 32 rows."""

REHEARSAL_LENGTH = 1024
REHEARSAL = (
    *("--device", "cpu", "--target-length", str(REHEARSAL_LENGTH)),
    *(
        "--set",
        "search.samples=2",
        "--set",
        "search.race=false",
        "--set",
        "search.held_out=2",
        "--set",
        "search.population=4",
    ),
    *("--set", "search.initial=4", "--set", "search.iterations=1", "--set", "search.parents=2"),
    *("--set", "search.mutations=2", "--set", "search.crossovers=2", "--set", "search.splits=[16]"),
    *("--set", "search.workers=1", "--set", "training.global_batch=8", "--set", "data.tokens=16384"),
    *("--set", "evaluation.samples_per_task=1", "--set", "evaluation.limit=20"),
    *("--set", 'evaluation.tasks=["ruler:niah_single_1","facts"]', "--set", "evaluation.lengths=[512,1024]"),
)
"""The same steps in a minute; the numbers mean nothing."""


def write_config(path: Path, arguments: argparse.Namespace) -> None:
    """The file that ``lr2eval extend --config`` reads: lengths double from 4k to the target."""
    target = parse_length(arguments.target)
    lengths = [4096 * 2**step for step in range(20) if 4096 * 2**step <= target]
    text = CONFIG.format(
        model=json.dumps(str(arguments.model)),
        target=target,
        data_dir=json.dumps(str(arguments.data_dir)),
        books=json.dumps(str(arguments.books)),
        tokens=arguments.steps * 32 * target,
        lengths=lengths,
    )
    path.write_text(text, encoding="utf-8")


def rehearsal(folder: Path) -> list[str]:
    """The flags of a rehearsal: the demo's own configuration, with documents for a shorter target."""
    documents, wording = folder / "documents.jsonl", folder / "wording.json"
    if not wording.exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(BUILT_IN / "demo")
        write_documents(documents, tokenizer, REHEARSAL_LENGTH, rows=72, seed=0)
        write_wording(wording, tokenizer)
    source = {"name": "demo", "path": str(documents), "tokenised": True}
    return [
        *("--config", str(BUILT_IN.parent / "demo-extend.toml"), "--set", f"search.wording={wording}"),
        *("--set", f"data.sources={json.dumps([source])}", *REHEARSAL),
    ]


def work(command: list[str], seconds: float) -> int:
    """Exit code of ``command``, or :data:`MORE` if it was interrupted after ``seconds``."""
    process = subprocess.Popen(command, stdout=sys.stderr)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()  # what is finished is on disk either way
            process.wait()
        return MORE


def table(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the one table: benchmark by length, original against extended."""
    return [
        {
            "benchmark": row["benchmark"],
            "length": row["length"],
            "n": row["n"],
            "original": row["original"],
            "extended": row["extended"],
            "difference": row["difference"],
            "low": row["interval"]["low"],
            "high": row["interval"]["high"],
        }
        for row in comparison["pairs"][0]["differences"]
        if row["level"] == "length" or (row["level"] == "benchmark" and row["benchmark"] in ("mmlu", "facts"))
    ]


def shown(rows: list[dict[str, Any]]) -> str:
    """The table as text."""
    lines = [f"{'benchmark':<10} {'length':>7} {'n':>5} {'original':>9} {'extended':>9}  difference [95 %]"]
    for row in rows:
        length = "-" if row["length"] is None else row["length"]
        lines.append(
            f"{row['benchmark']:<10} {length:>7} {row['n']:>5} {row['original']:>9.1f} {row['extended']:>9.1f}  "
            f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"
        )
    return "\n".join(lines)


def device() -> str:
    """The accelerator's name, or ``cpu``."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--books", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--target", default="32k")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--slice", type=float, default=480, help="seconds of one call")
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "lr2eval", "extend", "--out", str(arguments.out / "extension")]
    if arguments.rehearse:
        command += rehearsal(arguments.out)
    elif arguments.model and arguments.books and arguments.data_dir:
        write_config(arguments.out / "extend.toml", arguments)
        command += ["--config", str(arguments.out / "extend.toml")]
    else:
        parser.error("give --model, --books and --data-dir, or --rehearse")
    log = arguments.out / "slices.json"
    slices: list[dict[str, Any]] = json.loads(log.read_text()) if log.exists() else []
    began = time.monotonic()
    code = work(command, max(arguments.slice - GRACE, 1))
    slices.append({"seconds": round(time.monotonic() - began), "exit": code, "device": device()})
    log.write_text(json.dumps(slices, indent=1) + "\n")
    if code:
        return code
    rows = table(json.loads((arguments.out / "extension" / "comparison.json").read_text()))
    result = {
        "machine": machine.facts(),
        "device": device(),
        "target": arguments.target,
        "rehearsal": arguments.rehearse,
        "slices": slices,
        "seconds_of_steps": json.loads((arguments.out / "extension" / "extend.json").read_text())["done"],
        "table": rows,
    }
    (arguments.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(shown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
