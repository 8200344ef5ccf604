"""The loss of a micro-batch without the logits of a whole sequence in memory, and the model that computes it.

Logits of 128k tokens over a vocabulary of 128k take 64 GiB in float32. Here only the logits of one chunk of positions
exist at a time, in the forward and again in the backward.

Shape suffixes: B rows, L tokens, C positions of one chunk, H hidden width, V vocabulary; N = B * L.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from lr2eval.errors import UsageError
from lr2eval.method.data.rows import IGNORED
from lr2eval.method.rope.windowed import WindowedRotaryEmbedding
from lr2eval.model.shape import changed_logits


def chunked_loss(
    hidden_NH: torch.Tensor, head: nn.Module, targets_N: torch.Tensor, weights_N: torch.Tensor | None, chunk: int
) -> torch.Tensor:
    """Weighted sum of cross-entropies (nats, float32, scalar) of the positions whose target is not ``IGNORED``.

    ``head`` maps H to V. Equal in value and gradients to plain cross-entropy over all logits, up to rounding.
    """
    if not bool((targets_N != IGNORED).any()):
        # There is no target, but every weight must take part: other processes wait for the sharded ones.
        return head(hidden_NH[:1]).float().sum() * 0.0
    total = hidden_NH.new_zeros((), dtype=torch.float32)
    weights = repeat(None) if weights_N is None else weights_N.split(chunk)
    # Split first: the gradient of an index into all of hidden_NH would be as large as hidden_NH, for every chunk.
    for hidden_CH, targets_C, weights_C in zip(hidden_NH.split(chunk), targets_N.split(chunk), weights, strict=False):
        at_C = (targets_C != IGNORED).nonzero()[:, 0]
        if len(at_C) == 0:
            continue
        args = (hidden_CH[at_C], head, targets_C[at_C], None if weights_C is None else weights_C[at_C])
        total = total + (
            checkpoint(_chunk_loss, *args, use_reentrant=False) if torch.is_grad_enabled() else _chunk_loss(*args)
        )
    return total


def _chunk_loss(
    hidden_CH: torch.Tensor, head: nn.Module, targets_C: torch.Tensor, weights_C: torch.Tensor | None
) -> torch.Tensor:
    logits_CV = head(hidden_CH).float()
    if weights_C is None:
        return cross_entropy(logits_CV, targets_C, reduction="sum")
    return (cross_entropy(logits_CV, targets_C, reduction="none") * weights_C).sum()


class LossModel(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """A decoder, its windowed rotary module and its loss as one module: what is sharded and trained.

    It is one module because a sharded model gathers its weights only before its own forward.
    Raises :class:`UsageError` for a model that changes its logits after the head.
    """

    def __init__(self, model: Any, rotary: WindowedRotaryEmbedding, chunk: int, kernel: Any = None) -> None:
        """``chunk``: positions at a time; ``kernel(weight_VH, hidden_NH, targets_N, bias_V)``: for unweighted rows."""
        super().__init__()
        changed = changed_logits(model)
        if changed or model.get_output_embeddings() is None:
            why = f"changes its logits ({changed})" if changed else "has no output head"
            raise UsageError(
                f"{type(model).__name__} {why}, so its loss cannot be computed in chunks; use another model"
            )
        self.model = model
        self._rotary, self._chunk = [rotary], chunk  # in a list: the module is already registered in the decoder
        self._kernel = kernel

    def forward(
        self,
        input_ids_BL: torch.Tensor,
        position_ids_BL: torch.Tensor,
        targets_BL: torch.Tensor,
        weights_BL: torch.Tensor | None,
        lengths: Sequence[int],
    ) -> torch.Tensor:
        """Weighted sum of cross-entropies. ``targets_BL`` are already shifted: what position i predicts.

        ``lengths`` decide the window: tokens of each row's longest document, also if this process holds only a part of
        the row. There is no mask (position ids that restart separate the documents) and no cache.
        """
        with self._rotary[0].window(list(lengths)):
            hidden_BLH = self.model.base_model(
                input_ids=input_ids_BL, position_ids=position_ids_BL, use_cache=False
            ).last_hidden_state
        weights_N = None if weights_BL is None else weights_BL.reshape(-1)
        hidden_NH, targets_N = hidden_BLH.flatten(0, 1), targets_BL.reshape(-1)
        head = self.model.get_output_embeddings()
        if self._kernel is not None and weights_N is None and bool((targets_N != IGNORED).any()):
            return self._kernel(head.weight, hidden_NH, targets_N, head.bias)
        return chunked_loss(hidden_NH, head, targets_N, weights_N, self._chunk)


def liger(device: str) -> Any:
    """Liger's fused head and cross-entropy, summed. Raises :class:`UsageError` if it cannot run."""
    if not device.startswith("cuda"):
        raise UsageError("--set loss=liger: this kernel runs on GPUs only; use loss=chunked")
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError as error:
        raise UsageError(f"--set loss=liger: {error}; pip install 'lr2eval[train]'") from error
    return LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORED, reduction="sum")
