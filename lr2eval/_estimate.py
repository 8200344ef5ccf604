"""How long a run will roughly take: counted work divided by speeds measured on this machine in half a second.

An order of magnitude to decide by, printed as such. Prefill is bound by arithmetic (2 FLOP per parameter and token,
plus attention), decoding by reading the weights once per step for a whole batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lr2eval._errors import UsageError

if TYPE_CHECKING:
    from lr2eval._checkpoint import Checkpoint
    from lr2eval._types import Shard

ASSUMED_PROMPT = 600
"""Tokens of a prompt whose length is not known before it is built (five-shot MMLU is about that)."""
ASSUMED_ROWS = 8
"""Rows that decode together."""
EFFICIENCY = 0.6
"""Share of a bare matrix product's speed that a model reaches; attention, norms and small matrices take the rest."""


@dataclass(frozen=True)
class Speed:
    """What this machine does: floating-point operations and bytes per second."""

    flops: float
    bandwidth: float


def seconds(checkpoint: Checkpoint, shards: Sequence[Shard], speed: Speed, bytes_per_weight: int) -> float:
    """Estimated seconds for all ``shards``; loading not included."""
    config = checkpoint.config
    layers, hidden = int(config.get("num_hidden_layers") or 0), int(config.get("hidden_size") or 0)
    total = 0.0
    for shard in shards:
        new = shard.max_new_tokens or 0
        prompt = shard.length - new if shard.length else ASSUMED_PROMPT
        # Causal attention: 2 products x 2 FLOP x half of the square.
        prefill = 2.0 * checkpoint.parameters * prompt + 2.0 * layers * hidden * prompt**2
        steps = shard.n * new / min(ASSUMED_ROWS, shard.n)
        total += shard.n * prefill / (speed.flops * EFFICIENCY)
        total += steps * checkpoint.parameters * bytes_per_weight / (speed.bandwidth * EFFICIENCY)
    return total


def measure(device: str | None, dtype: str) -> Speed:
    """Time one matrix product and one matrix-vector product in ``dtype`` on ``device``."""
    import torch

    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    kind: Any = getattr(torch, dtype, torch.float32)
    try:
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:100]
        raise UsageError(f"--device {place}: not usable here ({reason}); `lr2eval doctor` shows what is") from error
    size = 1024 if place.type == "cpu" else 8192
    a = torch.randn(size, size, device=place).to(kind)
    b = torch.randn(size, size, device=place).to(kind)
    wide = torch.randn(size, 8 * size, device=place).to(kind)
    vector = torch.randn(1, size, device=place).to(kind)
    product = _time(lambda: a @ b, place.type)
    read = _time(lambda: vector @ wide, place.type)
    return Speed(flops=2.0 * size**3 / product, bandwidth=wide.numel() * wide.element_size() / read)


def _time(work: Callable[[], Any], place: str, least: float = 0.1) -> float:
    """Seconds of one call, the fastest of several within ``least`` seconds."""
    import torch

    work()
    best, spent = float("inf"), 0.0
    while spent < least:
        started = time.perf_counter()
        work()
        if place == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - started
        best, spent = min(best, took), spent + took
    return best
