"""Stage 3 of ``day.py``: SmolLM2-135M from 8k to 32k tokens. Does the method do on a GPU what it promises?

One after the other: the rules at one temperature, a search, the found factors, training on mixed windows, the same
tests again, MMLU before and after. What a later check needs and an earlier one did not leave is named as missing.

``--prepare`` makes the model, the data and the training rows without a GPU; ``day.py`` runs it beside the stages
before this one. A rehearsal takes the built-in demo model from 512 to 2,048 tokens.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import sys
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from checks import Check, NotHereError, Stage, main

import lr2eval
from lr2eval.backends.loading import load_model
from lr2eval.base.files import write_json
from lr2eval.method.data.config import MixtureConfig
from lr2eval.method.data.mixing import prepare_mixture
from lr2eval.method.rope.files import read_factors
from lr2eval.method.rope.scaling import default_attention_factor
from lr2eval.method.search.journal import Trial
from lr2eval.method.search.perplexity import ModelExecutor
from lr2eval.method.search.result import difference
from lr2eval.model import names
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.workflows.search import search_samples

RULES = ("pi", "ntk", "yarn", "longrope2")


@dataclass(frozen=True)
class Setup:
    """What is evaluated and trained. Lengths are tokens."""

    model: str
    recipe: str
    window: int
    target: int
    tasks: str
    lengths: tuple[int, ...]
    samples: int
    knowledge: str
    """What training on long rows may cost: a benchmark of short prompts."""
    limit: int
    dtype: str
    batch_rows: int
    """Rows of a training step."""
    steps: tuple[int, int]
    """Least and most training steps."""
    searched: int
    """New candidates in each round of a search."""


REAL = Setup("smollm2-135m", "smollm2-135m-32k", 8192, 32768,
             "ruler:niah_single_1,ruler:niah_single_2,ruler:niah_multikey_1", (8192, 16384, 32768), 8, "mmlu", 4,
             "bfloat16", 8, (4, 12), 12)  # fmt: skip
TINY = Setup("demo", "demo-8k", 512, 2048, "ruler:niah_single_1", (512, 2048), 2, "facts", 10, "float32", 2, (2, 2), 3)


def setup(stage: Stage) -> Setup:
    return TINY if stage.rehearse else REAL


def prepare(home: Path, work: Path, rehearse: bool) -> None:
    """The model as safetensors, evaluation data unpacked, training rows. Everything that is there is kept.

    The books are for training and searching only: no benchmark here is made of them.
    """
    made = TINY if rehearse else REAL
    table: dict[str, Any] = {
        "original_window": made.window, "target_window": made.target, "repeat": True,
        "tokens": made.steps[1] * made.batch_rows * made.target,
    }  # fmt: skip
    if rehearse:
        source = work / "documents.jsonl"
        shipped = lzma.decompress((names.BUILT_IN.parent / "demo-extend.jsonl.xz").read_bytes()).splitlines(True)
        source.write_bytes(b"".join(shipped[:20] + shipped[-20:]))  # long ones, short ones
        table |= {"sources": [{"name": "demo", "path": str(source), "tokenised": True}]}
        table |= {"buckets": [{"up_to": made.window, "share": 0.5}, {"share": 0.5}]}
    else:
        names.fetch(made.model, source=home / "smollm2-135m.gguf")
        if not (home / "data" / "books").exists():
            with tarfile.open(home / "data.tar.xz") as archive:
                archive.extractall(home, filter="data")
        short, *long = sorted((home / "data" / "books").glob("*.txt"), key=lambda path: -path.stat().st_size)
        table["sources"] = [
            {"name": "paragraphs", "path": str(short), "documents": "paragraphs"},
            {"name": "books", "path": [str(path) for path in long]},
        ]
    tokenizer = PromptTokenizer.load(names.locate(made.model))
    rows = prepare_mixture(
        MixtureConfig(**table), tokenizer, work / "rows", workers=min(8, os.cpu_count() or 1), say=print
    )
    print(f"prepared: {made.model}, {len(rows)} training rows of {rows.target_window:,} tokens")


def prepared(stage: Stage) -> str:
    """What ``prepare`` left."""
    made = setup(stage)
    folder = names.locate(made.model)
    rows = json.loads((stage.work / "rows" / "manifest.json").read_text())["segments"]
    stage.shared["original"] = folder
    return f"{made.model} and {rows['total']} training rows ({rows['long']} long) are there"


def _model(stage: Stage, name: str) -> Path:
    if name not in stage.shared:
        raise NotHereError(f"an earlier check left no model {name!r}")
    found: Path = stage.shared[name]
    return found


def run(stage: Stage, name: str, tasks: str, lengths: tuple[int, ...] | None) -> lr2eval.RunOutcome:
    """Evaluate one of the models. The data of a length is made once and read again."""
    made = setup(stage)
    out = stage.work / "runs" / f"{name}-{tasks.partition(':')[0]}"
    return lr2eval.run(
        lr2eval.RunConfig(
            model=_model(stage, name), tasks=tasks, lengths=lengths, samples_per_task=made.samples, limit=made.limit,
            batch_size=made.samples if lengths else "auto", dtype=made.dtype, device=stage.device, beyond_window=True,
            out=out, offline=True, data_dir=None if stage.rehearse else stage.home / "data",
        )
    )  # fmt: skip


def retrieval(stage: Stage, name: str) -> tuple[str, dict[str, Any]]:
    """RULER's retrieval tasks inside the window and beyond it."""
    made = setup(stage)
    done = run(stage, name, made.tasks, made.lengths)
    means = {each.length: each for each in done.results.summaries if each.length}
    tasks = {f"{each.task}@{each.length}": each.score for each in done.results.shards}
    said = ", ".join(
        f"{length // 1024 or length / 1024}k {each.score:.0f} [{each.interval.low:.0f}, {each.interval.high:.0f}]"
        for length, each in sorted(means.items())
    )
    samples = next(iter(means.values())).n
    return f"RULER, percent with 95 % interval (n={samples} a length): {said}", {"tasks": tasks}


def rule(stage: Stage, name: str) -> tuple[str, dict[str, Any]]:
    """A rule's factors at the temperature that all of them get, exported and evaluated."""
    made = setup(stage)
    original = lr2eval.read_rope(stage.shared["original"])
    scaling = lr2eval.rope_rules()[name].make(original, made.target)
    factors = stage.work / f"{name}.json"
    write_json(factors, scaling.to_json())
    stage.shared[name] = export(stage, name, factors)
    return retrieval(stage, name)


def export(stage: Stage, name: str, factors: Path) -> Path:
    out = stage.work / "exported" / name
    heat = temperature(setup(stage))
    return lr2eval.export(stage.shared["original"], factors, out, attention_factor=heat).folder


def temperature(made: Setup) -> float:
    """The one that all factors get."""
    return default_attention_factor(made.target / made.window, made.window)


def search(stage: Stage) -> tuple[str, dict[str, Any]]:
    """As many rounds as fit into 30 seconds."""
    made, samples, rounds = setup(stage), 2, 1
    if not stage.rehearse:
        samples = 4
        rounds = max(1, min(10, int(30 / forward_seconds(stage) / (samples * made.searched)) - 3))
    text: dict[str, Any] = {"haystack": str(stage.home / "data" / "books" / "les_miserables.txt")}
    if stage.rehearse:
        wording = names.BUILT_IN.parent / "demo-extend-wording.json"
        text = {"haystack": "demo-filler", "repeat": True, "wording": wording}
    config = lr2eval.SearchConfig(
        model=str(stage.shared["original"]), target_length=made.target, samples=samples, held_out=2 * samples,
        iterations=rounds, initial=2 * made.searched, population=made.searched, parents=made.searched // 2,
        mutations=made.searched // 2, crossovers=made.searched - made.searched // 2, depths="grid", dtype=made.dtype,
        splits=(lr2eval.read_rope(stage.shared["original"]).d_tcd,), device=stage.device, out=stage.work / "search",
        **text,
    )  # fmt: skip
    result = (done := lr2eval.search(config)).result
    stage.shared |= {"factors": done.factors, "config": config}
    stage.shared["searched"] = export(stage, "searched", done.factors)
    best, begin = (next(each for each in result.rules if each.name == name) for name in ("searched", "seed"))
    return (
        f"{result.evaluations} evaluations in {rounds} rounds; perplexity on the {samples} samples of the search "
        f"{begin.search_perplexity:.4g} at the start, {best.search_perplexity:.4g} at the end",
        {"evaluations": result.evaluations, "rounds": rounds},
    )


def needles(stage: Stage) -> tuple[str, dict[str, Any]]:
    """All factors at one temperature on needle samples that no search saw, paired by sample."""
    made, config = setup(stage), stage.shared.get("config")
    if config is None:
        raise NotHereError("there was no search")
    checkpoint = Checkpoint.open(stage.shared["original"])
    held_out = search_samples(config, PromptTokenizer.load(checkpoint.folder))[0][config.samples :]
    scalings = {name: found.make(lr2eval.read_rope(checkpoint.folder), made.target)
                for name, found in lr2eval.rope_rules().items() if not any(found.settings.values())}  # fmt: skip
    scalings["searched"] = read_factors(stage.shared["factors"]).scaling
    heat = temperature(made)
    executor = ModelExecutor(load_model(checkpoint, made.dtype, stage.device, False), held_out)
    jobs = [Trial(replace(scaling, long_attention_factor=heat, short_attention_factor=heat), number)
            for scaling in scalings.values() for number in range(len(held_out))]  # fmt: skip
    losses = [found.nll for found in executor.run(jobs)]
    size = len(held_out)
    nlls = {name: losses[at * size : (at + 1) * size] for at, name in enumerate(scalings)}
    parts = []
    for name, values in sorted(nlls.items(), key=lambda pair: sum(pair[1])):
        gap = difference(values, nlls["searched"])
        more = "" if name == "searched" or gap is None else f" ({gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}])"
        parts.append(f"{name} {sum(values) / size:.3f}{more}")
    said = f"loss in nats (minus the searched factors' [95 %]), n={size}, temperature {heat:.4f}: {', '.join(parts)}"
    return said, {"nll": nlls, "temperature": heat}


def forward_seconds(stage: Stage) -> float:
    """One forward over the target length, as the search does it; the second one counts."""
    from transformers import AutoModelForCausalLM

    made = setup(stage)
    model = AutoModelForCausalLM.from_pretrained(stage.shared["original"], dtype=getattr(torch, made.dtype))
    model = model.eval().to(stage.device)
    ids = torch.randint(100, 1000, (1, made.target), device=stage.device)
    with torch.inference_mode():
        return [
            stage.timed(lambda: model(input_ids=ids, use_cache=False, logits_to_keep=1))[0] for _ in range(3)
        ][-1]  # fmt: skip


def training(stage: Stage) -> tuple[str, dict[str, Any]]:
    """A minute of mixed windows under the searched factors: a step must not make the loss worse than it began."""
    made = setup(stage)
    factors = stage.shared.get("factors")
    if factors is None:
        raise NotHereError("the search left no factors")
    least, most = made.steps
    steps = most
    if not stage.rehearse:
        # Forward, recomputed forward, and a backward of two forwards.
        steps = max(least, min(most, int(50 / (4 * made.batch_rows * forward_seconds(stage)))))
    changes: dict[str, Any] = {"original_window": made.window, "target_window": made.target, "steps": steps,
                               "global_batch": made.batch_rows, "optimizer.warmup_steps": 1, "evaluation.every": 0,
                               "evaluation.needles": 0, "saving.every": 0, "dtype": made.dtype}  # fmt: skip
    tried = []
    for attention in ["sdpa"] if stage.rehearse else ["flex_attention", "sdpa"]:
        recipe = lr2eval.read_recipe(made.recipe, changes | {"attention": attention})
        try:
            trained = lr2eval.train(
                lr2eval.TrainConfig(
                    recipe=recipe, model=str(stage.shared["original"]), factors=factors, data=stage.work / "rows",
                    out=stage.work / f"training-{attention}", device=stage.device, offline=True,
                )
            )  # fmt: skip
            break
        except Exception as error:  # stage 2 says what is wrong with it; here the training is wanted
            if attention == "sdpa":
                raise
            tried.append(f"{attention} failed ({type(error).__name__}); ")
    stage.shared["trained"] = trained.model
    result = trained.result
    said = (
        f"{''.join(tried)}{attention}: {result.steps} steps, {result.tokens:,} tokens, "
        f"{result.tokens / result.seconds:,.0f} tokens/s; loss {result.loss_first:.3f} to {result.loss_last:.3f}"
    )
    assert result.loss_last < result.loss_first + 0.5, said
    return said, {"tokens_per_second": result.tokens / result.seconds}


def knowledge(stage: Stage) -> tuple[str, dict[str, Any]]:
    """Short prompts before and after: the same questions, paired."""
    made = setup(stage)
    before, after = (run(stage, name, made.knowledge, None).folder for name in ("original", "trained"))
    done = lr2eval.compare([before, after], out=stage.work / "compared")
    row = next(each for each in done.comparison.pairs[0].differences if each.level == "benchmark")
    said = (
        f"{made.knowledge}, n={row.n}: {row.original:.1f} before, {row.extended:.1f} after, difference "
        f"{row.difference:+.1f} [{row.interval.low:+.1f}, {row.interval.high:+.1f}] points"
    )
    return said, {"n": row.n, "before": row.original, "after": row.extended}


def _named(name: str) -> Any:
    return lambda stage: (rule if name in RULES else retrieval)(stage, name)


CHECKS = [
    Check("model and data are prepared", prepared, 1),
    Check("retrieval, original", _named("original"), 25, measures=True),
    Check("retrieval, rule yarn", _named("yarn"), 15, measures=True),
    Check("retrieval, rule ntk", _named("ntk"), 15, measures=True),
    Check("search", search, 40, measures=True),
    Check("needles, all factors at one temperature", needles, 20, measures=True),
    Check("retrieval, searched factors", _named("searched"), 15, measures=True),
    Check("mixed-window training", training, 65),
    Check("retrieval, trained", _named("trained"), 15, measures=True),
    Check("short prompts, before and after", knowledge, 15, measures=True),
    Check("retrieval, rule longrope2", _named("longrope2"), 15, measures=True),
    Check("retrieval, rule pi", _named("pi"), 15, measures=True),
]


def entry() -> int:
    if "--prepare" not in sys.argv:
        return main(CHECKS)
    parser = argparse.ArgumentParser()
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    arguments = parser.parse_args()
    prepare(arguments.home, arguments.work, arguments.rehearse)
    return 0


if __name__ == "__main__":
    sys.exit(entry())
