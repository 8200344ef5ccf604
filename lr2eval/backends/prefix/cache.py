"""Beginnings that several rows share: read once, then continued by each row.

Shape suffixes: G beginnings, B rows, P columns of the beginnings and L columns after them (both right-padded), H hidden
width, N needed positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from lr2eval.backends.forward import extend, padded
from lr2eval.method.rope.guards import remember_sides, sides_of
from lr2eval.method.rope.windowed import WindowedRotaryEmbedding


class _Layer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """The beginnings of a layer, given to each row as it is read; ``keep`` also keeps the rows' own tokens.

    Sliding layers keep everything too: their mask does the sliding, and rows of any length continue from here.
    """

    def __init__(self, beginning: DynamicLayer, owners_B: torch.Tensor, keep: bool) -> None:
        super().__init__()
        self._beginning = beginning
        self._owners_B = owners_B
        self._keep = keep
        self.lazy_initialization(beginning.keys, beginning.values)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._keep:
            key_states, value_states = super().update(key_states, value_states)
        return self._fork(self._beginning.keys, key_states), self._fork(self._beginning.values, value_states)

    def get_seq_length(self) -> int:
        return int(self._beginning.get_seq_length() + super().get_seq_length())

    def _fork(self, beginning: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        rows = beginning.expand(len(own), -1, -1, -1) if len(beginning) == 1 else beginning[self._owners_B]
        return torch.cat([rows, own], dim=-2)


class RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers is untyped here
    """A layer with room for ``columns`` tokens: transformers' own copies all keys and values for each new token."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self._buffers: dict[str, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = int(self.get_seq_length())
        self.keys, self.values = self._put("keys", key_states, begin), self._put("values", value_states, begin)
        return self.keys, self.values

    def keep(self, rows: Sequence[int], first: int) -> None:
        """Drop the other rows, and the columns before ``first``."""
        self.columns -= first
        self._buffers.clear()
        self.keys, self.values = self.keys[rows, :, first:], self.values[rows, :, first:]

    def _put(self, name: str, fresh: torch.Tensor, begin: int) -> torch.Tensor:
        held, buffer = getattr(self, name), self._buffers.get(name)
        end = begin + fresh.shape[2]
        if buffer is None or end > buffer.shape[2] or (begin and held.data_ptr() != buffer.data_ptr()):  # rows changed
            rows, heads, _, width = fresh.shape
            buffer = self._buffers[name] = fresh.new_empty(rows, heads, max(end, self.columns), width)
            if begin:
                buffer[:, :, :begin] = held
        buffer[:, :, begin:end] = fresh
        return buffer[:, :, :end]


def roomy(columns: int) -> Cache:
    """An empty cache of such layers."""
    return Cache(layer_class_to_replicate=partial(RoomyLayer, columns))


@dataclass(frozen=True)
class Beginnings:
    """Read beginnings of ``lengths`` tokens (G of them); padding to P columns follows the shorter ones."""

    cache: Cache
    lengths: tuple[int, ...]


class Begun:
    """B rows that have read their beginning; ``owners[i]`` is the number of row ``i``'s beginning."""

    def __init__(self, beginnings: Beginnings, owners: Sequence[int], device: torch.device) -> None:
        self._beginnings, self._owners, self._device = beginnings, owners, device
        self.starts = [beginnings.lengths[owner] for owner in owners]
        """How many tokens of each row are read."""

    def fork(self, *, keep: bool) -> Cache:
        """A cache for one forward over all rows, or with ``keep`` for several consecutive forwards."""
        source, owners_B = self._beginnings.cache, torch.tensor(self._owners, device=self._device)
        cache = Cache(layers=[_Layer(layer, owners_B, keep) for layer in source.layers])
        sides = sides_of(source)
        if sides is not None:
            remember_sides(cache, tuple(sides[owner] for owner in self._owners))
        return cache

    def inputs(self, start: int, stop: int) -> dict[str, torch.Tensor]:
        """Positions, and a mask where beginnings are padded, for the columns ``start`` to ``stop`` of L."""
        starts_B1 = torch.tensor(self.starts, device=self._device)[:, None]
        inputs = {"position_ids": starts_B1 + torch.arange(start, stop, device=self._device)}
        width = max(self._beginnings.lengths)
        if min(self.starts) < width:
            real_BP = torch.arange(width, device=self._device) < starts_B1
            inputs["attention_mask"] = torch.nn.functional.pad(real_BP.long(), (0, stop), value=1)
        return inputs


@dataclass
class Kept:
    """Reads beginnings; keeps the last one that was read alone, for the next batch of the same family."""

    model: Any
    rotary: WindowedRotaryEmbedding | None
    _key: object = None
    _held: Beginnings | None = None

    def read(self, beginnings: Sequence[Sequence[int]], finals: Sequence[int], chunk: int | None) -> Beginnings:
        """Prefill each beginning once, under the factors for rows of ``finals`` tokens in all (one number for each).

        With ``chunk``, in pieces of that many columns. A single beginning is not read again under the same factors and
        in the same pieces.
        """
        long = self.rotary is not None and finals[0] > self.rotary.scaling.original_window
        key = (tuple(beginnings[0]), long, chunk) if len(beginnings) == 1 else None
        if self._held is not None and key is not None and key == self._key:
            return self._held
        self.drop()
        fresh = Beginnings(DynamicCache(), tuple(len(ids) for ids in beginnings))
        extend(self.model, self.rotary, padded(beginnings, self.model.device), fresh.cache, finals, chunk)
        if key is not None:
            self._key, self._held = key, fresh
        return fresh

    def drop(self) -> None:
        """Free the memory."""
        self._key = self._held = None
