"""What evaluation costs: operations, bytes and seconds, by a roofline.

The plan of a run and ``lr2eval estimate`` use these formulas; ``docs/scale.md`` explains them. Reading a prompt is
limited by arithmetic. Writing an answer is limited by memory: each step reads all weights and the cache of every row.
The formulas are for dense decoders.
"""

from __future__ import annotations

from dataclasses import dataclass
from timeit import repeat

from lr2eval.errors import UsageError
from lr2eval.model.shape import Shape, layer_parameters

LAYER_SECONDS = 3e-4
"""Least time of one layer in one forward pass, for the interpreter and kernel launches. It decides the time of small
models; measured with Hugging Face decoders on a CPU."""


@dataclass(frozen=True)
class Rates:
    """How fast a device works."""

    operations: float
    """Arithmetic operations per second."""
    bandwidth: float
    """Bytes read from memory per second."""
    layer: float = 0.0
    """Seconds that each layer adds to a forward pass, however few tokens it reads."""


def operations(shape: Shape, tokens: float, squares: float, logits: float = 0.0) -> tuple[float, float]:
    """(with weights, in attention) of one forward: two operations a weight and token, and ``2 l^2`` a query dimension
    and layer for a causal sequence of ``l`` tokens. ``squares``: sum of the ``l^2``; ``logits``: places with logits."""
    matrix = 2.0 * shape.layers * layer_parameters(shape) * tokens + 2.0 * shape.vocabulary * shape.hidden * logits
    return matrix, 2.0 * shape.layers * shape.heads * shape.head_dim * squares


def read_weights(shape: Shape) -> int:
    """Number of weights that a decoding step reads: all layers and the head."""
    return shape.layers * layer_parameters(shape) + shape.vocabulary * shape.hidden


def kv_bytes(shape: Shape, item: int) -> int:
    """Bytes of the keys and values of one token in all layers; each number takes ``item`` bytes."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * item


def batch_seconds(
    shape: Shape, item: int, rates: Rates, rows: int, width: int, new: int, original_window: int | None = None
) -> float:
    """Seconds of a batch: ``rows`` prompts padded to ``width`` tokens, each with an answer of ``new`` tokens.

    An answer that outgrows ``original_window`` has its prompt read twice, once under each set of factors (design D6).
    """
    reads = 2 if original_window and width <= original_window < width + new else 1
    prompts = sum(operations(shape, reads * rows * width, reads * rows * width**2, rows)) / rates.operations
    cached = rows * (width + new / 2) * kv_bytes(shape, item)
    step = (item * read_weights(shape) + cached) / rates.bandwidth + 2 * rows * read_weights(shape) / rates.operations
    return prompts + new * step + (reads + new) * shape.layers * rates.layer


def measure_rates(dtype: str, device: str) -> Rates:
    """Time two products with one matrix, which takes about a second on a CPU: 1 row for memory, many for arithmetic.

    Raises :class:`UsageError` if torch cannot use the device.
    """
    import torch

    side, many = (4096, 128) if device.startswith("cpu") else (8192, 4096)
    try:
        matrix = torch.ones((side, side), dtype=getattr(torch, dtype), device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:100]
        raise UsageError(
            f"--device {device}: torch cannot use it here ({reason}); `lr2eval doctor` lists the devices that work"
        ) from error

    def best(rows: int) -> float:
        some = matrix[:1].expand(rows, side).contiguous()

        def product() -> None:
            some @ matrix
            if not device.startswith("cpu"):
                torch.accelerator.synchronize(device)

        return min(repeat(product, number=1, repeat=4))  # the first one is slower

    return Rates(2 * many * side**2 / best(many), matrix.nbytes / best(1), LAYER_SECONDS)
