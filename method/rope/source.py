"""The RoPE of a checkpoint folder from its ``config.json``, checked against transformers' own rotary module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lr2eval.errors import CheckpointError, UsageError
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.model.config import ModelConfig

if TYPE_CHECKING:
    from lr2eval.model.rotary import StockRope

_T = TypeVar("_T")
_EXACT = 1e-5
"""Relative. The module computes in float32."""


def read_rope(model: str | Path, *, from_original: bool = False) -> OriginalRope:
    """The RoPE of a checkpoint folder, or of a model known by name: what every rule starts from.

    ``from_original`` starts from the window before the model's own rescaling. Raises :class:`lr2eval.CheckpointError`
    for a model without one RoPE in all attention layers, :class:`lr2eval.UsageError` for one that cannot be rescaled.
    """
    from lr2eval.model.names import locate

    return ModelRope.read(locate(str(model))).original(from_original=from_original)


@dataclass(frozen=True)
class ModelRope:
    """The one RoPE of a model. Lengths in tokens."""

    folder: Path
    config: ModelConfig = field(repr=False)
    stock: StockRope = field(repr=False)
    """What transformers' rotary module computes."""
    theta: float
    window: int
    """``max_position_embeddings``."""
    original_window: int | None
    """Before any rescaling; ``None`` if a rescaled model's configuration does not state it."""
    kind: str
    """transformers' ``rope_type``."""

    @classmethod
    def read(cls, folder: Path) -> ModelRope:
        """Read ``config.json`` and ask the rotary module that transformers builds from it.

        Raises :class:`CheckpointError` for a configuration that cannot be read, and for a model without RoPE, with
        RoPE in only some of its attention layers, or with several.
        """
        return cls.of(folder, ModelConfig.read(folder))

    @classmethod
    def of(cls, folder: Path, config: ModelConfig) -> ModelRope:
        """The same for a configuration that need not lie in ``folder``."""
        from lr2eval.model.rotary import stock_ropes

        stock = stock_ropes(config).only(str(config.path))
        theta = config.rope.get("rope_theta")
        if theta is None:
            raise CheckpointError(f"{config.path}: has no rope_theta; add the base of the model's RoPE")
        return cls(folder, config, stock, float(theta), config.window, config.original_window, config.rope_type)

    @property
    def rotary_dim(self) -> int:
        """How much of each head rotates: two dimensions for each pair."""
        return 2 * self.stock.pairs

    @property
    def head_dim(self) -> int:
        """The head dimension that transformers multiplies by ``partial_rotary_factor``."""
        text = self.config.text
        return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)

    def original(self, *, from_original: bool = False) -> OriginalRope:
        """The RoPE to rescale. A model already rescaled needs ``from_original``; raises :class:`UsageError`."""
        if self.config.is_rescaled and not from_original:
            known = f" from {self.original_window:,} to {self.window:,} tokens" if self.original_window else ""
            raise UsageError(
                f"{self.folder}: already rescaled ({self.kind}{known}); add --from-original to start from its original "
                "window"
            )
        if self.original_window is None:
            raise UsageError(
                f"{self.config.path}: does not state the window before {self.kind} rescaling; add "
                "original_max_position_embeddings"
            )
        window = self.original_window
        rope = self._checked(lambda: OriginalRope(self.theta, self.rotary_dim, window))
        if self.original_window == self.window and self.kind in ("default", "dynamic") and not self._is_plain(rope):
            raise CheckpointError(
                f"{self.config.path}: the angles of its rotary module do not follow from rope_theta {self.theta:g} "
                "alone; lr2eval can only rescale models whose angles do"
            )
        return rope

    def own(self) -> RopeScaling:
        """The factors of the model as it is. A model with one window has the same on both sides of it.

        Those of ``longrope`` are the numbers of ``config.json``. Those of another kind are read off the rotary module,
        in float32. Raises :class:`CheckpointError` for numbers that no RoPE has.
        """
        if self.kind == "longrope":
            return self._checked(lambda: RopeScaling.from_config(self.config.text, self.stock))
        plain = self._checked(lambda: OriginalRope(self.theta, self.rotary_dim, self.original_window or self.window))
        turned = zip(self.stock.short_inv_freq, _bases(plain), strict=True)
        factors = tuple(float(f"{1 / (freq * base):.6g}") for freq, base in turned)  # float32 knows no more digits
        factor = self.stock.short_attention_factor
        return self._checked(
            lambda: RopeScaling(
                factors, factors, factor, factor, plain.window, self.window, self.theta, self.rotary_dim, self.kind
            )
        )

    def _is_plain(self, rope: OriginalRope) -> bool:
        turned = zip(self.stock.short_inv_freq, _bases(rope), strict=True)
        return all(abs(freq * base - 1) < _EXACT for freq, base in turned)

    def _checked(self, make: Callable[[], _T]) -> _T:
        try:
            return make()
        except (ValueError, TypeError, KeyError) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else error
            raise CheckpointError(f"{self.config.path}: {said}; correct it") from error


def _bases(rope: OriginalRope) -> tuple[float, ...]:
    """``theta^(2i/d)`` of each pair."""
    return tuple(rope.theta ** (2 * i / rope.rotary_dim) for i in range(rope.pairs))
