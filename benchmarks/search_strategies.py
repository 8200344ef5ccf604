"""Which search finds better factors, and at what cost? ``search_strategies.py SUBJECT=MODEL... --work FOLDER``.

A cell is ``SUBJECT/KIND/SEED``: a model, a kind of search, and the seed of its samples. Subjects are ``tiny-N`` (the
tiny retrieval model of pre-training seed N, 128 to 2,048 words) and ``demo-N`` (the demo model, 512 to 8,192 tokens).
Every
cell is a run of ``lr2eval search``, and one line of ``results/search_strategies.jsonl`` when it ends; the same command
goes on where it was stopped. ``--list`` names the cells that are missing, in the order in which they would run.

* ``gradient``: ``--strategy gradient`` with its defaults, on every subject.
* ``evolution``: the published search. Tiny models: its published size at the theoretical split (1,408 candidates, 10
  samples). Demo: the size of ``method/demo-extend.toml``.
* ``evolution-temperature``: the same with the attention temperature as a gene.

All kinds of a subject and seed are scored on the same 48 unseen samples and the same questions at the target length.
They chose nothing. ``rule`` is the best rule at its best temperature, chosen on the samples of the search.

The cost is in samples of the target length: 1 for a forward, ``GRADIENT`` for a forward with its gradient.
``--cost MODEL LENGTH`` measures that number: processor seconds of both, side by side.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import machine
import numpy as np
import tiny_language
import tiny_search
import torch
from reproduction.cells import Design
from reproduction.demo import Demo
from reproduction.measure import Test, answered
from reproduction.store import Store, pack
from reproduction.tiny import question

from lr2eval.method.rope.rules import longrope
from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.rope.source import ModelRope
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search.needles import Sample
from lr2eval.method.search.perplexity import mean_nll, nll_gradient
from lr2eval.record.search import FOUND, SEED, SearchResult

RESULTS = Path(__file__).parent / "results" / "search_strategies.jsonl"
QUALITY = RESULTS.with_name("search_quality.json")
METHOD = Path(__file__).parents[1] / "method"
GRADIENT = 4.5
"""Forwards that a gradient costs: the most that ``--cost`` measured."""
UNSEEN, UNSEEN_SEED, QUESTION_SEED = 48, 70_000, 90_000
TEMPERATURES = "temperatures=[0.5,1.5]"
SEEDS = {"tiny": {"gradient": (0, 1, 2), "evolution-temperature": (0, 1, 2), "evolution": (1,)},
         "demo": {"gradient": (0,), "evolution-temperature": (0,), "evolution": (0,)}}  # fmt: skip
"""Seeds of the samples. The published search of tiny-0, seed 0, is that of ``search_quality.json``."""
DOCUMENTS = {"tiny": 30, "demo": 15}
"""Of each task at the target length."""


def cells(subjects: list[str]) -> list[str]:
    """Every cell of these subjects, the cheap ones first."""
    found = []
    for kind in ("gradient", "evolution", "evolution-temperature"):
        for number in range(3):
            found += [
                f"{name}/{kind}/{seeds[number]}"
                for name in subjects
                if number < len(seeds := SEEDS[name.split("-")[0]][kind])
            ]
    return [*(["tiny-0/evolution/0"] if "tiny-0" in subjects else []), *found]


def options(subject: str, kind: str) -> Iterator[str]:
    """What ``lr2eval search`` is asked for beside model, seed and folder."""
    settings: list[str] = []
    if subject == "tiny":
        asset = tiny_search.ASSET
        yield from ("--target-length", "2048", "--haystack", str(asset / "haystack.txt"))
        yield from ("--wording", str(asset / "wording.json"))
        settings += ["needles=12", "distractors=36"]
        if kind != "gradient":
            yield from ("--splits", "14")
    else:
        yield from ("--target-length", "8192", "--haystack", "demo-filler")
        yield from ("--wording", str(METHOD / "demo-extend-wording.json"))
        settings += ["needles=4", "distractors=4"]
        if kind != "gradient":
            yield from ("--splits", "16", "--samples", "6", "--race", "--iterations", "6")
            settings += ["powers=[1.0,3.0]", "population=16", "initial=24", "parents=8", "mutations=8", "crossovers=8"]
    if kind == "gradient":
        yield from ("--strategy", "gradient")
    elif kind == "evolution-temperature":
        settings.append(TEMPERATURES)
    yield from ("--depths", "grid", "--repeat", "--held-out", "0", "--dtype", "float32", "--device", "cpu", "--offline")
    for setting in settings:
        yield from ("--set", setting)


def search(model: Path, cell: str, work: Path) -> tuple[SearchResult, dict[str, Any]]:
    """Run the command; its result, and processor seconds if it was not begun before."""
    name, kind, seed = cell.split("/")
    out = work / cell.replace("/", "-")
    begun = out.exists()
    command = [sys.executable, "-m", "lr2eval", "search", "--model", str(model), "--seed", seed, "--out", str(out)]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    log = out.with_suffix(".log").open("a")
    done = subprocess.run([*command, *options(name.split("-")[0], kind)], check=False, stdout=log, stderr=log)
    if done.returncode:
        raise SystemExit(f"{cell}: the search ended with exit code {done.returncode}; see {log.name}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = {
        "wall_seconds": round(time.monotonic() - began),
        "processor_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
        "load_average_after": round(os.getloadavg()[0], 1),
    }
    return SearchResult.read(out), {} if begun else took


def unseen(subject: str, model: Path, seed: int) -> tuple[list[Sample], dict[str, list[Test]]]:
    """Samples and questions that no search has used; the same for every kind."""
    count = DOCUMENTS[subject]
    if subject == "tiny":
        rng = np.random.default_rng([QUESTION_SEED, seed])
        tests = [question(tiny_language.recall(rng, 2048, 48, 12, at_end=True), at_end=True) for _ in range(count)]
        return tiny_search.samples(tiny_search.settings(UNSEEN_SEED + seed), (UNSEEN,)), {"many": tests}
    demo = Demo(Design.read("demo").own, model)
    tasks = {
        task: [demo._test(QUESTION_SEED + seed, task, 8192, number, count) for number in range(count)]
        for task in ("single_1", "multikey_1")
    }
    return demo.samples(UNSEEN_SEED + seed, UNSEEN), tasks


def measured(model: Any, scaling: RopeScaling, samples: list[Sample], tests: dict[str, list[Test]]) -> dict[str, Any]:
    """Loss on the unseen samples, and the answers."""
    install_rope(model, scaling)
    return {
        "nll": [round(mean_nll(model, sample), 6) for sample in samples],
        "answers": {task: pack(answered(model, each)) for task, each in tests.items()},
    }


def line(cell: str, model: Path, work: Path) -> dict[str, Any]:
    """The line of a cell."""
    name, kind, seed = cell.split("/")
    subject = name.split("-")[0]
    rope = ModelRope.read(model).original()
    target = 2048 if subject == "tiny" else 8192
    found: dict[str, Any] = {
        "key": cell,
        "weights": hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest(),
        "machine": machine.facts(),
    }
    if cell == "tiny-0/evolution/0":
        known = json.loads(QUALITY.read_text(encoding="utf-8"))["runs"][0]
        scaling = longrope(rope, target, factors=known["factors"])
        found |= {"forwards": known["evaluations"], "gradients": 0, "from": QUALITY.name}
        rule = None
    else:
        result, took = search(model, cell, work)
        ours = next(each for each in result.rules if each.name == FOUND)
        scaling = longrope(rope, target, factors=ours.factors, attention_factor=ours.attention_factor)
        gradients = int(result.data["tokens_differentiated"]) // target
        forwards = result.evaluations - gradients + (int(result.data["screened"]) if kind == "gradient" else 0)
        others = [each for each in result.rules if each.name not in (FOUND, SEED) and None not in each.search_nll]
        rule = min(others, key=lambda each: float(np.mean([nll for nll in each.search_nll if nll is not None])))
        found |= {
            "forwards": forwards, "gradients": gradients, "digest": result.digest, "search_nll": result.best_nll,
            "split": result.split, "power": result.power, "from": result.best.label, "discarded": result.discarded,
            **took,
        }  # fmt: skip
    found |= {"factors": list(scaling.long_factor), "temperature": scaling.long_attention_factor}
    loaded, _ = tiny_search.load(model)
    samples, tests = unseen(subject, model, int(seed))
    found |= measured(loaded, scaling, samples, tests)
    if rule is not None and kind == "gradient":
        best = longrope(rope, target, factors=rule.factors, attention_factor=rule.attention_factor)
        found["rule"] = {"name": rule.name, "temperature": rule.attention_factor}
        found["rule"] |= measured(loaded, best, samples, tests)
    return found


def cost(model: Path, length: int) -> dict[str, float]:
    """Processor seconds of a forward and of a gradient, side by side, five times."""
    loaded, rope = tiny_search.load(model)
    loaded.requires_grad_(False)
    install_rope(loaded, longrope(rope, 16 * rope.window, factors=[16.0] * rope.pairs))
    rng = np.random.default_rng(0)
    sample = Sample(tuple(int(token) for token in rng.integers(3, loaded.config.vocab_size, length)), (length - 1,))
    times: dict[str, list[float]] = {"forward": [], "gradient": []}
    for turn in range(6):
        for name, evaluate in (("forward", mean_nll), ("gradient", nll_gradient)):
            began = time.process_time()
            evaluate(loaded, sample)
            if turn:
                times[name].append(time.process_time() - began)
    ratios = np.array(times["gradient"]) / np.array(times["forward"])
    return {
        "length": length,
        "forward_seconds": float(np.median(times["forward"])),
        "ratio": round(float(np.median(ratios)), 2),
        "least": round(float(ratios.min()), 2),
        "most": round(float(ratios.max()), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="SUBJECT=FOLDER")
    parser.add_argument("--work", type=Path, help="folder for the searches")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--part", default="0/1", help="K/N: every N-th missing cell from the K-th on, for N processes")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--cost", nargs=2, metavar=("MODEL", "LENGTH"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.cost:
        print(json.dumps(cost(Path(arguments.cost[0]), int(arguments.cost[1]))))
        return 0
    models = {name: Path(folder) for name, _, folder in (each.partition("=") for each in arguments.models)}
    every = cells(list(models))
    if arguments.list:
        print("\n".join(cell for cell in every if cell not in Store(arguments.results)))
        return 0
    part, parts = map(int, arguments.part.split("/"))
    arguments.work.mkdir(parents=True, exist_ok=True)
    for cell in every[part::parts]:
        if cell not in Store(arguments.results):
            made = line(cell, models[cell.split("/")[0]], arguments.work)
            Store(arguments.results).add(made)
            print(time.strftime("%H:%M:%S"), cell, f"{np.mean(made['nll']):.4f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
