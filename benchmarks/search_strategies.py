"""Which search finds better factors, and at what cost? ``search_strategies.py SUBJECT=MODEL... --work FOLDER``.

A cell is ``SUBJECT/KIND/SEED``: a model, a kind of search, and the seed of its samples. Subjects are ``tiny-N`` (the
tiny retrieval model of pre-training seed N, 128 to 2,048 words) and ``demo-N`` (the demo model, 512 to 8,192 tokens).
Every cell is a run of ``lr2eval search``, and one line of ``results/search_strategies.jsonl`` when it ends; the same
command goes on where it was stopped. ``--list`` names the cells that are missing, in the order in which they would run.
``--write PAGE`` puts the tables into a page, between ``<!-- searches NAME -->`` and ``<!-- end -->``.

* ``gradient``: ``--strategy gradient`` with its defaults, on every subject.
* ``evolution``: the published search. Tiny models: its published size at the theoretical split (1,408 candidates, 10
  samples). Demo: a small one of at most 720 evaluations, with racing.
* ``evolution-temperature``: the same with the attention temperature as a gene.

All kinds of a subject and seed are scored on the same 48 unseen samples and the same questions at the target length.
They chose nothing. ``rule`` is the best rule at its best temperature: of the three best rules of the gradient search's
screening and nine temperatures, the pair with the lowest loss on 24 samples of their own (demo: of the six pairs that
were best on eight of these).

The cost is in samples of the target length: 1 for a forward, ``GRADIENT`` for a forward with its gradient
(``search_cost.py gradient``).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
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
from reproduction.intervals import pooled
from reproduction.measure import Test, answered
from reproduction.store import Store, pack, unpack
from reproduction.tiny import question

from lr2eval.method.rope.rules import longrope, with_attention
from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.rope.source import ModelRope
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search.needles import Sample
from lr2eval.method.search.perplexity import mean_nll
from lr2eval.record.search import FOUND, SEED, RuleFacts, SearchResult
from lr2eval.stats.scores import t_interval

RESULTS = Path(__file__).parent / "results" / "search_strategies.jsonl"
QUALITY = RESULTS.with_name("search_quality.json")
METHOD = Path(__file__).parents[1] / "method"
GRADIENT = 4.5
"""Forwards that a gradient costs: not less than ``search_cost.py gradient`` measured."""
UNSEEN, UNSEEN_SEED, QUESTION_SEED = 48, 70_000, 90_000
TEMPERATURES = "temperatures=[0.5,1.5]"
SEEDS = {"tiny": {"gradient": (0, 1, 2), "evolution-temperature": (0, 1, 2), "evolution": (1,)},
         "demo": {"gradient": (0,), "evolution-temperature": (0,), "evolution": (0,)}}  # fmt: skip
"""Seeds of the samples. The published search of tiny-0, seed 0, is that of ``search_quality.json``."""
CHOICE_SEED, CHOICES = 10_000, {"tiny": (24,), "demo": (8, 24)}
"""Samples that choose rule and temperature: all pairs are scored on the first number, the best ``LEFT`` on the next."""
LEFT = 6
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


def unseen(subject: str, model: Path, seed: int, samples: int = UNSEEN) -> tuple[list[Sample], dict[str, list[Test]]]:
    """Samples and questions that no search has used; the same for every kind."""
    count = DOCUMENTS[subject]
    if subject == "tiny":
        rng = np.random.default_rng([QUESTION_SEED, seed])
        tests = [question(tiny_language.recall(rng, 2048, 48, 12, at_end=True), at_end=True) for _ in range(count)]
        return tiny_search.samples(tiny_search.settings(UNSEEN_SEED + seed), (samples,)), {"many": tests}
    demo = Demo(Design.read("demo").own, model)
    tasks = {
        task: [demo._test(QUESTION_SEED + seed, task, 8192, number, count) for number in range(count)]
        for task in ("single_1", "multikey_1")
    }
    return demo.samples(UNSEEN_SEED + seed, samples), tasks


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
        rules = []
    else:
        result, took = search(model, cell, work)
        ours = next(each for each in result.rules if each.name == FOUND)
        scaling = longrope(rope, target, factors=ours.factors, attention_factor=ours.attention_factor)
        gradients = int(result.data["tokens_differentiated"]) // target
        forwards = result.evaluations - gradients + (int(result.data["screened"]) if kind == "gradient" else 0)
        rules = [each for each in result.rules if each.name not in (FOUND, SEED) and each.search_nll]
        found |= {
            "forwards": forwards, "gradients": gradients, "digest": result.digest, "search_nll": result.best_nll,
            "split": result.split, "power": result.power, "from": result.best.label, "discarded": result.discarded,
            **took,
        }  # fmt: skip
    found |= {"factors": list(scaling.long_factor), "temperature": scaling.long_attention_factor}
    loaded, _ = tiny_search.load(model)
    samples, tests = unseen(subject, model, int(seed))
    found |= measured(loaded, scaling, samples, tests)
    if kind == "gradient":
        name, best = best_rule(subject, model, loaded, rules, int(seed))
        found["rule"] = {"name": name, "temperature": best.long_attention_factor}
        found["rule"] |= measured(loaded, best, samples, tests)
    return found


def best_rule(subject: str, folder: Path, model: Any, rules: Sequence[RuleFacts], seed: int) -> tuple[str, RopeScaling]:
    """Of the three best rules and nine temperatures, the pair with the lowest loss on samples that chose nothing else
    and are not among the unseen ones."""
    rope = ModelRope.read(folder).original()
    target = 2048 if subject == "tiny" else 8192
    mean = {each.name: float(np.mean([nll for nll in each.search_nll if nll is not None])) for each in rules}
    best = sorted({name.partition("@")[0] for name in mean}, key=lambda name: min(
        value for other, value in mean.items() if other.partition("@")[0] == name))[:3]  # fmt: skip
    samples = unseen(subject, folder, CHOICE_SEED + seed, CHOICES[subject][-1])[0]
    factors = {each.name: each.factors for each in rules}
    left = {}
    for name in best:
        for asked in (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, "su", "yarn", 1.4):
            scaling = with_attention(longrope(rope, target, factors=factors[name]), asked)
            left[name, scaling.long_attention_factor] = scaling
    for count in CHOICES[subject]:
        losses: dict[tuple[str, float], float] = {}
        for pair, scaling in left.items():
            install_rope(model, scaling)
            losses[pair] = float(np.mean([mean_nll(model, each) for each in samples[:count]]))
        left = {pair: left[pair] for pair in sorted(losses, key=lambda pair: losses[pair])[:LEFT]}
    pair = min(losses, key=lambda pair: losses[pair])
    return pair[0], left[pair]


def tables(store: Store) -> dict[str, str]:
    """Markdown tables by name: each cell, and the gradient search against the others."""
    lines = [line for key, line in store.lines.items() if key.count("/") == 2]
    rows = []
    for each in sorted(lines, key=lambda line: line["key"]):
        subject, kind, seed = each["key"].split("/")
        right = _right(each)
        spent = each["forwards"] + GRADIENT * each["gradients"]
        nll = np.array(each["nll"])
        low, high = t_interval(nll, 0.95)
        rows.append(
            f"| {subject} | {_called(subject, kind)} | {seed} | {nll.mean():.3f} [{low:.3f}, {high:.3f}] | "
            f"{right:.1f} | {each['temperature']:.2f} | {spent:,.0f} |"
        )
        if "rule" in each:
            rule = each["rule"]
            nll, right = np.array(rule["nll"]), _right(rule)
            low, high = t_interval(nll, 0.95)
            rows.append(
                f"| {subject} | best rule: {rule['name']} | {seed} | {nll.mean():.3f} [{low:.3f}, {high:.3f}] | "
                f"{right:.1f} | {rule['temperature']:.2f} | - |"
            )
    head = "| model | factors | seed | loss, nats | right answers, % | temperature | cost, samples |"
    found = {"cells": "\n".join([head, "|---|---|---|---|---|---|---|", *rows])}
    head = "| gradient minus ... | models | nats | samples | points | answers |"
    rows = []
    for kind in ("evolution", "evolution-temperature", "rule"):
        for subject in ("tiny", "demo"):
            pairs = list(_pairs(store, subject, kind))
            names = sorted({name for name, _, _ in pairs})
            for models in [*([name] for name in names), *([names] if len(names) > 1 else [])]:
                shown = models[0] if len(models) == 1 else f"**{subject}, all**"
                found_ = _differences([pair[1:] for pair in pairs if pair[0] in models])
                rows.append(f"| {_called(subject, kind)} | {shown} | {found_} |")
    return found | {"differences": "\n".join([head, "|---|---|---|---|---|---|", *rows])}


def _called(subject: str, kind: str) -> str:
    """A kind in words. The evolution of the demo models is not in the published size, and it searches q."""
    return NAMES[kind].replace("published", "small") if subject.startswith("demo") else NAMES[kind]


def _right(scores: dict[str, Any]) -> float:
    """Per cent of right answers, the mean of the tasks."""
    return 100 * float(np.mean([packed["right"] / packed["asked"] for packed in scores["answers"].values()]))


NAMES = {"gradient": "gradient", "evolution": "published evolution", "evolution-temperature":
         "published evolution with temperature", "rule": "best rule at its best temperature"}  # fmt: skip


def _pairs(store: Store, subject: str, kind: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each gradient search with another kind of the same model and samples: ``(model, gradient, other)``."""
    for key, line in store.lines.items():
        name, found, seed = key.split("/") if key.count("/") == 2 else ("", "", "")
        if found == "gradient" and name.startswith(subject):
            other = line.get("rule") if kind == "rule" else store.lines.get(f"{name}/{kind}/{seed}")
            if other:
                yield name, line, other


def _differences(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Of several cells as one set: paired differences of losses by sample and of right answers by document."""
    nats = [one - other for ours, theirs in pairs for one, other in zip(ours["nll"], theirs["nll"], strict=True)]
    low, high = t_interval(nats, 0.95)
    parts = []
    for ours, theirs in pairs:
        for task, packed in ours["answers"].items():
            right, other = unpack(packed), unpack(theirs["answers"][task])
            each = len(right) // DOCUMENTS["tiny" if task == "many" else "demo"]
            parts.append((right, other, np.arange(len(right)) // each))
    points = pooled(parts, 0.95)
    shown = f"{100 * points.mean:+.1f} [{100 * points.low:+.1f}, {100 * points.high:+.1f}]"
    return f"{np.mean(nats):+.3f} [{low:+.3f}, {high:+.3f}] | {len(nats)} | {shown} | {points.n}"


def filled(page: str, found: dict[str, str]) -> str:
    """The page with its tables."""
    place = re.compile(r"(<!-- searches (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
    return place.sub(lambda match: f"{match[1]}\n{found[match[2]]}\n{match[3]}", page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="SUBJECT=FOLDER")
    parser.add_argument("--work", type=Path, help="folder for the searches")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--part", default="0/1", help="K/N: every N-th missing cell from the K-th on, for N processes")
    parser.add_argument("--cell", action="append", help="SUBJECT/KIND/SEED: only this one; may be repeated")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        arguments.write.write_text(filled(page, tables(Store(arguments.results))), encoding="utf-8")
        return 0
    models = {name: Path(folder) for name, _, folder in (each.partition("=") for each in arguments.models)}
    every = cells(list(models))
    if arguments.list:
        print("\n".join(cell for cell in every if cell not in Store(arguments.results)))
        return 0
    part, parts = map(int, arguments.part.split("/"))
    arguments.work.mkdir(parents=True, exist_ok=True)
    for cell in every[part::parts]:
        if cell in (arguments.cell or every) and cell not in Store(arguments.results):
            made = line(cell, models[cell.split("/")[0]], arguments.work)
            Store(arguments.results).add(made)
            print(time.strftime("%H:%M:%S"), cell, f"{np.mean(made['nll']):.4f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
