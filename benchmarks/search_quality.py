"""Does a search on the tiny retrieval model end below the rules, on unseen samples? And how long does it take?

``search_quality.py MODEL... --work FOLDER``: for each checkpoint (the first with seed 0, the next with seed 1, ...)
runs ``lr2eval search`` at 16x its window and reads the needle perplexities of rules, unsearched seeds and found factors
on 48 held-out samples from its ``search.json``. Prints one JSON object: mean negative log-likelihood of each, and the
paired difference to the found factors with its 95 % t interval. YaRN at 1.5 s is a control: over-scaling alone closes a
part of the gap. Every evaluation is journalled in FOLDER, so that the same command goes on where it was stopped; wall
and processor seconds are those of the call that did a search from beginning to end, and absent otherwise.

The variants were fixed before they were run on these samples:

* ``published``: the paper's settings (population 64, 40 iterations, 10 samples, no racing) for one split, ``d_tcd``.
* ``sweep``: the same with racing for three splits, ``d_tcd`` - 4, - 2 and ``d_tcd``.
* ``random``: as many candidates as ``published``, drawn at random.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent))
import machine
import tiny_search

from lr2eval.method.rope import rules
from lr2eval.method.search.journal import Journal
from lr2eval.method.search.perplexity import ModelExecutor, perplexity
from lr2eval.method.search.run import JournalScorer
from lr2eval.record.search import SearchResult

TARGET = tiny_search.TARGET
HELD_OUT = 48
CONTROL = "control: yarn at 1.5 s"
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "published": ("--splits", "14"),
    "sweep": ("--splits", "10,12,14", "--race"),
    "random": ("--splits", "14", "--strategy", "random"),
}


def search(model: Path, seed: int, out: Path, variant: str, workers: int) -> tuple[SearchResult, dict[str, float]]:
    """Run the command; its result, and wall and processor seconds if it was not finished or begun before."""
    begun = out.exists()
    settings = ("needles=12", "distractors=36")
    command = [
        sys.executable, "-m", "lr2eval", "search", "--model", str(model), "--target-length", str(TARGET), "--repeat",
        "--haystack", str(tiny_search.ASSET / "haystack.txt"), "--wording", str(tiny_search.ASSET / "wording.json"),
        "--depths", "grid", "--samples", "10", "--held-out", str(HELD_OUT), "--seed", str(seed), "--dtype", "float32",
        "--device", "cpu", "--workers", str(workers), "--offline", "--out", str(out), *VARIANTS[variant],
        *(part for setting in settings for part in ("--set", setting)),
    ]  # fmt: skip
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"{variant}, seed {seed}: the search ended with exit code {done.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = {
        "wall_seconds": round(time.monotonic() - began),
        "processor_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
        "workers": workers,
        "load_average_after": round(os.getloadavg()[0], 1),
    }
    return SearchResult.read(out), {} if begun else took


def control(model: Path, seed: int, out: Path) -> list[float]:
    """YaRN made for 1.5 times the target, on the search's own held-out samples."""
    loaded, rope = tiny_search.load(model)
    settings = tiny_search.settings(seed)
    samples = tiny_search.samples(settings, (10, HELD_OUT))
    scaling = replace(rules.yarn(rope, TARGET * 3 // 2), target_window=TARGET)
    folder = out.with_name(out.name + "-control")
    folder.mkdir(exist_ok=True)
    with Journal.open(folder) as journal:
        scorer = JournalScorer(ModelExecutor(loaded, samples), journal)
        yarn = scorer.nlls([rules.yarn(rope, TARGET)], [10])[0][0]
        known = next(rule for rule in SearchResult.read(out).rules if rule.name == "yarn").held_out_nll[0]
        if known is None or abs(yarn - known) > 1e-4:
            raise SystemExit("the control's samples are not those of the search")
        return scorer.nlls([scaling], range(10, 10 + HELD_OUT))[0]


def one(model: Path, seed: int, work: Path, variant: str, workers: int) -> dict[str, Any]:
    """One model, one seed, one kind of search."""
    out = work / f"{variant}-{seed}"
    result, took = search(model, seed, out, variant, workers)
    found = {rule.name: [np.nan if nll is None else nll for nll in rule.held_out_nll] for rule in result.rules}
    found[CONTROL] = control(model, seed, out)
    reference = np.array(found["searched"])
    return {
        "seed": seed,
        "digest": result.digest,
        "split": result.split,
        "d_rcd": result.d_rcd,
        "search_nll": result.best_nll,
        "evaluations": result.evaluations,
        "given_up": result.given_up,
        **took,
        "factors": result.factors,
        "held_out": {
            name: {"nll": float(np.mean(nlls)), "perplexity": perplexity(nlls)}
            | _difference(np.array(nlls) - reference)
            for name, nlls in found.items()
        },
    }


def _difference(values: np.ndarray) -> dict[str, float]:
    """Mean difference to the found factors and its 95 % t interval; above 0: the search is better."""
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
    parser.add_argument("--work", type=Path, required=True, help="folder for the searches")
    parser.add_argument("--variant", choices=list(VARIANTS), default="published")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    runs = [
        one(folder, seed, arguments.work, arguments.variant, arguments.workers)
        for seed, folder in enumerate(arguments.models)
    ]
    facts = {
        "machine": machine.facts(),
        "variant": arguments.variant,
        "options": " ".join(VARIANTS[arguments.variant]),
        "held_out_samples": HELD_OUT,
        "runs": runs,
        "over_seeds": _over_seeds(runs),
    }
    text = json.dumps(facts, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
