"""The RoPE of a checkpoint folder from its ``config.json`` alone: no weights, no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from lr2eval.errors import CheckpointError, UsageError
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling

_T = TypeVar("_T")


def read_rope(model: str | Path, *, from_original: bool = False) -> OriginalRope:
    """The RoPE of a checkpoint folder, or of a model known by name: what every rule starts from.

    ``from_original`` starts from the window before the model's own rescaling. Raises :class:`lr2eval.CheckpointError`
    for a model without a RoPE, :class:`lr2eval.UsageError` for one that cannot be rescaled.
    """
    from lr2eval.model.names import locate

    return ModelRope.read(locate(str(model))).original(from_original=from_original)


@dataclass(frozen=True)
class ModelRope:
    """What a checkpoint's configuration says about its RoPE. Lengths in tokens."""

    folder: Path
    theta: float
    head_dim: int
    rotary_dim: int
    window: int
    """``max_position_embeddings``."""
    original_window: int | None
    """Before any rescaling; ``None`` if a rescaled model's configuration does not state it."""
    kind: str
    """transformers' ``rope_type``."""
    parameters: Mapping[str, Any] = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> ModelRope:
        """Read ``config.json``; values that it leaves to the defaults of its model type come from transformers.

        Raises :class:`CheckpointError` for a configuration that cannot be read, has no RoPE, or several.
        """
        path = folder / "config.json"
        whole = _object(path)
        config = _text_part(whole)
        if not _is_complete(config):
            config = config | _defaults(config)
        rope = _parameters(config)
        several = [name for name, value in rope.items() if isinstance(value, Mapping)]
        if several:
            raise CheckpointError(
                f"{path}: has several RoPEs, for kinds of layers ({', '.join(several)}); only one is supported"
            )
        theta = rope.get("rope_theta") or config.get("rope_theta")
        window = config.get("max_position_embeddings")
        if not theta:
            raise CheckpointError(
                f"{path}: has no RoPE (no rope_theta); only models with rotary positions are supported"
            )
        if not isinstance(window, int) or window < 1:
            raise CheckpointError(f"{path}: max_position_embeddings is {window!r}; set it to the window in tokens")
        kind = str(rope.get("rope_type") or rope.get("type") or "default")
        if config.get("model_type") == "phi3" and kind in ("su", "yarn"):
            kind = "longrope"  # the first Phi-3 checkpoints call it so, and transformers reads them so
        if kind == "mrope":
            kind = "default"
        head_dim, rotary_dim = _dimensions(path, config, rope)
        stated = config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
        stated = int(stated) if isinstance(stated, int | float) and stated > 0 else None
        # Dynamic NTK leaves max_position_embeddings alone; what other kinds stretched is known if stated.
        original = window if kind in ("default", "dynamic") else stated
        return cls(folder, float(theta), head_dim, rotary_dim, window, original, kind, rope)

    @property
    def is_rescaled(self) -> bool:
        """Whether its window is no longer the one of its plain RoPE."""
        return self.kind != "default"

    def original(self, *, from_original: bool = False) -> OriginalRope:
        """The RoPE to rescale. A model already rescaled needs ``from_original``; raises :class:`UsageError`."""
        if self.is_rescaled and not from_original:
            known = f" from {self.original_window:,} to {self.window:,} tokens" if self.original_window else ""
            raise UsageError(
                f"{self.folder}: already rescaled ({self.kind}{known}); add --from-original to start from its original "
                "window"
            )
        if self.original_window is None:
            raise UsageError(
                f"{self.folder / 'config.json'}: does not state the window before {self.kind} rescaling; add "
                "original_max_position_embeddings"
            )
        window = self.original_window
        return self._checked(lambda: OriginalRope(self.theta, self.rotary_dim, window))

    def own(self) -> RopeScaling | None:
        """The factors that a longrope checkpoint holds; ``None`` for any other. Raises :class:`CheckpointError`."""
        if self.kind != "longrope":
            return None
        if self.original_window is None:
            raise CheckpointError(
                f"{self.folder / 'config.json'}: longrope needs original_max_position_embeddings; add the window that "
                "the model was trained with"
            )
        config = SimpleNamespace(
            rope_parameters={
                **self.parameters,
                "rope_type": "longrope",
                "rope_theta": self.theta,
                "partial_rotary_factor": 1.0,
            },
            original_max_position_embeddings=self.original_window,
            max_position_embeddings=self.window,
            head_dim=self.rotary_dim,
        )
        return self._checked(lambda: RopeScaling.from_config(config))

    def _checked(self, make: Callable[[], _T]) -> _T:
        try:
            return make()
        except (ValueError, TypeError, KeyError) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else error
            raise CheckpointError(f"{self.folder / 'config.json'}: {said}; correct it") from error


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; give a folder with a model's config.json") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({str(error).splitlines()[0]}); copy it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object; copy it again")
    return value


def _text_part(config: dict[str, Any]) -> dict[str, Any]:
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) and not _parameters(config) and "rope_theta" not in config else config


def _parameters(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return found if isinstance(found, Mapping) else {}


def _is_complete(config: Mapping[str, Any]) -> bool:
    rope = _parameters(config)
    based = "rope_theta" in config or "rope_theta" in rope or any(isinstance(v, Mapping) for v in rope.values())
    sized = "head_dim" in config or {"hidden_size", "num_attention_heads"} <= config.keys()
    return based and sized and "max_position_embeddings" in config


def _defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers makes of a configuration that leaves its base or sizes out (Llama 2 states no base)."""
    from transformers import AutoConfig

    kind = config.get("model_type")
    given = {key: value for key, value in config.items() if key != "model_type"}
    try:
        made = AutoConfig.for_model(kind, **given).to_dict()
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}  # an unknown model type; its configuration must be complete
    wanted = ("rope_parameters", "head_dim", "hidden_size", "num_attention_heads", "max_position_embeddings")
    return {key: made[key] for key in wanted if made.get(key) is not None}


def _dimensions(path: Path, config: Mapping[str, Any], rope: Mapping[str, Any]) -> tuple[int, int]:
    """(head dimension, how much of it rotates)."""
    head = config.get("qk_rope_head_dim") or config.get("head_dim")
    try:
        head = int(head or config["hidden_size"] // config["num_attention_heads"])
        share = rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or config.get("rotary_pct")
        rotary = int(head * (1.0 if share is None else float(share)))
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: has no head dimension; add head_dim, or hidden_size and num_attention_heads"
        ) from error
    return head, rotary
