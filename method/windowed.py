"""The one window rule (design D6), for any Hugging Face decoder with a rotary module.

A sequence uses the short factors while it holds at most ``Lt`` tokens in all and the long ones beyond: every token
of it, never part of each. Stock transformers decides once per forward, for the whole batch, from the largest position
id; that is wrong for batches of short and long rows, for prompts read in chunks and for caches that live across ``Lt``.

Shape suffixes: B rows, L tokens of this forward, S segments of a row, R rotary pairs, D = 2R rotary dimensions,
H hidden width; 1 an axis that broadcasts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lr2eval.method.rope import RopeScaling, Which


class WindowedRotaryEmbedding(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """cos and sin tables with the short or the long factors chosen per row and per packed segment.

    Without a statement, the final length of a segment is read from the position ids: a segment ends where ids fall, and
    its length is its largest id + 1. That is right for one forward over whole sequences. The ids cannot tell

    * the tokens still to come (policy ``budget``), earlier or later chunks of a prompt, a cache that is continued;
    * where a right-padded row ends, as its ids run on over the padding.

    In these cases the caller states final lengths: ``with rotary.window(lengths): ...``.

    Frequencies are held in float32 outside the module's buffers, so that ``model.to(bfloat16)`` cannot round them.
    """

    def __init__(self, scaling: RopeScaling) -> None:
        super().__init__()
        self.scaling = scaling
        self._inv_freq_R: dict[tuple[Which, torch.device], torch.Tensor] = {}
        self._stated_B: torch.Tensor | None = None

    @contextmanager
    def window(self, lengths: int | Sequence[int] | torch.Tensor) -> Iterator[None]:
        """State final lengths in tokens for the forwards inside the block: one per row, or one for all rows."""
        before = self._stated_B
        self._stated_B = torch.as_tensor(lengths, dtype=torch.int64).reshape(-1)
        try:
            yield
        finally:
            self._stated_B = before

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(cos_BLD, sin_BLD) in the dtype of ``x_BLH``, for ``position_ids_BL``; B is 1 where one table serves all.

        The names of the arguments are those that transformers calls rotary modules with. Raises :class:`ValueError` if
        the stated lengths are not one per row.
        """
        long_BL = self._is_long(x.shape[0], position_ids)
        if bool(long_BL.all()):
            return self._tables("long", position_ids, x)
        short = self._tables("short", position_ids, x)
        if not bool(long_BL.any()):
            return short
        long = self._tables("long", position_ids, x)
        long_BL1 = long_BL.to(x.device)[..., None]
        return torch.where(long_BL1, long[0], short[0]), torch.where(long_BL1, long[1], short[1])

    def _is_long(self, rows: int, position_ids_BL: torch.Tensor) -> torch.Tensor:
        if self._stated_B is None:
            return segment_lengths(position_ids_BL) > self.scaling.original_window
        if self._stated_B.numel() not in (1, rows):
            raise ValueError(f"{self._stated_B.numel()} final lengths were stated for a batch of {rows} rows")
        return (self._stated_B > self.scaling.original_window)[:, None]

    def _tables(
        self, which: Which, position_ids_BL: torch.Tensor, x_BLH: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        key = (which, x_BLH.device)
        if key not in self._inv_freq_R:
            self._inv_freq_R[key] = self.scaling.inv_freq(which).to(x_BLH.device)
        angles_BLR = position_ids_BL[..., None].float() * self._inv_freq_R[key]
        angles_BLD = torch.cat((angles_BLR, angles_BLR), dim=-1)
        factor = self.scaling.attention_factor(which)
        return (angles_BLD.cos() * factor).to(x_BLH.dtype), (angles_BLD.sin() * factor).to(x_BLH.dtype)


def segment_lengths(position_ids_BL: torch.Tensor) -> torch.Tensor:
    """For each token, the length of its segment as far as position ids tell: largest id of the segment + 1.

    A segment ends where ids fall. Shape in and out ``(B, L)``, int64.
    """
    falls_BL = torch.zeros_like(position_ids_BL)
    falls_BL[:, 1:] = position_ids_BL[:, 1:] < position_ids_BL[:, :-1]
    segment_BL = falls_BL.cumsum(dim=1)
    longest_BS = torch.zeros_like(position_ids_BL).scatter_reduce(1, segment_BL, position_ids_BL, "amax")
    return longest_BS.gather(1, segment_BL) + 1


def install(model: Any) -> WindowedRotaryEmbedding | None:
    """Replace the rotary module of a Hugging Face decoder; ``None`` (nothing changed) if it is not ``longrope``.

    Raises :class:`ValueError` naming the model's class when its decoder has no single rotary module to replace, and for
    factor lists of the wrong length.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type")} | {layer.get("rope_type") for layer in rope.values() if isinstance(layer, dict)}
    if "longrope" not in kinds:
        return None
    decoder = model.base_model
    if rope.get("rope_type") != "longrope" or not isinstance(getattr(decoder, "rotary_emb", None), nn.Module):
        raise ValueError(
            f"{type(model).__name__} has no single rotary module `rotary_emb` to replace, so its longrope "
            "windows cannot be kept apart"
        )
    rotary = WindowedRotaryEmbedding(RopeScaling.from_config(config))
    decoder.rotary_emb = rotary
    return rotary
