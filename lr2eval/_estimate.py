"""What work costs: operations, memory and time. One set of formulas for the plan of a run and for `lr2eval estimate`.

Prefill is bound by arithmetic, decoding by reading the weights and the cache once a step for a whole batch; how fast a
device does either is a :class:`Speed`, measured (``_estimate_speed``) or from a data sheet (``_estimate_command``). The
formulas are those of ``docs/scale.md``; they are for dense decoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lr2eval.method.recipe import Shape
from lr2eval.method.train_plan import layer_parameters

PADDED = 2.0
"""Attention with a mask (rows of unequal length, or read on from a beginning) makes all of it, not the causal half."""


@dataclass(frozen=True)
class Asked:
    """What one task at one length asks of a model. Counts are tokens."""

    benchmark: str
    task: str
    length: int | None
    samples: int
    prompts: Sequence[int]
    """Of every sequence that is read: one a sample, or one for each choice of several tokens."""
    new: int
    """To generate for each, at most; 0 for scored choices."""
    over: int
    """Prompts longer than the window: cut, skipped or refused, as the truncation policy says."""
    exact: bool
    """Whether every prompt was counted; else the prompts are some of the task's, repeated."""
    taken: Sequence[int] = ()
    """Of each prompt, the tokens that are read once for all that begin so; empty where nothing is shared."""
    beginnings: Sequence[int] = ()
    """Those beginnings."""

    @property
    def tokens(self) -> int:
        return sum(self.prompts)

    @property
    def longest(self) -> int:
        """Of a prompt with its answer."""
        return max(self.prompts, default=0) + self.new


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together, padded to ``width`` tokens, each with ``new`` tokens to generate."""

    rows: int
    width: int
    new: int
    padded: bool = False
    start: int = 0
    """Tokens before each row that are read already."""


@dataclass(frozen=True)
class Speed:
    """What a device does with one model."""

    matrix: float
    """Operations a second in the products with weights, over a prompt."""
    attention: float
    """Operations a second in scores and values, over a prompt."""
    step: float
    """Seconds of a decoding step, whatever the number of rows: every weight is read."""
    row: float
    """Seconds that each row adds to it."""
    context: float
    """Seconds that each token of a row's cache adds to it."""


def operations(shape: Shape, tokens: float, squares: float, logits: float = 0.0) -> tuple[float, float]:
    """(with weights, in attention) of one forward: two operations a weight and token, and ``2 l^2`` a query dimension
    and layer for a causal sequence of ``l`` tokens. ``squares``: sum of the ``l^2``; ``logits``: places with logits."""
    matrix = 2.0 * shape.layers * layer_parameters(shape) * tokens + 2.0 * shape.vocabulary * shape.hidden * logits
    return matrix, 2.0 * shape.layers * shape.heads * shape.head_dim * squares


def read_weights(shape: Shape) -> int:
    """Weights that a decoding step reads: all layers and the head."""
    return shape.layers * layer_parameters(shape) + shape.vocabulary * shape.hidden


def kv_bytes(shape: Shape, item: int) -> int:
    """Keys and values of one token in all layers, each number of ``item`` bytes."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * item


def seconds(batches: Sequence[Batch], shape: Shape, speed: Speed, original_window: int | None = None) -> float:
    """Of all ``batches``, every row generating all its tokens. An answer that outgrows ``original_window`` has its
    prompt read twice, once under each set of factors (design D6)."""
    total = 0.0
    for batch in batches:
        reads = 2 if original_window and batch.width <= original_window < batch.width + batch.new else 1
        tokens, squares = batch.rows * batch.width, batch.rows * batch.width * (batch.start + batch.width)
        matrix, attention = operations(shape, reads * tokens, reads * squares, batch.rows)
        total += matrix / speed.matrix + attention * (PADDED if batch.padded or batch.start else 1.0) / speed.attention
        cached = batch.width + batch.new / 2
        total += batch.new * (speed.step + batch.rows * (speed.row + cached * speed.context))
    return total
