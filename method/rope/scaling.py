"""RoPE rescaling as one value (design D7).

A rescaled RoPE multiplies the wavelength of pair ``i`` by a factor ``lambda_i``: its inverse frequency is
``1 / (lambda_i * theta^(2i/d))`` with rotary dimension ``d`` (LongRoPE2, arXiv 2502.20082, eq. 8). A checkpoint of
Hugging Face's ``rope_type: longrope`` holds two such vectors: *short* for sequences inside the original window and
*long* for sequences beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from lr2eval.model.rope_facts import periods, theoretical_index

if TYPE_CHECKING:
    import torch

    from lr2eval.model.rotary import StockRope


Which = Literal["short", "long"]

SHORT_ATTENTION_KEY = "lr2eval_short_attention_factor"
LONG_ATTENTION_KEY = "lr2eval_long_attention_factor"


@dataclass(frozen=True)
class OriginalRope:
    """The RoPE a model was trained with: base, rotary dimension (even, at most the head dimension), window in tokens.

    Raises :class:`ValueError` for numbers that no RoPE can have.
    """

    theta: float
    rotary_dim: int
    window: int

    def __post_init__(self) -> None:
        if self.rotary_dim < 2 or self.rotary_dim % 2:
            raise ValueError(f"the rotary dimension is {self.rotary_dim}, not an even number of at least 2")
        if not (math.isfinite(self.theta) and self.theta > 1):
            raise ValueError(f"the RoPE base is {self.theta}, not a number above 1")
        if self.window < 2:
            raise ValueError(f"the window is {self.window} tokens; RoPE needs at least 2")

    @property
    def pairs(self) -> int:
        """Rotary pairs, the length of a factor list."""
        return self.rotary_dim // 2

    @property
    def periods(self) -> tuple[float, ...]:
        """Tokens per turn of each pair."""
        return periods(self.rotary_dim, self.theta)

    @property
    def d_tcd(self) -> int:
        """First pair (0-based) that never completes a turn inside the window."""
        return theoretical_index(self.rotary_dim, self.theta, self.window)

    @property
    def d10_tcd(self) -> int:
        """First pair (0-based) that completes at most ten turns inside the window."""
        return theoretical_index(self.rotary_dim, self.theta, self.window, turns=10)


@dataclass(frozen=True)
class RopeScaling:
    """The factors of one checkpoint; hashable, equal when every number is equal.

    Lengths are tokens, factors are dimensionless. ``*_attention_factor`` multiplies cos and sin (so it enters the
    attention logits squared). Raises :class:`ValueError` for factor lists that are not ``rotary_dim / 2`` long, and for
    factors and attention factors that are not positive numbers.
    """

    long_factor: tuple[float, ...]
    short_factor: tuple[float, ...]
    long_attention_factor: float
    short_attention_factor: float
    original_window: int
    target_window: int
    theta: float
    rotary_dim: int
    provenance: str = field(default="given", compare=False)

    def __post_init__(self) -> None:
        for name, factors in (("short_factor", self.short_factor), ("long_factor", self.long_factor)):
            if len(factors) != self.rotary_dim // 2:
                raise ValueError(
                    f"{name} has {len(factors)} numbers; a rotary dimension of {self.rotary_dim} needs "
                    f"{self.rotary_dim // 2}"
                )
            if not all(math.isfinite(factor) and factor > 0 for factor in factors):
                raise ValueError(f"{name} contains a factor that is not a positive number")
        for name in ("short_attention_factor", "long_attention_factor"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}, not a positive number")

    @property
    def original(self) -> OriginalRope:
        """The RoPE that the factors rescale."""
        return OriginalRope(self.theta, self.rotary_dim, self.original_window)

    @property
    def scale(self) -> float:
        """``s = L / Lt``."""
        return self.target_window / self.original_window

    @classmethod
    def from_config(cls, config: Any, stock: StockRope | None = None) -> RopeScaling:
        """The scaling of a Hugging Face configuration with ``rope_type: longrope``, with transformers' meaning.

        * The original window is the top-level ``original_max_position_embeddings`` where there is one, else the entry
          of ``rope_parameters``.
        * The attention factor is ``attention_factor`` if given, else ``sqrt(1 + ln f / ln Lt)`` (1 for ``f <= 1``)
          with ``f`` = ``factor`` if given, else ``max_position_embeddings / Lt``. Transformers uses one value for both
          windows, and so do we unless ``rope_parameters`` carries ``lr2eval_short_attention_factor`` or
          ``lr2eval_long_attention_factor``, which only this package reads.
        * Some models have a factor of their own for each window (Phi-3.5-MoE: ``short_mscale``, ``long_mscale``). What
          ``stock``, the model's rotary module, computes always wins.
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
        long = short = attention
        if stock is not None:
            long = _stated(stock.long_attention_factor, attention, rope.get("long_mscale"))
            short = _stated(stock.short_attention_factor, attention, rope.get("short_mscale"))
        return cls(
            long_factor=tuple(float(factor) for factor in rope["long_factor"]),
            short_factor=tuple(float(factor) for factor in rope["short_factor"]),
            long_attention_factor=float(rope.get(LONG_ATTENTION_KEY, long)),
            short_attention_factor=float(rope.get(SHORT_ATTENTION_KEY, short)),
            original_window=original,
            target_window=target,
            theta=float(rope["rope_theta"]),
            rotary_dim=int(head_dim * rope.get("partial_rotary_factor", 1.0)),
            provenance="checkpoint",
        )

    def rope_parameters(self, head_dim: int | None = None) -> dict[str, Any]:
        """``rope_parameters`` of a Hugging Face configuration; :meth:`from_config` reads the same numbers from it.

        ``head_dim`` is the model's, where only a part of it rotates. The configuration must also state
        ``max_position_embeddings`` (the target window). Unequal attention factors take two keys that only this package
        reads; stock transformers then applies the long one to both windows.
        """
        made: dict[str, Any] = {
            "rope_type": "longrope",
            "rope_theta": self.theta,
            "factor": self.scale,
            "attention_factor": self.long_attention_factor,
            "original_max_position_embeddings": self.original_window,
            "short_factor": list(self.short_factor),
            "long_factor": list(self.long_factor),
        }
        if head_dim is not None and head_dim != self.rotary_dim:
            share = self.rotary_dim / head_dim
            # transformers truncates head_dim * share, which may lie just below the whole number.
            made["partial_rotary_factor"] = (
                share if int(head_dim * share) == self.rotary_dim else math.nextafter(share, 1.0)
            )
        if self.short_attention_factor != self.long_attention_factor:
            made[SHORT_ATTENTION_KEY] = self.short_attention_factor
            made[LONG_ATTENTION_KEY] = self.long_attention_factor
        return made

    def to_json(self) -> dict[str, Any]:
        """Every field under its name, for :func:`json.dumps`; :meth:`from_json` gives back the very same numbers."""
        return asdict(self) | {"long_factor": list(self.long_factor), "short_factor": list(self.short_factor)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RopeScaling:
        """The inverse of :meth:`to_json`; other keys are ignored.

        Raises :class:`ValueError` naming a field that is missing or not a number.
        """
        known = {each.name for each in fields(cls)}
        missing = sorted(known - {"provenance"} - value.keys())
        if missing:
            raise ValueError(f"the field {missing[0]} is missing")
        found: dict[str, Any] = {name: value[name] for name in known & value.keys()}
        try:
            for name in ("long_factor", "short_factor"):
                found[name] = tuple(float(factor) for factor in found[name])
            for name in ("long_attention_factor", "short_attention_factor", "theta"):
                found[name] = float(found[name])
            for name in ("original_window", "target_window", "rotary_dim"):
                found[name] = int(found[name])
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"the field {name} contains something that is not a number") from None
        return cls(**found)

    def inv_freq(self, which: Which) -> torch.Tensor:
        """Inverse frequencies of one window: shape ``(rotary_dim / 2,)``, float32, radians per token.

        Computed in float32 in the order transformers computes them, so that the result is bitwise equal to its own.
        """
        import torch

        factors_R = torch.tensor(self.long_factor if which == "long" else self.short_factor, dtype=torch.float32)
        exponents_R = torch.arange(0, self.rotary_dim, 2, dtype=torch.int64).float() / self.rotary_dim
        return 1.0 / (factors_R * self.theta**exponents_R)

    def attention_factor(self, which: Which) -> float:
        """What cos and sin of one window are multiplied by."""
        return self.long_attention_factor if which == "long" else self.short_attention_factor


def _stated(computed: float, *stated: float | None) -> float:
    """The stated number that a module computed in float32; the computed one if no other is that close."""
    return next((value for value in stated if value and math.isclose(value, computed, rel_tol=1e-6)), computed)


def default_attention_factor(scale: float, original_window: int) -> float:
    """``sqrt(1 + ln s / ln Lt)`` for ``s > 1``, else 1: the temperature of LongRoPE's code (its "su" policy)."""
    if scale <= 1.0:
        return 1.0
    return math.sqrt(1 + math.log(scale) / math.log(original_window))
