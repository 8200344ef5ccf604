"""What may be done to the rows of a model without changing an answer, decided from what the model is.

A backend saves time and memory in four ways. Each is exact for some models only:

* It **continues** a cache: it reads a prompt in pieces, and lets a row go on from what another row has read. The cache
  must hold keys and values of each token, and nothing else. Recurrent layers, convolutions, caches that layers share,
  indexers, and code that comes with a checkpoint do not qualify.
* It pads rows on the **left**, to generate beside longer rows. Attention masks the padding, and recurrent layers skip
  it where transformers itself hands them the mask and the cache. Models that fill a cache of their own do not, and
  models that take no position ids may count the padding.
* It pads rows on the **right**, to score beside longer rows. No token sees one that follows it. With dynamic NTK, the
  longest row of a batch decides the frequencies of all.
* It leaves a **gap**: it pads beginnings of different lengths before it reads what follows them. A sliding window and
  attention in chunks count columns, so there the gap would push tokens out of the window.

Where padding would not be exact, rows run beside rows of equal length only.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from typing import Any

from transformers import DynamicCache

_PLAIN = {"DynamicLayer"}
_SLIDING = {"DynamicSlidingWindowLayer"}
_STATES = {"DummyLayer", "LinearAttentionLayer", "LinearAttentionAndFullAttentionLayer",
           "LinearAttentionAndSlidingWindowAttentionLayer"}  # fmt: skip


@dataclass(frozen=True)
class Abilities:
    """The four abilities of the module's text. Lengths are tokens of a row in all, its answer included."""

    whole: str
    """Why rows are read whole, each by itself; empty for a model that continues a cache."""
    left: float
    """Longest row that may be padded on the left; longer ones run beside rows of their length."""
    right: float
    """Longest row that may be padded on the right."""
    gap: bool
    alone: bool = False
    """Rows are generated one by one: the model fills a cache of its own, and not all of these keep rows apart."""

    @classmethod
    def of(cls, config: Any, model: Any = None) -> Abilities:
        """From a Hugging Face configuration. The loaded model tells more: what its code takes, and whose code it is."""
        config = config.get_text_config()
        try:
            layers = {type(layer).__name__ for layer in DynamicCache(config=config).layers}
        except (AttributeError, KeyError, TypeError, ValueError):
            return cls("transformers does not describe its cache", 0, 0, False)
        window = config.max_position_embeddings if is_dynamic(config) else math.inf
        known = layers <= _PLAIN | _SLIDING | _STATES
        foreign = model is not None and (model.is_remote_code() or not model._supports_default_dynamic_cache())
        taken = None if model is None else inspect.signature(model.forward).parameters
        if taken is not None and "position_ids" not in taken:
            known = False
        whole = ""
        if window < math.inf:
            whole = "dynamic NTK rotates all tokens of a row by its length"
        elif foreign:
            whole = "it brings its own code or its own kind of cache"
        elif other := sorted(layers - _PLAIN - _SLIDING):
            whole = f"its cache holds more than keys and values of each token ({', '.join(other)})"
        elif getattr(config, "num_kv_shared_layers", 0):
            whole = "some of its layers share a cache"
        elif taken is not None:
            missing = [name for name in ("position_ids", "past_key_values") if name not in taken]
            whole = f"it takes no {' and no '.join(missing)}" if missing else ""
        return cls(
            whole=whole,
            left=0 if foreign or not known else window,
            right=window if known else 0,
            gap=layers <= _PLAIN and set(getattr(config, "attention_layers", ())) <= {"global"},
            alone=foreign,
        )

    @property
    def continues(self) -> bool:
        return not self.whole

    def by_row(self, device: str) -> bool:
        """Whether prompts are read one by one on this type of device: without padding, a CPU needs no mask and computes
        half the attention. The caches of layers with a sliding window would have to keep all tokens for that."""
        return self.continues and self.gap and device == "cpu"

    def company(self, length: int, end: int) -> Hashable:
        """Prompts of ``length`` tokens that grow to ``end`` share a batch only if this key is the same."""
        return length if end > self.left else 0

    def together(self, lengths: Collection[int]) -> bool:
        """Whether rows of these lengths may be scored in one batch."""
        return max(lengths) <= self.right or min(lengths) == max(lengths)


def is_dynamic(config: Any) -> bool:
    """Whether a text configuration asks for dynamic NTK, in any of its layers."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope.get("rope_type"), *(layer.get("rope_type") for layer in rope.values() if isinstance(layer, dict))]
    return any("dynamic" in str(kind) for kind in kinds)


def forget_lengths(model: Any) -> None:
    """Give rotary modules their first frequencies again: dynamic NTK keeps those of the longest row it has met."""
    if not is_dynamic(model.config.get_text_config()):
        return
    for module in model.modules():
        for name, first in list(module.named_buffers(recurse=False)):
            if name.endswith("original_inv_freq"):
                prefix = name.removesuffix("original_inv_freq")
                module.register_buffer(f"{prefix}inv_freq", first.clone(), persistent=False)
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
