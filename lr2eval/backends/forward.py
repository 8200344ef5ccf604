"""One forward pass of a decoder: logits where they are needed, and reading on into a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache

from lr2eval.method.rope.windowed import WindowedRotaryEmbedding


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """ids_BL of rows padded with 0 on the right."""
    return pad_sequence([torch.tensor(ids) for ids in rows], batch_first=True).to(device)


def extend(
    model: Any,
    rotary: WindowedRotaryEmbedding | None,
    ids_BL: torch.Tensor,
    cache: Cache,
    finals: int | Sequence[int],
    chunk: int | None,
) -> None:
    """Read columns that follow those in ``cache`` (no row is padded before them), without logits."""
    step = chunk or ids_BL.shape[1]
    with torch.no_grad(), rotary.window(finals) if rotary else nullcontext():
        for piece_BL in ids_BL.split(step, dim=1):
            begin = int(cache.get_seq_length())
            columns_1L = torch.arange(begin, begin + piece_BL.shape[1], device=ids_BL.device)[None]
            logits_at(model, piece_BL, [], cache, {"position_ids": columns_1L})


def logits_at(
    model: Any,
    ids_BL: torch.Tensor,
    places: Sequence[tuple[int, int]],
    cache: Cache | None,
    inputs: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """float32 logits_NV after the given (row, column) places of one forward; ``inputs`` go to the model unchanged.

    A hook in front of the output embedding hands it the needed hidden states alone, so that the model's own head (with
    its scaling or soft cap) runs on N positions instead of B x L. Works for every model that has an output embedding;
    where the hook is never called, all logits were made and the needed ones are taken.
    """
    rows_N = torch.tensor([row for row, _ in places], dtype=torch.int64, device=ids_BL.device)
    columns_N = torch.tensor([column for _, column in places], dtype=torch.int64, device=ids_BL.device)
    fired = []

    def pick(module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden_BLH, *rest = args
        fired.append(True)
        return hidden_BLH[rows_N, columns_N][None], *rest

    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(pick) if head is not None else None
    caching = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
    try:
        logits = model(ids_BL, **inputs, **caching).logits
    finally:
        if hook is not None:
            hook.remove()
    return (logits[0] if fired else logits[rows_N, columns_N]).float()
