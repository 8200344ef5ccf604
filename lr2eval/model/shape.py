"""Sizes of a decoder from its configuration, and the number of parameters that follows from them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lr2eval.errors import UsageError

_ATTRIBUTES = {
    "layers": "num_hidden_layers", "hidden": "hidden_size", "intermediate": "intermediate_size",
    "heads": "num_attention_heads", "kv_heads": "num_key_value_heads", "head_dim": "head_dim",
    "vocabulary": "vocab_size",
}  # fmt: skip
"""transformers' name of each size."""


def config_shape(config: Any) -> Shape:
    """The sizes in transformers' configuration of a decoder. Raises :class:`UsageError` if one is missing."""
    text = config.get_text_config()
    found = {name: getattr(text, attribute, None) for name, attribute in _ATTRIBUTES.items()}
    heads = found["heads"]
    found["kv_heads"] = found["kv_heads"] or heads
    if not found["head_dim"] and isinstance(heads, int) and heads and isinstance(found["hidden"], int):
        found["head_dim"] = found["hidden"] // heads
    try:
        return Shape(**found, tied=bool(getattr(text, "tie_word_embeddings", False)))
    except ValueError as error:
        wrong = next(name for name, value in found.items() if not isinstance(value, int) or value < 1)
        raise UsageError(
            f"config.json: {_ATTRIBUTES[wrong]} is {found[wrong]!r:.60}, but the estimate needs a whole number"
        ) from error


def changed_logits(model: Any) -> str:
    """The setting by which a model changes the logits of its output head; empty if it only multiplies by the head."""
    config = model.config.get_text_config()
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    return next((name for name in names if getattr(config, name, None) not in (None, 1, 1.0)), "")


class Shape(BaseModel):
    """Sizes of a Llama-like decoder, for estimates without the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    intermediate: int = Field(ge=1)
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    vocabulary: int = Field(ge=1)
    tied: bool = False
    """Whether embedding and head are one matrix."""


def layer_parameters(shape: Shape) -> int:
    """Of one decoder layer: attention, gated MLP, two norms."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return shape.hidden * (2 * queries + 2 * keys + 3 * shape.intermediate + 2)


def parameters(shape: Shape) -> int:
    """Of the whole decoder."""
    tables = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    return shape.layers * layer_parameters(shape) + tables + shape.hidden
