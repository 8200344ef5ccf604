"""Prefill of prompts with a common beginning: each is read from where it differs from the one before.

In sorted order, every prompt shares most with its neighbour. So a walk over them reads each token of the tree of all
beginnings once. A needle grid over one haystack costs about half.

Shape suffixes: B rows, K heads, L columns (left padding, prompt without its last token), D width of keys or values.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from transformers import Cache, DynamicCache

from lr2eval.backends.forward import extend
from lr2eval.backends.prefix.cache import roomy
from lr2eval.backends.prefix.families import LEAST_SAVED, common
from lr2eval.method.rope.guards import remember_sides, sides_of
from lr2eval.method.rope.windowed import WindowedRotaryEmbedding

LEAST_CPU = 16
LEAST_GPU = 512
"""Tokens that a row must save on average. Each row has its own forward, which uses a GPU less well than a batch."""


def walk(prompts: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
    """The order in which to read prompts, and for each how many tokens it takes from the one read before it.

    The last token of a prompt is neither taken nor read: decoding begins with it.
    """
    keys = [np.asarray(prompt[:-1], dtype=">u4") for prompt in prompts]
    order = sorted(range(len(keys)), key=lambda row: keys[row].tobytes())
    return order, [0, *(common(keys[a], keys[b]) for a, b in pairwise(order))]


def worthwhile(prompts: Sequence[Sequence[int]], device: torch.device) -> bool:
    """Whether the prompts share enough that a walk is faster than one batched prefill."""
    if len(prompts) < 2:
        return False
    saved, least = sum(walk(prompts)[1]), LEAST_CPU if device.type == "cpu" else LEAST_GPU
    return saved >= max(LEAST_SAVED * sum(map(len, prompts)), least * len(prompts))


def prefill(
    model: Any,
    rotary: WindowedRotaryEmbedding | None,
    prompts: Sequence[Sequence[int]],
    window: int,
    chunk: int | None,
    columns: int,
) -> Cache:
    """A cache of all prompts but their last tokens, left-padded to one width, with room for ``columns`` tokens.

    All of it is under the factors for ``window`` tokens. With ``chunk``, prompts are read in pieces of that many.
    """
    width = max(map(len, prompts)) - 1
    path, filled = DynamicCache(), roomy(columns)
    for row, kept in zip(*walk(prompts), strict=True):
        for layer in path.layers:
            layer.keys, layer.values = layer.keys[:, :, :kept], layer.values[:, :, :kept]
        fresh = torch.tensor([prompts[row][kept:-1]], dtype=torch.int64, device=model.device)
        if fresh.shape[1]:
            extend(model, rotary, fresh, path, window, chunk)
        for number, layer in enumerate(path.layers):
            if number == len(filled.layers):
                # Values may be narrower or wider than keys.
                zeros = (at.new_zeros(1, at.shape[1], 1, at.shape[3]) for at in (layer.keys, layer.values))
                filled.update(*(zero.expand(len(prompts), -1, width, -1) for zero in zeros), number)
            place = filled.layers[number]
            pad = width - layer.keys.shape[2]
            place.keys[row, :, pad:], place.values[row, :, pad:] = layer.keys[0], layer.values[0]
    sides = sides_of(path)
    if sides is not None:
        remember_sides(filled, sides * len(prompts))
    return filled
