"""What a search costs: memory and tokens per candidate, racing against full evaluation, and the published size.

``search_cost.py memory|racing|time|gradient [--work FOLDER]``; each part prints one JSON object and writes
``benchmarks/results/search_cost_PART.json``.

* ``memory``: peak resident memory of one evaluation above that of the loaded model, ours against a plain implementation
  that computes all logits; a random Llama with a vocabulary of 49,152, each variant in a process of its own.
* ``racing``: the same thinned search with and without racing, several seeds: tokens read, and needle perplexity of the
  best factors on held-out samples. Journalled in ``--work``.
* ``time``: processor seconds of one evaluation of the tiny model at 16x on one thread, and what a search of published
  size comes to. Processor seconds, as a machine that is used by others tells nothing by its wall clock.
* ``gradient``: a gradient in the factors beside a plain forward. Processor seconds on the tiny model and the demo, in
  turn, five times each; peak memory as in ``memory``, of 12 layers, with and without activation checkpointing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import machine
import tiny_search

from lr2eval.method.rope.rules import yarn
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search import perplexity
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.search.journal import Journal, Trial
from lr2eval.method.search.needles import Sample
from lr2eval.method.search.perplexity import ModelExecutor, mean_nll, nll_gradient
from lr2eval.method.search.run import JournalScorer, search
from lr2eval.method.search.space import Space
from lr2eval.model.names import locate

RESULTS = Path(__file__).parent / "results"
VOCABULARY, TOKENS, ANSWER = 49_152, 8_192, 7
SAMPLES, HELD_OUT, SPLIT = 8, 24, 14
PUBLISHED = SearchConfig(model="m", target_length=tiny_search.TARGET)
PUBLISHED_RACE = PUBLISHED.model_copy(update={"race": True})
SIZES = {"population": 24, "initial": 32, "iterations": 8, "parents": 12, "mutations": 6, "crossovers": 6}
THIN = PUBLISHED.model_copy(update=SIZES | {"samples": SAMPLES})


def evaluate(variant: str, layers: int) -> dict[str, float]:
    """In this process: load, note the memory, score once, note the peak (MiB)."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=TOKENS,
    )
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    install_rope(model, yarn(OriginalRope(10_000.0, 64, TOKENS // 16), TOKENS))
    ids = torch.randint(0, VOCABULARY, (TOKENS,), generator=torch.Generator().manual_seed(1)).tolist()
    sample = Sample(tuple(ids), tuple(range(TOKENS - ANSWER, TOKENS)))
    mean_nll(model, Sample(tuple(ids[:64]), (63,)))
    before = _peak()
    if variant == "ours":
        nll = mean_nll(model, sample)
    elif variant.startswith("gradient"):
        if variant == "gradient without checkpointing":
            perplexity.GradientCheckpointingLayer = int  # no layer is one
        nll, _ = nll_gradient(model, sample)
    else:
        with torch.inference_mode():
            labels = torch.full((1, TOKENS), -100)
            labels[0, -ANSWER:] = torch.tensor(ids[-ANSWER:])
            nll = float(model(input_ids=torch.tensor([ids]), labels=labels, use_cache=False).loss)
    return {"nll": nll, "peak_mib_above_model": round(_peak() - before, 1)}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peaks(variants: Sequence[str], layers: int) -> dict[str, dict[str, float]]:
    """:func:`evaluate` for each, in a process of its own."""
    found = {}
    own = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}  # else the peak is that of glibc's heap
    for variant in variants:
        command = [sys.executable, __file__, "evaluate", "--variant", variant, "--layers", str(layers)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=own)
        found[variant] = json.loads(done.stdout.splitlines()[-1])
    return found


def gradient() -> dict[str, Any]:
    """Seconds and memory of a gradient beside those of a forward."""
    found: dict[str, Any] = {"seconds": []}
    for folder, length in ((tiny_search.ASSET, 2048), (locate("demo"), 8192)):
        model, rope = tiny_search.load(folder)
        install_rope(model.requires_grad_(False), yarn(rope, length))
        ids = np.random.default_rng(0).integers(3, model.config.vocab_size, length)
        sample = Sample(tuple(map(int, ids)), (length - 1,))
        times: dict[str, list[float]] = {"forward": [], "gradient": []}
        for turn in range(6):
            for name, run in (("forward", mean_nll), ("gradient", nll_gradient)):
                began = time.process_time()
                run(model, sample)
                if turn:
                    times[name].append(time.process_time() - began)
        ratios = np.array(times["gradient"]) / np.array(times["forward"])
        least, middle, most = (round(float(np.quantile(ratios, share)), 2) for share in (0, 0.5, 1))
        seconds = round(float(np.median(times["forward"])), 3)
        found["seconds"].append(
            {"model": folder.name, "tokens": length, "forward": seconds, "ratio": middle, "least": least, "most": most}
        )
    variants = ("ours", "gradient", "gradient without checkpointing")
    return found | {"memory": {"layers": 12, "tokens": TOKENS, **peaks(variants, 12)}}


def memory() -> dict[str, Any]:
    """Ours and the plain way."""
    found = peaks(("ours", "plain"), 2)
    ours, plain = (found[name]["peak_mib_above_model"] for name in ("ours", "plain"))
    return {
        "tokens": TOKENS,
        "vocabulary": VOCABULARY,
        "scored_tokens": ANSWER,
        **found,
        "plain_over_ours": round(plain / ours, 1),
        "nll_difference": abs(found["ours"]["nll"] - found["plain"]["nll"]),
    }


def racing(work: Path, seeds: int) -> dict[str, Any]:
    """Full evaluation and racing from the same seed."""
    runs = []
    model, rope = tiny_search.load()
    space = Space(rope, tiny_search.TARGET, SPLIT)
    for seed in range(seeds):
        executor = ModelExecutor(model, tiny_search.samples(tiny_search.settings(seed), (SAMPLES, HELD_OUT)))
        (work / str(seed)).mkdir(parents=True, exist_ok=True)
        found: dict[str, Any] = {"seed": seed}
        with Journal.open(work / str(seed)) as journal:
            scorer = JournalScorer(executor, journal)
            for name, race in (("full", False), ("racing", True)):
                config = THIN.model_copy(update={"seed": seed, "race": race})
                (done,) = search([space], config, executor, journal)
                (nlls,) = scorer.nlls([done.scaling], range(SAMPLES, SAMPLES + HELD_OUT))
                evaluations = sum(each.evaluations for each in done.rounds)
                found[name] = {
                    "tokens": evaluations * tiny_search.TARGET,
                    "search_nll": done.best_nll,
                    "held_out_nll": float(np.mean(nlls)),
                    "held_out_nlls": nlls,
                }
        difference = np.array(found["racing"].pop("held_out_nlls")) - np.array(found["full"].pop("held_out_nlls"))
        found["racing_minus_full"] = float(difference.mean())
        found["standard_error"] = float(difference.std(ddof=1) / len(difference) ** 0.5)
        found["times_fewer_tokens"] = round(found["full"]["tokens"] / found["racing"]["tokens"], 2)
        runs.append(found)
    return {
        "settings": SIZES | {"samples": SAMPLES, "held_out": HELD_OUT, "split": SPLIT},
        "racing": {"rungs": THIN.race_rungs, "keep": THIN.race_keep},
        "runs": runs,
        "evaluations_at_published_size": {
            "full": PUBLISHED.split_cost(),
            "racing": PUBLISHED_RACE.split_cost(),
        },
    }


def duration() -> dict[str, Any]:
    """One thread; the published size has 1408 candidates on 10 samples each."""
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        model, rope = tiny_search.load(dtype=dtype)
        samples = tiny_search.samples(tiny_search.settings(0), (10,))
        space = Space(rope, tiny_search.TARGET, SPLIT)
        jobs = [Trial(space.scaling(seed), i % 10) for i, seed in enumerate(space.seeds() * 5)]
        executor = ModelExecutor(model, samples)
        list(executor.run(jobs[:3]))
        began = time.process_time()
        list(executor.run(jobs))
        each = (time.process_time() - began) / len(jobs)
        found[str(dtype).removeprefix("torch.")] = {
            "processor_seconds_per_evaluation": round(each, 4),
            "n": len(jobs),
            "processor_minutes_per_split_full": round(PUBLISHED.split_cost() * each / 60, 1),
            "processor_minutes_per_split_racing": round(PUBLISHED_RACE.split_cost() * each / 60, 1),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("memory", "racing", "time", "gradient", "evaluate"))
    parser.add_argument("--layers", type=int, default=2, help=argparse.SUPPRESS)
    parser.add_argument("--variant", default="ours", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, default=Path("runs/search-cost"))
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.part == "evaluate":
        print(json.dumps(evaluate(arguments.variant, arguments.layers)))
        return
    parts = {"memory": memory, "time": duration, "gradient": gradient}
    found = racing(arguments.work, arguments.seeds) if arguments.part == "racing" else parts[arguments.part]()
    text = json.dumps({"machine": machine.facts(), **found}, indent=1)
    print(text)
    (RESULTS / f"search_cost_{arguments.part}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
