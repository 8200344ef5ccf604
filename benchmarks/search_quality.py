"""Does a search on the tiny retrieval model end below the rules, on samples it has not seen?

``search_quality.py MODEL... --work FOLDER``: for each checkpoint (the first with seed 0, the next with seed 1, ...)
searches at 16x its window, then scores rules, seeds and searched factors on held-out samples. Prints one JSON object:
mean negative log-likelihood of each, and the paired difference to the search with its 95 % t interval. YaRN at 1.5 s
is a control: over-scaling alone closes a part of the gap. The settings are thinner than the published ones, so that
the whole takes minutes; every evaluation is journalled in FOLDER, so that it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent))
import machine
import tiny_search

from lr2eval._ids import digest
from lr2eval.method import rope_rules
from lr2eval.method.executors import InProcess
from lr2eval.method.perplexity import perplexity
from lr2eval.method.rope import OriginalRope, RopeScaling
from lr2eval.method.search import SearchSettings
from lr2eval.method.search_journal import Journal
from lr2eval.method.search_run import Plan, Racing, Scorer, search
from lr2eval.method.search_space import Space

TARGET = tiny_search.TARGET
SPLITS = (12, 14)
SETTINGS = SearchSettings(population=32, initial=48, iterations=10, parents=12, mutations=8, crossovers=8)
SAMPLES, HELD_OUT = 8, (24, 24)  # two grids of depths
RACING = Racing(rungs=(1, 3), keep=1 / 3)
VARIANTS: Mapping[str, dict[str, Any]] = {
    "searched": {},
    "searched, left power too": {"powers": (0.5, 3.0)},
    "random search": {"random": True},
}


def rules(rope: OriginalRope) -> dict[str, RopeScaling]:
    """What a search has to beat, and the controls."""
    control = replace(rope_rules.yarn(rope, TARGET * 3 // 2), target_window=TARGET)
    return {
        "none": rope_rules.none(rope, TARGET),
        "pi": rope_rules.pi(rope, TARGET),
        "ntk-aware": rope_rules.ntk_aware(rope, TARGET),
        "ntk": rope_rules.ntk(rope, TARGET),
        "yarn": rope_rules.yarn(rope, TARGET),
        "longrope2, unsearched": rope_rules.longrope2(rope, TARGET),
        "control: yarn at 1.5 s": control,
    }


def one(folder: Path, seed: int, work: Path, variants: Sequence[str]) -> dict[str, Any]:
    """One model, one seed."""
    model, rope = tiny_search.load(folder)
    samples = tiny_search.samples(tiny_search.settings(seed), (SAMPLES, *HELD_OUT))
    executor = InProcess(model, samples)
    # A journal knows samples by their numbers, so other samples or weights need another one.
    weights = (folder / "model.safetensors").read_bytes()
    identity = digest([hashlib.sha256(weights).hexdigest(), [sample.sha256 for sample in samples]])
    work = work / f"{seed}-{identity[:8]}"
    work.mkdir(parents=True, exist_ok=True)
    compared = rules(rope)
    facts: dict[str, Any] = {"seed": seed, "splits": list(SPLITS), "searches": {}}
    with Journal.open(work) as journal:
        scorer = Scorer(executor, journal)
        for name in variants:
            changes = dict(VARIANTS[name])
            plan = Plan(replace(SETTINGS, seed=seed), SAMPLES, RACING, changes.pop("random", False))
            done = search([Space(rope, TARGET, split, **changes) for split in SPLITS], plan, executor, journal)
            best = min(done, key=lambda each: each.best.score)
            compared[name] = best.scaling
            facts["searches"][name] = {
                "split": best.split,
                "power": best.best.candidate.power / 100,
                "search_nll": best.best.score,
                "evaluations": sum(each.evaluations for split in done for each in split.rounds),
                "factors": list(best.scaling.long_factor),
            }
        # Of the unsearched starting vectors the best one on the samples of the search: the hardest to beat.
        spaces = [Space(rope, TARGET, split) for split in SPLITS]
        seeds = [space.scaling(each) for space in spaces for each in space.seeds()]
        scores = scorer.nlls(seeds, range(SAMPLES))
        compared["best unsearched seed"] = min(zip(scores, seeds, strict=True), key=lambda pair: sum(pair[0]))[1]
        held_out = range(SAMPLES, len(samples))
        found = dict(zip(compared, scorer.nlls(list(compared.values()), held_out), strict=True))
    reference = np.array(found["searched"])
    facts["held_out"] = {
        name: {"nll": float(np.mean(nlls)), "perplexity": perplexity(nlls), **_difference(np.array(nlls) - reference)}
        for name, nlls in found.items()
    }
    return facts


def _difference(values: np.ndarray) -> dict[str, float]:
    """Mean difference to the search and its 95 % t interval; above 0: the search is better."""
    if not values.any():
        return {}
    low, high = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    return {"minus_searched": float(values.mean()), "low": float(low), "high": float(high)}


def _over_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same differences over models, each model one observation."""
    if len(runs) < 2:
        return {}
    found = [run["held_out"] for run in runs]
    names = [name for name in found[0] if all("minus_searched" in each.get(name, {}) for each in found)]
    return {name: _difference(np.array([each[name]["minus_searched"] for each in found])) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, required=True, help="folder for the journals")
    parser.add_argument("--variants", default="searched", help="names separated by semicolons, or all")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    variants = list(VARIANTS) if arguments.variants == "all" else arguments.variants.split(";")
    began = time.monotonic()
    runs = [one(folder, seed, arguments.work, variants) for seed, folder in enumerate(arguments.models)]
    facts = {
        "machine": machine.facts(),
        "settings": {"target": TARGET, "samples": SAMPLES, "held_out": HELD_OUT, "splits": SPLITS}
        | {"racing": {"rungs": RACING.rungs, "keep": RACING.keep}}
        | SETTINGS.to_json(),
        "seconds_of_this_call": round(time.monotonic() - began),
        "runs": runs,
        "over_seeds": _over_seeds(runs),
    }
    text = json.dumps(facts, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
