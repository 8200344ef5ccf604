"""Checks for what the rotary module cannot see and would silently get wrong: packed batches, and caches that grow
beyond the original window.

Shape suffixes as in :mod:`lr2eval.method.rope.windowed`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

_SIDES = "lr2eval_long_rows"
"""Name under which a cache carries the sides its rows were read under; an attribute, so that copies keep it."""


def arguments(forward: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a call by name."""
    return inspect.signature(forward).bind_partial(*args, **kwargs).arguments


def is_packed(position_ids_BL: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether ids fall inside a row between two tokens that are no padding: several documents in one row."""
    if position_ids_BL.ndim != 2 or position_ids_BL.shape[1] < 2:
        return False
    falls_BL = position_ids_BL[:, 1:] < position_ids_BL[:, :-1]
    if mask is not None and mask.ndim == 2:
        real_BL = mask[:, -position_ids_BL.shape[1] :].to(position_ids_BL.device).bool()
        falls_BL = falls_BL & real_BL[:, 1:] & real_BL[:, :-1]
    return bool(falls_BL.any())


def check_packed(decoder: Any, given: Mapping[str, Any]) -> None:
    """Refuse a packed batch whose documents transformers would not keep apart.

    It uses position ids only if there is neither a mask nor a cache, and a flash kernel only in a batch of one row.
    Raises :class:`ValueError` that says how to fix it.
    """
    ids, mask = given.get("position_ids"), given.get("attention_mask")
    if ids is None or (isinstance(mask, torch.Tensor) and mask.ndim == 4) or not is_packed(ids, mask):
        return
    said = "this batch packs several documents into one row (its position ids fall)"
    if mask is not None:
        raise ValueError(f"{said}; an attention mask would let each document see the ones before it, so omit the mask")
    use_cache = given.get("use_cache")
    if use_cache is None:
        recomputing = decoder.training and getattr(decoder, "gradient_checkpointing", False)
        use_cache = getattr(decoder.config, "use_cache", False) and not recomputing
    if use_cache or given.get("past_key_values") is not None:
        raise ValueError(f"{said}; a cache would let each document see the ones before it, so pass use_cache=False")
    inputs = given.get("input_ids") if given.get("input_ids") is not None else given.get("inputs_embeds")
    rows = len(ids) if inputs is None else len(inputs)
    if rows > 1 and "flash" in str(getattr(decoder.config, "_attn_implementation", "")):
        raise ValueError(f"{said}; flash attention needs them all in a single row, so pack the {rows} rows into one")


def sides_of(cache: Any) -> tuple[bool, ...] | None:
    """Which rows of a filled cache were read under the long factors; ``None`` for an empty or unknown one."""
    if cache is None or int(cache.get_seq_length()) == 0:
        return None
    return getattr(cache, _SIDES, None)


def remember_sides(cache: Any, sides: tuple[bool, ...]) -> None:
    """Note on a cache which rows it now holds under the long factors."""
    setattr(cache, _SIDES, sides)


def check_sides(cached: tuple[bool, ...], now: tuple[bool, ...]) -> None:
    """Refuse to continue a cache under other factors than it was filled with; rows may have been repeated or dropped.

    Raises :class:`ValueError` that says how to fix it.
    """
    if len(cached) == len(now):
        wrong = [new for old, new in zip(cached, now, strict=True) if new != old]
    else:
        wrong = sorted(set(now) - set(cached))
    if not wrong:
        return
    was, would = ("short", "long") if wrong[0] else ("long", "short")
    raise ValueError(
        f"a row's cache was filled with the {was} factors but would be continued with the {would} ones; read the "
        "row again without the cache, or state its final length from the first token on: `with rotary.window(lengths):`"
    )
