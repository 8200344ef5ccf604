"""What a training needs, before anything is loaded: tokens, steps, memory and time.

``docs/training.md`` explains the formulas. Tokens and steps are exact. Memory is an estimate of the peak, for an
attention that does not keep all scores. Time is operations divided by the stated speed of the hardware.
"""

from __future__ import annotations

from dataclasses import dataclass

from lr2eval.errors import UsageError
from lr2eval.method.train.recipe import DOCUMENTS, FLEX, SQUARE, Recipe, automatic_attention
from lr2eval.model.shape import Shape, layer_parameters, parameters


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. The recipe decides which of the two ``activations`` counts."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    """Two layers, embedding and head, unsharded in the precision of the computation; 0 on one GPU."""
    activations: int
    """Without gradient checkpointing."""
    activations_checkpointed: int
    logits_chunk: int
    mask: int
    """Mask of a packed row while it is built, for an attention that needs all pairs of tokens."""

    def total(self, checkpointing: bool) -> int:
        """The sum of everything held at the same time."""
        held = self.activations_checkpointed if checkpointing else self.activations
        return sum((self.weights, self.gradients, self.optimizer, self.gathered, held, self.logits_chunk, self.mask))


@dataclass(frozen=True)
class TrainPlan:
    """Estimates for one recipe. ``hours`` is ``None`` if the recipe does not state ``hardware.tflops``."""

    parameters: int
    rows_short: int
    rows_long: int
    tokens: int
    """Padding included."""
    tokens_per_step: int
    steps: int
    attention: str
    """What the memory is for: that of the recipe, or what training chooses for a model that can do it."""
    memory: Memory
    operations: float
    """Of the model itself, without recomputation."""
    operations_attention: float
    """The part of them for scores and values of attention."""
    hours: float | None


def plan(recipe: Recipe, shape: Shape, rows: tuple[int, int] | None = None, device: str = "cuda") -> TrainPlan:
    """Estimates for ``rows`` (short, long); the default is the recipe's budgets. Training on ``device`` chooses the
    attention of a recipe that names none.

    Raises :class:`UsageError` if there is nothing to train on.
    """
    short, long = recipe.planned_rows() if rows is None else rows
    steps = recipe.planned_steps(short + long)
    if steps == 0:
        raise UsageError(
            f"--recipe {recipe.name}: short_tokens {recipe.short_tokens:,} and long_tokens {recipe.long_tokens:,} are "
            f"less than one row of {recipe.target_window:,} tokens; raise one of them"
        )
    trained = min(steps * recipe.global_batch, (short + long) * recipe.epochs)
    share = trained / (short + long)
    matrix, attention = _operations(recipe, shape, short * share, long * share)
    speed = recipe.hardware.tflops
    hours = None
    if speed is not None:
        reached = recipe.hardware.gpus * speed * 1e12 * recipe.hardware.utilisation
        hours = (matrix + attention) / reached / 3600
    chosen = recipe.attention or automatic_attention(device, (FLEX, DOCUMENTS), recipe.micro_batch, True)
    assert chosen is not None  # documents are in the list
    return TrainPlan(
        parameters=parameters(shape),
        rows_short=short,
        rows_long=long,
        tokens=trained * recipe.target_window,
        tokens_per_step=recipe.tokens_per_step,
        steps=steps,
        attention=chosen,
        memory=_memory(recipe, shape, square=bool(short) and chosen in SQUARE),
        operations=matrix + attention,
        operations_attention=attention,
        hours=hours,
    )


def _operations(recipe: Recipe, shape: Shape, short: float, long: float) -> tuple[float, float]:
    """(matrices, attention): six operations per weight and token; for a causal document of l tokens, scores and values
    take 2 l^2 per query dimension and layer forward and twice that backward. Short documents count as full windows."""
    weights = shape.layers * layer_parameters(shape) + shape.vocabulary * shape.hidden
    width = shape.layers * shape.heads * shape.head_dim
    tokens = (short + long) * recipe.target_window
    pairs = recipe.target_window * (short * recipe.original_window + long * recipe.target_window)
    return 6.0 * weights * tokens, 6.0 * pairs * width


def _memory(recipe: Recipe, shape: Shape, *, square: bool) -> Memory:
    total, gpus = parameters(shape), recipe.hardware.gpus
    number = 4 if recipe.dtype == "float32" else 2
    held = recipe.micro_batch * recipe.target_window // recipe.context_parallel
    tables = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    gathered = 0 if gpus == 1 else 2 * number * (2 * layer_parameters(shape) + tables)
    layer = held * number * _kept_per_token(shape)
    # A single process uses autocast, which keeps the hidden states between layers in float32.
    border = held * (4 if gpus == 1 else number) * shape.hidden
    return Memory(
        weights=4 * total // gpus,
        gradients=4 * total // gpus,
        optimizer=8 * total // gpus,
        gathered=gathered,
        activations=shape.layers * layer + 2 * border,
        activations_checkpointed=shape.layers * border + layer + 2 * border,
        logits_chunk=min(recipe.loss_chunk, held) * shape.vocabulary * (2 * 4 + number),
        mask=3 * recipe.micro_batch * (recipe.target_window // recipe.context_parallel) ** 2 if square else 0,
    )


def _kept_per_token(shape: Shape) -> int:
    """Numbers that one layer keeps of a token for its backward: inputs of two norms and of their scaling, the normed
    inputs of the matrices, queries, keys and values before and after turning, attention's output, and of the MLP gate,
    its activation, up and their product."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return 6 * shape.hidden + 3 * queries + 3 * keys + 4 * shape.intermediate
