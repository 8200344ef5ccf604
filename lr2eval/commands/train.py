"""``lr2eval train``: train on mixed windows, or print what that needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lr2eval.base.console import printed_table, table
from lr2eval.base.units import format_length
from lr2eval.commands.options import Messages, typed_command
from lr2eval.errors import UsageError

if TYPE_CHECKING:
    from lr2eval.method.train.plan import TrainPlan
    from lr2eval.method.train.recipe import Recipe
    from lr2eval.workflows.train import TrainingPlan


class _FirstRank(Messages):
    """Messages from the first process of a launcher only."""

    def message(self, text: str) -> None:
        if _first():
            super().message(text)


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _print_plan(recipe: Recipe, made: TrainingPlan) -> None:
    plan, origin, budget = made.plan, made.origin, made.budget
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
        ("unsharded layers, embedding, head", memory.gathered, ""),
        ("activations", memory.activations, marks[not recipe.gradient_checkpointing]),
        ("activations with checkpointing", memory.activations_checkpointed, marks[recipe.gradient_checkpointing]),
        (f"logits of {recipe.loss_chunk:,} positions", memory.logits_chunk, ""),
        ("mask of a packed row", memory.mask, f"attention {recipe.attention or 'sdpa'}"),
        ("total", memory.total(recipe.gradient_checkpointing), _fits(recipe, plan)),
    ]
    for name, size, mark in lines:
        shown.add_row(name, f"{size / 2**30:,.3g}", mark)
    shown.columns[1].justify = "right"
    printed_table(shown)
    share = plan.operations_attention / plan.operations
    print(f"{plan.operations:.3g} operations, {share:.0%} of them attention")
    if plan.hours is None:
        print("no time estimate; set hardware.tflops (peak of one GPU), hardware.gpus and hardware.utilisation")
        return
    told = recipe.hardware
    print(
        f"{plan.hours:,.3g} hours, {plan.hours * gpus:,.4g} GPU-hours if {gpus} GPUs of {told.tflops:g} Tflop/s reach "
        f"{told.utilisation:.0%} of their peak (from the recipe, not measured)"
    )


def _fits(recipe: Recipe, plan: TrainPlan) -> str:
    room = recipe.hardware.memory_gib
    if room is None:
        return ""
    needed = plan.memory.total(recipe.gradient_checkpointing) / 2**30
    return f"{'fits' if needed < room else 'DOES NOT FIT'} in {room:g}"


def train(
    recipe: Annotated[str, typer.Option(help="TOML file, or llama3-8b-128k, phi3-mini-128k, smollm2-135m-32k ...")],
    model: Annotated[str | None, typer.Option(help="Checkpoint folder of the original model, or a name.")] = None,
    factors: Annotated[Path | None, typer.Option(help="factors.json of a search.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of training rows.")] = None,
    held_out: Annotated[Path | None, typer.Option(help="Folder of rows to measure the loss on.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the training. [default: runs/train-MODEL-RECIPE]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. [default: the best there is]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local data with the essays, instead of the hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the recipe: optimizer.clip=0.5 ...")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print tokens, steps, memory and time, then stop.")
    ] = False,
) -> None:
    """Train on mixed windows (LongRoPE2) and export the model; the same command again resumes."""
    from lr2eval.workflows.train import TrainConfig, load_recipe, plan_training
    from lr2eval.workflows.train import train as run_training

    asked = load_recipe(recipe, set_ or ())
    if dry_run:
        _print_plan(asked, plan_training(asked, model, data, offline=offline))
        return
    for name, value in (("model", model), ("factors", factors), ("data", data)):
        if value is None:
            raise UsageError(f"--{name} is missing; only --dry-run works without it")
    assert model is not None
    assert factors is not None
    assert data is not None
    config = TrainConfig(asked, model, factors, data, held_out, out, device, data_dir, offline)
    done = run_training(config, listener=_FirstRank(), command=typed_command())
    if _first():
        print(done.model)
