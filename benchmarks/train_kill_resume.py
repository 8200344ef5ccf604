"""Kill a training with SIGKILL at random moments, start it again each time, and look whether its weights are the same.

``python benchmarks/train_kill_resume.py --kills 10`` trains once undisturbed, then with the given number of kills, and
checks at the end: weights, optimizer state and exported model are equal byte for byte, the log holds every step once
with the same losses, and the result's digest is the same. Every third kill is aimed at a checkpoint being written.
Prints one JSON object and exits 1 when anything differs. The tests do three kills with the same code.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from forked import Forked, warm_up

ROOT = Path(__file__).parents[1]
ASSET = ROOT / "tests" / "assets" / "tiny-retrieval"
STEPS = 24
WINDOW, TARGET = 128, 256


def child(out: Path) -> None:
    """The training: 24 steps over random rows of both kinds, a checkpoint every three."""
    import torch
    from transformers import AutoModelForCausalLM

    sys.path.insert(0, str(ROOT))
    from lr2eval.method.rope.rules import RULES
    from lr2eval.method.rope.scaling import OriginalRope
    from lr2eval.method.train.recipe import Recipe
    from lr2eval.method.train.train import train
    from tests.tiny_segments import mixture

    torch.set_num_threads(1)
    recipe = Recipe(
        name="kill", original_window=WINDOW, target_window=TARGET, short_tokens=0, long_tokens=0, global_batch=3,
        micro_batch=2, epochs=20, steps=STEPS, gradient_checkpointing=True, saving={"every": 3, "keep": 2},
        evaluation={"every": 5}, optimizer={"learning_rate": 1e-3, "warmup_steps": 5},
    )  # fmt: skip
    scaling = RULES["longrope2"].make(OriginalRope(1000.0, 64, WINDOW), TARGET)
    model = AutoModelForCausalLM.from_pretrained(ASSET, dtype=torch.float32, attention_dropout=0.1)
    rows = mixture(14, TARGET, WINDOW, weighted=True, vocabulary=296)
    held_out = mixture(18, TARGET, WINDOW, vocabulary=296)[14:]
    train(recipe, model, ASSET, rows, scaling, out, held_out=held_out, command=["kill"])


def logged(out: Path) -> int:
    """Whole lines of the log."""
    try:
        return (out / "log.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def writing(out: Path) -> bool:
    """Whether a checkpoint is there without its marker."""
    return any(not (folder / "COMPLETE").exists() for folder in (out / "checkpoints").glob("step-*"))


def campaign(work: Path, kills: int, seed: int) -> dict[str, Any]:
    """One undisturbed training, then some that are killed. Returns what was seen; ``ok`` says whether all held."""
    calm, rough = work / "calm", work / "rough"
    warm_up()
    began = time.monotonic()
    Forked(child, calm).finish("the undisturbed training")
    duration = time.monotonic() - began
    rng = random.Random(seed)
    died, in_write, compared = 0, 0, 0
    at: list[int] = []
    differences: list[str] = []
    while died < kills:
        process = Forked(child, rough)
        wanted = logged(rough) + rng.randint(1, STEPS // 3)
        hunting = died % 3 == 1
        while process.poll() is None and logged(rough) < wanted:
            time.sleep(rng.uniform(0.0, 0.01))
        while hunting and process.poll() is None and not writing(rough):
            time.sleep(0.0002)
        if process.poll() is None:
            died += process.kill()
            in_write += writing(rough)
            at.append(logged(rough))
        else:
            process.finish("the resumed training")
        if (rough / "training.json").exists() and died < kills:
            compared += 1
            differences += different(rough, calm)
            rough = work / f"rough{compared}"  # the kills that are left hit a training of their own
    Forked(child, rough).finish("the resumed training")
    differences += different(rough, calm)
    return {
        "kills": died,
        "kills_while_a_checkpoint_was_written": in_write,
        "steps": STEPS,
        "log_lines_at_each_kill": at,
        "trainings_compared": compared + 1,
        "differences": differences,
        "undisturbed_seconds": round(duration, 1),
        "seed": seed,
        "ok": not differences,
    }


def different(rough: Path, calm: Path) -> list[str]:
    """What is not equal in two finished trainings."""
    last = f"checkpoints/step-{STEPS:06d}"
    files = [f"{last}/{name}.safetensors" for name in ("weights", "optimizer", "random")] + ["model/model.safetensors"]
    found = [name for name in files if (rough / name).read_bytes() != (calm / name).read_bytes()]
    logs = [[_lasting(json.loads(line)) for line in (out / "log.jsonl").open()] for out in (rough, calm)]
    results = [json.loads((out / "training.json").read_text()) for out in (rough, calm)]
    for result in results:
        del result["seconds"], result["sha256"]  # the checksum covers the seconds
    found += ["log.jsonl"] if logs[0] != logs[1] or len(logs[0]) != STEPS + 1 else []
    return found + (["training.json"] if results[0] != results[1] else [])


def _lasting(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in ("tokens_per_second", "seconds", "memory_gib")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        facts = campaign(Path(work), arguments.kills, arguments.seed)
    text = json.dumps(facts, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    return 0 if facts["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
