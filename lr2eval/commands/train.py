"""``lr2eval train``: train on mixed windows, or print what that needs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lr2eval.base.console import printed_table, say, table
from lr2eval.base.units import format_length
from lr2eval.commands.options import DryRun, Messages, Sets, configured, typed_command

if TYPE_CHECKING:
    from lr2eval.base.config import Option
    from lr2eval.method.train.plan import TrainPlan
    from lr2eval.method.train.recipe import Recipe


class _FirstRank(Messages):
    """Messages from the first process of a launcher only."""

    def message(self, text: str) -> None:
        if _first():
            super().message(text)


def _first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _print_plan(recipe: Recipe, plan: TrainPlan, origin: str, budget: str) -> None:
    gpus, memory = recipe.hardware.gpus, plan.memory
    windows = f"{format_length(recipe.original_window)} to {format_length(recipe.target_window)}"
    say(f"{recipe.name}: {windows}, {plan.parameters:,} parameters ({origin})")
    say(f"rows of {recipe.target_window:,} tokens: {plan.rows_short:,} short, {plan.rows_long:,} long ({budget})")
    say(f"{plan.tokens:,} tokens in {plan.steps:,} steps of {plan.tokens_per_step:,} tokens")
    shown = table("memory of one GPU", "GiB", f"(estimate, {gpus} GPUs)", right=slice(1, 2))
    marks = {True: "used", False: "not used"}
    lines = [
        ("weights, float32", memory.weights, ""),
        ("gradients, float32", memory.gradients, ""),
        ("optimizer, two moments in float32", memory.optimizer, ""),
        ("unsharded layers, embedding, head", memory.gathered, ""),
        ("activations", memory.activations, marks[not recipe.gradient_checkpointing]),
        ("activations with checkpointing", memory.activations_checkpointed, marks[recipe.gradient_checkpointing]),
        (f"logits of {recipe.loss_chunk:,} positions", memory.logits_chunk, ""),
        ("mask of a packed row", memory.mask, f"attention {plan.attention}{'' if recipe.attention else ', assumed'}"),
        ("total", memory.total(recipe.gradient_checkpointing), _fits(recipe, plan)),
    ]
    for name, size, mark in lines:
        shown.add_row(name, f"{size / 2**30:,.3g}", mark)
    printed_table(shown)
    share = plan.operations_attention / plan.operations
    say(f"{plan.operations:.3g} operations, {share:.0%} of them attention")
    if plan.hours is None:
        say("no time estimate; set hardware.tflops (peak of one GPU), hardware.gpus and hardware.utilisation")
        return
    told = recipe.hardware
    say(
        f"{plan.hours:,.3g} hours, {plan.hours * gpus:,.4g} GPU-hours if {gpus} GPUs of {told.tflops:g} Tflop/s reach "
        f"{told.utilisation:.0%} of their peak (from the recipe, not measured)"
    )


def _fits(recipe: Recipe, plan: TrainPlan) -> str:
    room = recipe.hardware.memory_gib
    if room is None:
        return ""
    needed = plan.memory.total(recipe.gradient_checkpointing) / 2**30
    return f"{'fits' if needed < room else 'DOES NOT FIT'} in {room:g}"


def _recipe_keys() -> dict[str, list[Option]]:
    from lr2eval.base.config import options
    from lr2eval.method.data.config import MixtureConfig
    from lr2eval.method.train.recipe import Recipe

    data = [option for option in options(MixtureConfig, "data.") if not option.key.endswith("_window")]
    return {"keys of a recipe": [*options(Recipe), *data]}


@configured("lr2eval.workflows.train:TrainConfig", keys=_recipe_keys)
def train(given: dict[str, Any], set_: Sets = None, dry_run: DryRun = False) -> None:
    """Train on mixed windows (LongRoPE2) and export the model. Run the same command again to resume."""
    from lr2eval.base.settings import read_sets
    from lr2eval.method.train.recipe import read_recipe
    from lr2eval.workflows.train import TrainConfig, plan_training
    from lr2eval.workflows.train import train as run_training

    if "recipe" in given:
        given["recipe"] = read_recipe(given["recipe"], dict(read_sets(set_ or ())))
        if dry_run:
            told = given.get("model"), given.get("data"), "offline" in given, given.get("device", "cuda")
            made = plan_training(given["recipe"], *told)
            _print_plan(given["recipe"], *made)
            return
    done = run_training(TrainConfig(**given), listener=_FirstRank(), command=typed_command())
    if _first():
        say(done.model)
