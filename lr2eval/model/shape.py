"""Sizes of a decoder from its configuration, and the number of parameters that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lr2eval.errors import UsageError


def config_shape(config: Any) -> Shape:
    """The sizes in a Hugging Face configuration. Raises :class:`UsageError` if one is missing."""
    text = config.get_text_config()
    names = ("num_attention_heads", "num_hidden_layers", "hidden_size", "intermediate_size", "num_key_value_heads",
             "head_dim", "vocab_size", "tie_word_embeddings")  # fmt: skip
    return shape_of({name: getattr(text, name, None) for name in names})


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


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The sizes in a model's ``config.json``. Raises :class:`UsageError` if one is missing."""
    try:
        heads = int(config["num_attention_heads"])
        return Shape(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"config.json: the estimate needs {error}; add it") from error


def layer_parameters(shape: Shape) -> int:
    """Of one decoder layer: attention, gated MLP, two norms."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    return shape.hidden * (2 * queries + 2 * keys + 3 * shape.intermediate + 2)


def parameters(shape: Shape) -> int:
    """Of the whole decoder."""
    tables = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    return shape.layers * layer_parameters(shape) + tables + shape.hidden
