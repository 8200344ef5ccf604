"""Attention of packed rows document by document: what a mask of all pairs of tokens would give, without that mask.

Importing this module registers :data:`DOCUMENTS` with transformers. What it hands to the layers in place of a mask
states the cuts, so a layer that is recomputed in the backward has those of its forward.

Shape suffixes: B rows, L tokens, Q and K tokens of one block; queries, keys and values are (B, heads, L, width).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available

from lr2eval.method.train.recipe import DOCUMENTS, FLASH, FLEX


@dataclass(frozen=True)
class _Cuts:
    """Stands where layers expect a mask. ``window``: the tokens that each one sees; ``None``: all before it."""

    lengths: tuple[tuple[int, ...], ...]
    """Of each row: tokens of its documents, padding included."""
    window: int | None


def _mask(**given: Any) -> _Cuts | torch.Tensor | None:
    """What transformers calls for the mask of a forward; whatever is no plain packed row gets the mask of sdpa."""
    rows, length, visible = given["batch_size"], given["q_length"], given["mask_function"]
    whole = length == given["kv_length"] > 1  # nothing comes from a cache
    if not whole or given.get("attention_mask") is not None or given.get("use_vmap"):
        return sdpa_mask(**given)
    row_B1 = torch.arange(rows, device=given["device"])[:, None]
    at_1L = torch.arange(1, length, device=given["device"])[None]
    # A document begins where a token does not see the one before it.
    seen_BL = visible(row_B1, 0, at_1L, at_1L - 1).expand(rows, -1).tolist()
    cuts = [[0, *(at for at, seen in enumerate(row, 1) if not seen), length] for row in seen_BL]
    lengths = tuple(tuple(end - begin for begin, end in pairwise(row)) for row in cuts)
    window, longest = given.get("local_size"), max(map(max, lengths))
    window = None if window is None or window >= longest else window
    if window is None and longest == min(map(max, lengths)) == length:
        return sdpa_mask(**given)  # none at all: rows of one document are causal
    return _Cuts(lengths, window)


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **rest: Any
) -> tuple[torch.Tensor, None]:
    """(B, L, heads, width), as transformers wants it. Raises :class:`ValueError` for a bias of positions."""
    if not isinstance(attention_mask, _Cuts):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)  # type: ignore[no-any-return]
    if rest.get("position_bias") is not None:
        raise ValueError(f"{type(module).__name__} adds a bias to positions; use --set attention=sdpa")
    rows = []
    for row, lengths in enumerate(attention_mask.lengths):
        q, k, v = (each[row : row + 1] for each in (query, key, value))
        parts = [
            sdpa_attention_forward(module, q[:, :, first:end], k[:, :, back:end], v[:, :, back:end], mask, **rest)[0]
            for back, first, end, mask in _blocks(lengths, attention_mask.window, query.device)
        ]
        rows.append(torch.cat(parts, dim=1))
    return torch.cat(rows), None


def _blocks(
    lengths: tuple[int, ...], window: int | None, device: torch.device
) -> Iterator[tuple[int, int, int, torch.Tensor | None]]:
    """(first key, first query, end, mask): documents, those beyond the window in blocks of its size."""
    begin = 0
    for length in lengths:
        close = begin + length
        if window is None or length <= window:
            yield begin, begin, close, None
        else:
            for first in range(begin, close, window):
                back, end = max(begin, first - window + 1), min(first + window, close)
                at_Q1 = torch.arange(first, end, device=device)[:, None]
                at_K = torch.arange(back, end, device=device)
                yield back, first, end, ((at_K <= at_Q1) & (at_K > at_Q1 - window))[None, None]
        begin = close


AttentionInterface.register(DOCUMENTS, _attention)
AttentionMaskInterface.register(DOCUMENTS, _mask)


def refusal(model: Any) -> str | None:
    """Why a Hugging Face decoder cannot run document by document; ``None``: it can."""
    config = model.config.get_text_config()
    if not (model._can_set_attn_implementation() and getattr(model, "_supports_attention_backend", False)):
        return "it does not use transformers' attention interface"
    if not getattr(model, "_supports_sdpa", False) or getattr(config, "attn_logit_softcapping", None) is not None:
        return "its attention is not plain scaled dot-product attention"
    return None


def able(model: Any) -> set[str]:
    """What :func:`~lr2eval.method.train.recipe.automatic_attention` may choose for this model here."""
    kernels = getattr(model, "_compatible_flash_implementations", None) or (FLASH,)
    flash = getattr(model, "_supports_flash_attn", False) and FLASH in kernels and is_flash_attn_2_available()
    flex = getattr(model, "_supports_flex_attn", False)
    return {name for name, can in ((FLASH, flash), (FLEX, flex), (DOCUMENTS, refusal(model) is None)) if can}
