"""RoPE rescaling as one value (design D7).

A rescaled RoPE multiplies the wavelength of pair ``i`` by a factor ``lambda_i``: its inverse frequency is
``1 / (lambda_i * theta^(2i/d))`` with rotary dimension ``d`` (LongRoPE2, arXiv 2502.20082, eq. 8). A checkpoint of
Hugging Face's ``rope_type: longrope`` holds two such vectors: *short* for sequences inside the original window and
*long* for sequences beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

Which = Literal["short", "long"]

SHORT_ATTENTION_KEY = "lr2eval_short_attention_factor"
LONG_ATTENTION_KEY = "lr2eval_long_attention_factor"


@dataclass(frozen=True)
class RopeScaling:
    """The factors of one checkpoint; hashable, equal when every number is equal.

    Lengths are tokens, factors are dimensionless. ``*_attention_factor`` multiplies cos and sin (so it enters the
    attention logits squared). Raises :class:`ValueError` for factor lists that are not ``rotary_dim / 2`` long or hold
    something that is no positive number.
    """

    long_factor: tuple[float, ...]
    short_factor: tuple[float, ...]
    long_attention_factor: float
    short_attention_factor: float
    original_window: int
    target_window: int
    theta: float
    rotary_dim: int
    provenance: str = "given"

    def __post_init__(self) -> None:
        for name, factors in (("short_factor", self.short_factor), ("long_factor", self.long_factor)):
            if len(factors) != self.rotary_dim // 2:
                raise ValueError(
                    f"{name} has {len(factors)} numbers, a rotary dimension of {self.rotary_dim} needs "
                    f"{self.rotary_dim // 2}"
                )
            if not all(math.isfinite(factor) and factor > 0 for factor in factors):
                raise ValueError(f"{name} holds a factor that is not a positive number")

    @classmethod
    def from_config(cls, config: Any) -> RopeScaling:
        """The scaling of a Hugging Face configuration with ``rope_type: longrope``, with transformers' meaning.

        * The original window is the top-level ``original_max_position_embeddings`` where there is one, else the entry
          of ``rope_parameters``.
        * The attention factor is ``attention_factor`` if given, else ``sqrt(1 + ln f / ln Lt)`` (1 for ``f <= 1``)
          with ``f`` = ``factor`` if given, else ``max_position_embeddings / Lt``. Transformers uses one value for both
          windows, and so do we unless ``rope_parameters`` carries ``lr2eval_short_attention_factor`` or
          ``lr2eval_long_attention_factor``, which only this package reads.
        * The rotary dimension is ``head_dim * partial_rotary_factor``.

        Raises :class:`ValueError` for another ``rope_type`` and for factor lists of the wrong length.
        """
        rope: Mapping[str, Any] = config.rope_parameters or {}
        if rope.get("rope_type") != "longrope":
            raise ValueError(f"rope_type is {rope.get('rope_type')!r}, not 'longrope'")
        target = int(config.max_position_embeddings)
        original = int(
            getattr(config, "original_max_position_embeddings", None)
            or rope.get("original_max_position_embeddings")
            or target
        )
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        attention = rope.get("attention_factor")
        if attention is None:
            attention = default_attention_factor(rope.get("factor") or target / original, original)
        return cls(
            long_factor=tuple(float(factor) for factor in rope["long_factor"]),
            short_factor=tuple(float(factor) for factor in rope["short_factor"]),
            long_attention_factor=float(rope.get(LONG_ATTENTION_KEY, attention)),
            short_attention_factor=float(rope.get(SHORT_ATTENTION_KEY, attention)),
            original_window=original,
            target_window=target,
            theta=float(rope["rope_theta"]),
            rotary_dim=int(head_dim * rope.get("partial_rotary_factor", 1.0)),
            provenance="checkpoint",
        )

    def inv_freq(self, which: Which) -> torch.Tensor:
        """Inverse frequencies of one window: shape ``(rotary_dim / 2,)``, float32, radians per token.

        Computed in float32 in the order transformers computes them, so that the result is bitwise equal to its own.
        """
        factors_R = torch.tensor(self.long_factor if which == "long" else self.short_factor, dtype=torch.float32)
        exponents_R = torch.arange(0, self.rotary_dim, 2, dtype=torch.int64).float() / self.rotary_dim
        return 1.0 / (factors_R * self.theta**exponents_R)

    def attention_factor(self, which: Which) -> float:
        """What cos and sin of one window are multiplied by."""
        return self.long_attention_factor if which == "long" else self.short_attention_factor


def default_attention_factor(scale: float, original_window: int) -> float:
    """``sqrt(1 + ln s / ln Lt)`` for ``s > 1``, else 1: the temperature of LongRoPE's code (its "su" policy)."""
    if scale <= 1.0:
        return 1.0
    return math.sqrt(1 + math.log(scale) / math.log(original_window))
