"""Mixed-window training of SmolLM2-135M on real books, and packed rows against the plain Trainer's padded batches.

``train_books.py BOOKS --work FOLDER`` (a folder of text files or a tar archive of them): for this check only, 128
tokens are the short and 512 the long window, so that two cores see both kinds in minutes.

* ``training``: paragraphs of one half of the books are short documents, whole books of the other half long ones; the
  losses of both kinds at the beginning and at the end (means of the first and the last third of the steps, whose rows
  are all different), held-out losses, resident memory by step (a leak would make it grow), tokens a second.
* ``short bucket`` (512 and 2048 tokens): the same short documents, packed without an attention mask by ours and padded
  to the longest of their batch by ``transformers.Trainer``; trained documents' tokens a second (padding is not counted)
  and peak memory, in one process after the other, same model, optimizer and tokens per step.

Prints one JSON object. Evaluation data is not touched: no benchmark of this project is made of these books.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import machine
import psutil
import torch

from lr2eval.method.data.config import MixtureConfig
from lr2eval.method.data.mixing import prepare_mixture
from lr2eval.method.data.rows import SegmentData
from lr2eval.method.rope import rules
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.rope.source import ModelRope
from lr2eval.method.train.recipe import Recipe, read_recipe
from lr2eval.method.train.train import read as read_log
from lr2eval.method.train.train import train
from lr2eval.model import names
from lr2eval.model.tokenizer import PromptTokenizer

WINDOW, TARGET = 128, 512
BUCKET = 512, 2048
"""Short and long window of the comparison with padded batches: documents of 64 to 512 tokens, as they come."""
MODEL = "smollm2-135m"
ROWS_OF_BUCKET = 3
"""Rows' worth of documents that each side trains on, one row a step."""


def books(source: Path, work: Path) -> list[Path]:
    """Text files, longest first."""
    if source.is_file():
        folder = work / "books"
        if not folder.exists():
            with tarfile.open(source) as archive:
                archive.extractall(folder, filter="data")
        source = folder
    return sorted(source.rglob("*.txt"), key=lambda path: -path.stat().st_size)


def rows(
    files: list[Path], work: Path, tokenizer: PromptTokenizer, name: str, count: int, windows: tuple[int, int]
) -> SegmentData:
    """Some ``count`` rows from paragraphs of every second book and from the other books whole."""
    window, target = windows
    config = {
        "original_window": window,
        "target_window": target,
        "tokens": count * target,
        "buckets": [{"up_to": window, "share": 0.5}, {"share": 0.5}],
        "sources": [
            {"name": "paragraphs", "path": [str(path) for path in files[::2]], "documents": "paragraphs"},
            {"name": "books", "path": [str(path) for path in files[1::2]]},
        ],
        "token_cache": str(work / "tokens"),
    }
    return prepare_mixture(
        MixtureConfig(**config), tokenizer, work / name, say=lambda text: print(text, file=sys.stderr)
    )


def recipe(steps: int, windows: tuple[int, int]) -> Recipe:
    """One row a step."""
    changes: dict[str, Any] = {"name": "books", "global_batch": 1}
    changes |= {"original_window": windows[0], "target_window": windows[1]}
    changes |= {"short_tokens": 0, "long_tokens": 1, "steps": steps, "dtype": "float32"}
    changes |= {"optimizer.learning_rate": 2e-5, "optimizer.warmup_steps": 4, "evaluation.every": steps // 2}
    return read_recipe(None, changes)


def training(folder: Path, data: SegmentData, held_out: SegmentData, work: Path, steps: int) -> dict[str, Any]:
    """Some dozens of steps over rows of both kinds."""
    model = load(folder)
    result = train(
        recipe(steps, (WINDOW, TARGET)),
        model,
        folder,
        data,
        factors(folder, (WINDOW, TARGET)),
        work / "training",
        held_out=[row for kind in (False, True) for row in [each for each in held_out if each.long == kind][:3]],
        say=lambda text: print(text, file=sys.stderr),
    )
    log = [line for line in read_log(work / "training") if "loss" in line]
    third = len(log) // 3
    found: dict[str, Any] = {
        "steps": result.steps,
        "tokens": result.tokens,
        "evaluations": result.evaluations,
        "tokens_per_second": round(result.tokens / result.seconds, 1),
        "memory_gib": [line["memory_gib"] for line in log],
    }
    for kind in ("short", "long"):
        first, last = (
            [line[f"loss_{kind}"] for line in part if f"loss_{kind}" in line] for part in (log[:third], log[-third:])
        )
        found[f"loss_{kind}"] = {"first_third": statistics.mean(first), "last_third": statistics.mean(last)}
        found[f"loss_{kind}"] |= {"rows": [len(first), len(last)]}
    return found


def factors(folder: Path, windows: tuple[int, int]) -> RopeScaling:
    """The unsearched LongRoPE2 vector of these windows."""
    read = ModelRope.read(folder).original()
    rope = OriginalRope(read.theta, read.rotary_dim, windows[0])
    return rules.longrope2(rope, windows[1], attention_factor=1.0)


def load(folder: Path) -> Any:
    """The model in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def documents(data: SegmentData) -> list[list[int]]:
    """Documents of the first short rows, without the padding."""
    found = []
    short = [row for row in data if not row.long][:ROWS_OF_BUCKET]
    for row in short:
        begin, end = 0, len(row.input_ids) - row.padding
        for length in row.document_lengths:
            if begin < end:
                found.append(row.input_ids[begin : begin + length].tolist())
            begin += length
    return found


def packed(folder: Path, data: SegmentData, work: Path) -> dict[str, Any]:
    """Ours on the first short rows, a row a step."""
    short = [row for row in data if not row.long][:ROWS_OF_BUCKET]
    scaling, out = factors(folder, BUCKET), work / f"packed-{time.time_ns()}"
    result = train(recipe(len(short), BUCKET), load(folder), folder, short, scaling, out)
    return {"tokens": result.tokens, "seconds": result.seconds, "padding": sum(row.padding for row in short)}


def padded(folder: Path, data: SegmentData, work: Path) -> dict[str, Any]:
    """transformers.Trainer on the same documents, batches padded to their longest, as many documents in a step."""
    import transformers

    found = documents(data)
    per_step = -(-len(found) // ROWS_OF_BUCKET)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    arguments = transformers.TrainingArguments(
        output_dir=str(work / "plain"),
        per_device_train_batch_size=per_step,
        num_train_epochs=1,
        learning_rate=2e-5,
        max_grad_norm=1.0,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model=load(folder),
        args=arguments,
        train_dataset=[{"input_ids": ids} for ids in found],
        data_collator=collator,
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    return {"tokens": sum(map(len, found)), "seconds": round(seconds, 1), "documents": len(found)}


def side(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One side of the comparison in a process of its own, so that its peak memory is its own."""
    command = [sys.executable, __file__, str(arguments.books), "--work", str(arguments.work), "--side", name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    peak, watched = 0, psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.05)
    assert process.stdout is not None
    text = process.stdout.read()
    if process.wait():
        raise SystemExit(f"{name} failed")
    found: dict[str, Any] = json.loads(text.splitlines()[-1])  # the Trainer prints before
    return found | {
        "peak_gib": round(peak / 2**30, 2),
        "tokens_per_second": round(found["tokens"] / found["seconds"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--side", choices=("packed", "padded"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    folder = names.locate(MODEL)
    tokenizer = PromptTokenizer.load(folder)
    files = books(arguments.books, arguments.work)
    if arguments.side:
        bucket = rows(files[:8], arguments.work, tokenizer, "bucket", 60, BUCKET)
        run = packed if arguments.side == "packed" else padded
        print(json.dumps(run(folder, bucket, arguments.work)))
        return
    data = rows(files[:8], arguments.work, tokenizer, "rows", 160, (WINDOW, TARGET))
    held_out = rows(files[8:12], arguments.work, tokenizer, "held-out", 16, (WINDOW, TARGET))
    facts: dict[str, Any] = {
        "machine": machine.facts(),
        "threads": torch.get_num_threads(),
        "windows": [WINDOW, TARGET],
        "windows_of_short_bucket": BUCKET,
        "training": training(folder, data, held_out, arguments.work, arguments.steps),
        "short_bucket": {name: side(name, arguments) for name in ("padded", "packed")},
    }
    both = facts["short_bucket"]
    both["packed_over_padded"] = round(both["packed"]["tokens_per_second"] / both["padded"]["tokens_per_second"], 2)
    text = json.dumps(facts, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
