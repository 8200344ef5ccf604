"""Mixed-window training of the tiny retrieval models: does it reach 16x the window, and what does it cost inside it?

``mixed_training.py MODEL... --factors FILE... --work FOLDER``: for each checkpoint (the first with seed 0, ...) and its
factors trains once on mixed rows and once on long rows only (the paper's ablation), the same number of rows, and
measures on documents that no training has seen:

* needle accuracy from 1 to 16 times the window (48 pairs in the text, 20 in the window, 12 asked at the end; two-sided
  Wilson intervals over answers);
* in the window, under the RoPE that each model has there: recall and facts known by heart, paired with the original,
  with the 95 % lower bound of the difference over documents and whether it is within 1.5 points.

The language is that of ``tiny_language.py``; its documents are random, those of the evaluation come from other seeds.
Rows and measuring are those of ``reproduction``, which compares rules and trainings in full.
Prints one JSON object. A training goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import machine
import tiny_language as language
import tiny_search
from reproduction import tiny
from reproduction.intervals import documents, paired
from reproduction.measure import Test, answered

from lr2eval.method.rope.files import read_factors
from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.train.recipe import Recipe, read_recipe
from lr2eval.method.train.train import train
from lr2eval.stats.scores import wilson

WINDOW, TARGET = 128, 2048
DOCUMENTS = {128: 400, 256: 100, 512: 60, 1024: 40, 2048: 40}
"""Documents of the evaluation by length; 12 answers each."""
MARGIN = 0.015


def evaluation(seed: int) -> dict[str, list[Test]]:
    """What all models of a seed answer; no training draws from this generator."""
    rng = np.random.default_rng([seed, 77_777])
    found = {
        f"needles@{length}": [
            tiny.question(language.recall(rng, length, 20 if length == WINDOW else 48, 12, at_end=True))
            for _ in range(count)
        ]
        for length, count in DOCUMENTS.items()
    }
    return found | {"facts@128": [tiny.question(language.facts(rng, WINDOW)) for _ in range(DOCUMENTS[WINDOW])]}


def measure(model: Any, tests: Mapping[str, Sequence[Test]]) -> dict[str, np.ndarray]:
    """Right (1) or wrong (0) of every answer to every task."""
    return {name: answered(model, each) for name, each in tests.items()}


def shown(right: np.ndarray, tests: Sequence[Test]) -> dict[str, Any]:
    """Accuracy over answers and its Wilson interval."""
    mean, n = float(right.mean()), len(right)
    low, high = wilson(mean, n)
    return {"accuracy": mean, "low": low, "high": high, "answers": n, "documents": len(tests)}


def retained(trained: np.ndarray, original: np.ndarray, tests: Sequence[Test]) -> dict[str, Any]:
    """Trained minus original on the same answers, clustered by document; a 90 % interval, as the gate takes."""
    found = paired(trained, original, documents([len(test.asked) for test in tests]), 0.90)
    return {"difference": found.mean, "low": found.low, "high": found.high, "not_inferior": found.low > -MARGIN}


def one(folder: Path, factors: RopeScaling, seed: int, work: Path, recipe: Recipe, count: int) -> dict[str, Any]:
    """One model: the original, the factors alone, mixed training, long rows only."""
    tests = evaluation(seed)
    model, _ = tiny_search.load(folder)
    original = measure(model, tests)
    install_rope(model, factors)
    found = {"original": original, "factors, no training": measure(model, tests)}
    took = {}
    for name, long_only in (("mixed", False), ("long only", True)):
        model, _ = tiny_search.load(folder)
        changed = recipe.model_copy(update={"long_only": long_only, "seed": seed})
        began = time.monotonic()
        result = train(
            changed,
            model,
            folder,
            tiny.rows(seed, count, WINDOW, TARGET, long_only=long_only),
            factors,
            work / f"{name.replace(' ', '-')}-{seed}",
        )
        took[name] = {
            "seconds": round(result.seconds),
            "wall_seconds_of_this_call": round(time.monotonic() - began),
            "steps": result.steps,
            "loss_first": result.loss_first,
            "loss_last": result.loss_last,
        }
        found[name] = measure(model, tests)
    inside = (f"needles@{WINDOW}", f"facts@{WINDOW}")
    return {
        "seed": seed,
        "training": took,
        "accuracy": {
            name: {task: shown(right, tests[task]) for task, right in each.items()} for name, each in found.items()
        },
        "retained": {
            name: {task: retained(each[task], original[task], tests[task]) for task in inside}
            for name, each in found.items()
            if name != "original"
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--factors", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = read_recipe("tiny-retrieval-2k")
    pairs = zip(arguments.models, arguments.factors, strict=True)
    runs = [
        one(folder, read_factors(file).scaling, seed, arguments.work, recipe, arguments.rows)
        for seed, (folder, file) in enumerate(pairs)
    ]
    facts = {
        "machine": machine.facts(),
        "recipe": recipe.model_dump(mode="json", exclude={"shape", "hardware"}),
        "rows": arguments.rows,
        "weight_of_other_words": tiny.REST,
        "margin": MARGIN,
        "runs": runs,
    }
    text = json.dumps(facts, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
