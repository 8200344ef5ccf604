"""Train a model with mixed windows on prepared rows, or estimate what that needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from lr2eval.base.config import Config, Device, Kind, ModelName
from lr2eval.base.files import cache_dir
from lr2eval.errors import UsageError
from lr2eval.listener import Listener, with_listener
from lr2eval.method.train.recipe import Recipe, read_recipe
from lr2eval.model.checkpoint import Checkpoint

if TYPE_CHECKING:
    from lr2eval.method.search.needles import Sample
    from lr2eval.method.train.plan import TrainPlan
    from lr2eval.method.train.train import TrainingResult


def _recipe(value: Any) -> Any:
    return read_recipe(value) if isinstance(value, str | Path) else value


class TrainConfig(Config):
    """The arguments of :func:`train`. ``data``: rows from ``lr2eval data mix``. ``factors``: the file of a search."""

    recipe: Annotated[Recipe, BeforeValidator(_recipe), Kind("recipe")]
    """The training recipe: a TOML file, or a name such as llama3-8b-128k, phi3-mini-128k or smollm2-135m-32k."""
    model: ModelName
    """The original model: a checkpoint folder, or a name from `lr2eval models list`."""
    factors: Path
    """The factors.json of a search."""
    data: Path
    """The folder of training rows from `lr2eval data mix`."""
    held_out: Path | None = None
    """A folder of rows to measure the loss on."""
    out: Path | None = None
    """The folder of the training. Default: runs/train-MODEL-RECIPE."""
    device: Device | None = None
    """Where the model is trained: cpu or cuda. Default: the best available."""
    data_dir: Path | None = None
    """Read the essays from this folder instead of the hub."""
    offline: bool = False
    """Never use the network."""


@dataclass(frozen=True)
class TrainOutcome:
    """A finished training. ``model`` is the exported checkpoint, which stock transformers loads."""

    folder: Path
    model: Path
    result: TrainingResult


def plan_training(
    recipe: Recipe, model: str | None = None, data: Path | None = None, offline: bool = False, device: str = "cuda"
) -> tuple[TrainPlan, str, str]:
    """Tokens, steps, memory and time of a training, from the sizes of ``model`` or those of the recipe.

    The texts say where the model's sizes and the number of rows are from.
    """
    from lr2eval.method.train.plan import plan
    from lr2eval.model.config import ModelConfig
    from lr2eval.model.names import locate
    from lr2eval.model.shape import config_shape

    if model is not None:
        folder = locate(model, offline=offline)
        shape, origin = config_shape(ModelConfig.read(folder).text), f"sizes of {folder.resolve().name}"
    elif recipe.shape is not None:
        shape, origin = recipe.shape, "sizes of the recipe"
    else:
        raise UsageError("--model is missing, and the recipe has no [shape] for the estimate; give one of them")
    rows, budget = None, "budgets of the recipe"
    if data is not None:
        from lr2eval.method.data.rows import SegmentData

        segments = SegmentData.open(data)
        long = int(segments.long.sum())
        rows, budget = (0 if recipe.long_only else len(segments) - long, long), "rows of --data"
    return plan(recipe, shape, rows, device), origin, budget


@with_listener
def train(config: TrainConfig, *, listener: Listener | None = None, command: Sequence[str] = ()) -> TrainOutcome:
    """Train a model on mixed windows (LongRoPE2, section 3.3) and export it. The same call again resumes.

    Under ``torchrun`` every process makes the same call. Raises :class:`lr2eval.UsageError` for arguments that do not
    fit together, :class:`lr2eval.BackendError` for a loss that is not a number, :class:`lr2eval.StoreError` if ``out``
    cannot be written.
    """
    import torch

    from lr2eval.backends.loading import load_model, outline, quiet
    from lr2eval.method.data.rows import SegmentData
    from lr2eval.method.rope.export import check_plain
    from lr2eval.method.rope.files import read_factors
    from lr2eval.method.rope.source import ModelRope
    from lr2eval.method.train.train import MODEL
    from lr2eval.method.train.train import train as train_model
    from lr2eval.model.names import locate

    listener = listener or Listener()
    recipe = config.recipe
    folder = locate(config.model, offline=config.offline)
    out = config.out or Path("runs") / f"train-{folder.resolve().name}-{recipe.name}"
    file = read_factors(config.factors)
    if file.scaling is None:
        raise UsageError(
            f"{config.factors}: has no windows and no attention factors; use the factors.json of `lr2eval search` or "
            "the rope_factors.json of `lr2eval export`"
        )
    check_plain(ModelRope.read(folder))  # now, not when the trained model is exported
    segments = SegmentData.open(config.data)
    measured = SegmentData.open(config.held_out) if config.held_out is not None else ()
    checkpoint = Checkpoint.open(folder, cache=cache_dir())
    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    samples = _needles(recipe, folder, config.data_dir, config.offline)
    with quiet():
        # Of several processes, the first loads the model on the host and sends the others their parts.
        where = device if int(os.environ.get("WORLD_SIZE", "1")) == 1 else "cpu"
        first = os.environ.get("RANK", "0") == "0"
        loaded = load_model(checkpoint, "float32", where, False) if first else outline(checkpoint)
        result = train_model(recipe, loaded, folder, segments, file.scaling, out, held_out=measured, needles=samples,
                             factors=file, device=device, command=command, say=listener.message)  # fmt: skip
    return TrainOutcome(out, out / MODEL, result)


def _needles(recipe: Recipe, folder: Path, data_dir: Path | None, offline: bool) -> list[Sample]:
    """The needle samples of the recipe's evaluations, made as for a search, at depths over the whole length."""
    from lr2eval.method.search.config import SearchConfig
    from lr2eval.model.tokenizer import PromptTokenizer
    from lr2eval.workflows.search import search_samples

    asked = recipe.evaluation
    if not asked.needles:
        return []
    config = SearchConfig(
        model=str(folder),
        target_length=recipe.target_window,
        **asked.model_dump(include={"haystack", "repeat", "wording"}),
        data_dir=data_dir,
        offline=offline,
        samples=asked.needles,
        held_out=0,
        depths="grid",
        seed=recipe.seed,
    )
    return search_samples(config, PromptTokenizer.load(folder))[0]
