"""``lr2eval train``: mixed-window training of a model on prepared rows, or an estimate of what it will take."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lr2eval._checkpoint import Checkpoint
from lr2eval._config import format_length, read_sets
from lr2eval._errors import CheckpointError, UsageError
from lr2eval._paths import cache_dir
from lr2eval._tables import printed_table, table

if TYPE_CHECKING:
    from lr2eval.method.needles import Sample
    from lr2eval.method.recipe import Recipe
    from lr2eval.method.train_plan import TrainPlan


def load_recipe(source: str, sets: Sequence[str]) -> Recipe:
    """A recipe with ``--set key=value`` over it. Raises :class:`UsageError` naming what is wrong."""
    from lr2eval.method.recipe import read_recipe

    return read_recipe(source, dict(read_sets(sets)))


def train_command(
    recipe: Recipe,
    *,
    model: str | None,
    factors: Path | None,
    data: Path | None,
    held_out: Path | None,
    out: Path | None,
    device: str | None,
    data_dir: Path | None,
    offline: bool,
    dry_run: bool,
    command: Sequence[str],
) -> None:
    """Train and write ``out``; the same command again resumes. With ``dry_run`` only the plan is printed."""
    from lr2eval._models import locate

    folder = locate(model, offline=offline) if model is not None else None
    if dry_run:
        _print_plan(recipe, folder, data)
        return
    given = {"model": folder, "factors": factors, "data": data}
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise UsageError(f"--{missing[0]} is missing; only --dry-run does without it")
    assert folder is not None
    assert factors is not None
    assert data is not None
    out = out or Path("runs") / f"train-{folder.resolve().name}-{recipe.name}"
    result = _train(recipe, folder, factors, data, held_out, out, device, data_dir, offline, command)
    if _first():
        print(result)


def _train(
    recipe: Recipe,
    folder: Path,
    factors: Path,
    data: Path,
    held_out: Path | None,
    out: Path,
    device: str | None,
    data_dir: Path | None,
    offline: bool,
    command: Sequence[str],
) -> Path:
    import torch

    from lr2eval.backends._loading import load_model, quiet
    from lr2eval.method.rope_files import read_factors
    from lr2eval.method.segments import SegmentData
    from lr2eval.method.train import MODEL, train

    file = read_factors(factors)
    if file.scaling is None:
        raise UsageError(
            f"{factors}: holds no windows and no attention factors; give the factors.json of `lr2eval search`, or the "
            "rope_factors.json of `lr2eval export`"
        )
    segments = SegmentData.open(data)
    measured = SegmentData.open(held_out) if held_out is not None else ()
    checkpoint = Checkpoint.open(folder, cache=cache_dir())
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    samples = _needles(recipe, folder, data_dir, offline)
    with quiet():
        # On the host: with several processes each GPU takes its own part only.
        where = device if int(os.environ.get("WORLD_SIZE", "1")) == 1 else "cpu"
        loaded = load_model(checkpoint, "float32", where, False)
        train(recipe, loaded, folder, segments, file.scaling, out, held_out=measured, needles=samples,
              factors=file, device=device, command=command, say=_say)  # fmt: skip
    return out / MODEL


def _needles(recipe: Recipe, folder: Path, data_dir: Path | None, offline: bool) -> list[Sample]:
    """The samples of the recipe's evaluations: made as those of a search, at depths over the whole length."""
    from lr2eval._search_command import _samples
    from lr2eval._tokens import PromptTokenizer
    from lr2eval.method.search_config import SearchConfig

    asked = recipe.evaluation
    if not asked.needles:
        return []
    config = SearchConfig(
        model=str(folder),
        target_length=recipe.target_window,
        haystack=asked.haystack,
        data_dir=data_dir,
        offline=offline,
        repeat=asked.repeat,
        wording=asked.wording,
        samples=asked.needles,
        held_out=0,
        depths="grid",
        seed=recipe.seed,
    )
    return _samples(config, PromptTokenizer.load(folder))[0]


def _say(text: str) -> None:
    if _first():
        print(text, file=sys.stderr)


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _print_plan(recipe: Recipe, folder: Path | None, data: Path | None) -> None:
    from lr2eval.method.train_plan import plan, shape_of

    if folder is not None:
        shape, origin = shape_of(_config(folder)), f"sizes of {folder.resolve().name}"
    elif recipe.shape is not None:
        shape, origin = recipe.shape, "sizes of the recipe"
    else:
        raise UsageError("--model is missing: the recipe has no [shape] to estimate from")
    rows, budget = None, "budgets of the recipe"
    if data is not None:
        from lr2eval.method.segments import SegmentData

        segments = SegmentData.open(data)
        long = int(segments.long.sum())
        rows, budget = (0 if recipe.long_only else len(segments) - long, long), "rows of --data"
    _show(recipe, plan(recipe, shape, rows), origin, budget)


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        value = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: not readable ({error}); copy it again") from error
    found: Mapping[str, Any] = value.get("text_config") or value
    return found


def _show(recipe: Recipe, plan: TrainPlan, origin: str, budget: str) -> None:
    gpus, memory = recipe.hardware.gpus, plan.memory
    windows = f"{format_length(recipe.original_window)} to {format_length(recipe.target_window)}"
    print(f"{recipe.name}: {windows}, {plan.parameters:,} parameters ({origin})")
    print(f"rows of {recipe.target_window:,} tokens: {plan.rows_short:,} short, {plan.rows_long:,} long ({budget})")
    print(f"{plan.tokens:,} tokens in {plan.steps:,} steps of {plan.tokens_per_step:,} tokens")
    shown = table("memory of one GPU", "GiB", f"(estimate, {gpus} GPUs)")
    marks = {True: "used", False: "not used"}
    lines = [
        ("weights, float32", memory.weights, ""),
        ("gradients, float32", memory.gradients, ""),
        ("optimizer, two moments in float32", memory.optimizer, ""),
        ("gathered layers, embedding, head", memory.gathered, ""),
        ("activations", memory.activations, marks[not recipe.gradient_checkpointing]),
        ("activations with checkpointing", memory.activations_checkpointed, marks[recipe.gradient_checkpointing]),
        (f"logits of {recipe.loss_chunk:,} places", memory.logits_chunk, ""),
        ("together", memory.total(recipe.gradient_checkpointing), _fits(recipe, plan)),
    ]
    for name, size, mark in lines:
        shown.add_row(name, f"{size / 2**30:,.3g}", mark)
    shown.columns[1].justify = "right"
    printed_table(shown)
    share = plan.operations_attention / plan.operations
    print(f"{plan.operations:.3g} operations, {share:.0%} of them attention")
    if plan.hours is None:
        print("no time estimate: --set hardware.tflops=... (peak of one GPU), hardware.gpus, hardware.utilisation")
        return
    told = recipe.hardware
    print(
        f"{plan.hours:,.3g} hours, {plan.hours * gpus:,.4g} GPU-hours if {gpus} GPUs of {told.tflops:g} Tflop/s reach "
        f"{told.utilisation:.0%} of their peak (as stated, not measured)"
    )


def _fits(recipe: Recipe, plan: TrainPlan) -> str:
    room = recipe.hardware.memory_gib
    if room is None:
        return ""
    needed = plan.memory.total(recipe.gradient_checkpointing) / 2**30
    return f"{'fits' if needed < room else 'DOES NOT FIT'} into {room:g}"
