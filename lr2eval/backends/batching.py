"""How much memory a batch takes, how much is free, and what to do when a batch does not fit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from lr2eval.base.machine import give_memory_back, out_of_memory
from lr2eval.errors import BackendError

CHUNKS = (4096, 1024, 256)
"""Prefill chunks (tokens) tried in turn for a row that does not fit in one piece."""

_SHARE = 0.8
_CGROUP = Path("/sys/fs/cgroup")
_Row = TypeVar("_Row")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Footprint:
    """Bytes one forward takes beside the weights, estimated from the shape of the model (not measured)."""

    kv: int
    """Keys and values of one token in all layers."""
    activations: int
    """Live activations of one token while it is read: residual stream, attention and MLP of one layer."""
    logits: int
    """One position's logits with the float32 copies that a softmax over them needs."""
    layer: int
    """Keys and values of one token in one layer, copied for a row and repeated for every head."""
    mask: int
    """One (query, key) element of an attention mask, with its copy in the model's dtype."""

    @classmethod
    def of(cls, config: Any, item: int) -> Footprint:
        """From a Hugging Face text configuration; ``item`` is the size of one number of the model in bytes."""
        hidden = config.hidden_size
        # Layers may differ, some have no attention, and lists name a size for each layer: the largest one counts.
        layers = [_attention(layer) for layer in getattr(config, "per_layer_config", None) or [config]]
        layers *= config.num_hidden_layers // len(layers)
        read = max(read for _, read in layers)
        inner = _size(config, "intermediate_size") or 4 * hidden
        return cls(
            kv=sum(cached for cached, _ in layers) * item,
            activations=(4 * hidden + 3 * max(inner, read)) * item,
            logits=config.vocab_size * (item + 8),
            layer=max(map(sum, layers)) * item,
            mask=1 + item,
        )

    def generating(
        self, rows: int, prompt: int, new: int, *, padded: bool, chunk: int | None, by_row: bool = False
    ) -> int:
        """Bytes for ``rows`` prompts padded to ``prompt`` tokens that grow by ``new``; ``by_row``: read one by one."""
        read, together = min(prompt, chunk or prompt), 1 if by_row else rows
        mask = read * prompt * self.mask if (padded and not by_row) or read < prompt else 0
        return rows * ((prompt + new) * self.kv + self.logits) + together * (read * self.activations + mask)

    def scoring(self, rows: int, width: int, positions: int, *, chunk: int | None) -> int:
        """Bytes for ``rows`` sequences padded to ``width`` tokens with logits at ``positions`` places in all.

        In chunks, keys and values are kept and a mask is made, and only one chunk's logits are alive at a time.
        """
        if chunk is None or chunk >= width:
            return rows * width * self.activations + positions * self.logits
        return (
            rows * (width * self.kv + chunk * self.activations)
            + chunk * width * self.mask
            + min(positions, rows * chunk) * self.logits
        )

    def sharing(self, prefixes: int, prefix: int, rows: int, width: int, positions: int, *, chunk: int | None) -> int:
        """Bytes for ``rows`` sequences of ``width`` further tokens over ``prefixes`` cached beginnings.

        A beginning's keys and values are held once; a row has its own copy in one layer at a time.
        """
        read = min(prefix, chunk or prefix)
        first = prefixes * read * self.activations + (read * prefix * self.mask if read < prefix else 0)
        step, whole = min(width, chunk or width), prefix + width
        kept = rows * width * self.kv if step < width else 0
        second = rows * (step * self.activations + whole * self.layer + step * whole * self.mask) + kept
        return prefixes * prefix * self.kv + max(first, second + min(positions, rows * step) * self.logits)


def _size(config: Any, name: str) -> int:
    value = getattr(config, name, None) or 0
    return max(value) if isinstance(value, list | tuple) else int(value)


def _attention(config: Any) -> tuple[int, int]:
    """Numbers that one layer caches for a token, and numbers of its keys and values for all heads."""
    heads = _size(config, "num_attention_heads") or 1
    if latent := _size(config, "kv_lora_rank"):
        rotary = _size(config, "qk_rope_head_dim")
        each = _size(config, "qk_nope_head_dim") + rotary + _size(config, "v_head_dim")
        return latent + rotary, heads * each
    key = _size(config, "head_dim") or config.hidden_size // heads
    each = key + (_size(config, "v_head_dim") or key)
    return (_size(config, "num_key_value_heads") or heads) * each, heads * each


def free_memory(device: torch.device, taken: int = 0) -> int:
    """Bytes a batch may take: four fifths of what is free less ``taken``, rounded down.

    Free memory is never quite the same, but runs on one machine should make the same batches. Others use a CPU's memory
    at the same time, so there the result is a power of two. On a GPU that would waste up to half of it: there only the
    three highest binary digits are kept.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        free = min(psutil.virtual_memory().available, _cgroup_free())
    share = max(int((free - taken) * _SHARE), 1)
    step = 1 << max(share.bit_length() - (3 if device.type == "cuda" else 1), 0)
    return share // step * step


def _cgroup_free() -> int:
    """What a container (cgroup v2) may still take; huge without a limit. psutil sees only the whole machine.

    Cached file pages count as taken there but are given back on demand: after loading weights they are most of it.
    """
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        taken = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return max(limit - taken + int(stat["active_file"]) + int(stat["inactive_file"]), 0)
    except (OSError, ValueError, KeyError):
        return 1 << 62


def run_split(
    rows: Sequence[_Row],
    run: Callable[[Sequence[_Row], int | None], list[_Result]],
    *,
    chunk: int | None,
    length: Callable[[_Row], int],
    chunks: Sequence[int] = CHUNKS,
) -> list[_Result]:
    """``run(rows, chunk)``; out of memory, the halves, and for a single row ever smaller prefill chunks.

    ``chunks`` are the sizes to try, none for a model that reads rows whole.

    Results stand in the order of ``rows``. Raises :class:`BackendError` naming the length (tokens) that never fitted.
    """
    try:
        return run(rows, chunk)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    give_memory_back()
    if len(rows) > 1:
        half = len(rows) // 2
        first = run_split(rows[:half], run, chunk=chunk, length=length, chunks=chunks)
        return first + run_split(rows[half:], run, chunk=chunk, length=length, chunks=chunks)
    tokens = length(rows[0])
    smaller = next((size for size in chunks if size < min(chunk or tokens, tokens)), None)
    if smaller is None:
        how = "even alone and read in pieces" if chunks else "even alone, and this model cannot be read in pieces"
        raise BackendError(
            f"a sequence of {tokens:,} tokens does not fit into memory, {how}; choose shorter --lengths, "
            "--dtype bfloat16, or a machine with more memory"
        )
    return run_split(rows, run, chunk=smaller, length=length, chunks=chunks)


MAX_ROWS = 64
TOKENS_CPU = 16_384
"""More padded tokens gain nothing on a CPU, and a batch is what a killed run loses."""
TOKENS_GPU = 131_072


@dataclass(frozen=True)
class BatchLimits:
    """What a batch may hold at most; a single item always makes a batch."""

    rows: int
    tokens: int | None
    """To be read, padding included, and to be generated; ``None`` when the user fixed the number of rows."""
    memory: int
    """Bytes beside the weights."""
    chunk: int | None = None
    """Tokens of a prefill chunk, if the user fixed them."""
    chunks: tuple[int, ...] = CHUNKS
    """Prefill chunks to choose from where memory is short."""

    @classmethod
    def of(
        cls, batch_size: int | str, device: str, memory: int, chunk: int | None = None, *, whole: bool = False
    ) -> BatchLimits:
        """The limits for ``--batch-size`` on a device of the given type; ``whole``: rows are never read in pieces."""
        chunks = () if whole else CHUNKS
        if batch_size == "auto":
            return cls(MAX_ROWS, TOKENS_CPU if device == "cpu" else TOKENS_GPU, memory, chunk, chunks)
        return cls(int(batch_size), None, memory, chunk, chunks)

    def allow(self, rows: int, tokens: int, memory: int) -> bool:
        """Whether ``rows`` rows of ``tokens`` tokens in all that take ``memory`` bytes are one batch."""
        fits = self.tokens is None or tokens <= self.tokens
        return rows <= self.rows and fits and memory <= self.memory

    def chunk_for(self, length: int, cost: Callable[[int | None], int]) -> int | None:
        """The prefill chunk for a row of ``length`` tokens that takes ``cost(chunk)`` bytes.

        ``None`` if it fits whole, else the largest chunk that makes it fit (the smallest one if none does).
        """
        if self.chunk or cost(None) <= self.memory:
            return self.chunk
        below = [chunk for chunk in self.chunks if chunk < length]
        return next((chunk for chunk in below if cost(chunk) <= self.memory), below[-1] if below else None)


def pack(lengths: Sequence[int], groups: Sequence[Hashable], fits: Callable[[list[int]], bool]) -> list[list[int]]:
    """Numbers 0..n-1 packed greedily, group by group, longest first (ties in order).

    Packing the members of one batch again, in its order, gives that batch: the property that lets a backend plan the
    requests of every call although the runner already planned the shard.
    """
    batches: list[list[int]] = []
    turn = {group: place for place, group in reversed(list(enumerate(groups)))}
    for number in sorted(range(len(groups)), key=lambda number: (turn[groups[number]], -lengths[number])):
        if batches and groups[batches[-1][0]] == groups[number] and fits([*batches[-1], number]):
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def plan_generation(
    prompts: Sequence[tuple[int, int, int]],
    groups: Sequence[Hashable],
    footprint: Footprint,
    limits: BatchLimits,
    *,
    shares: bool = True,
    by_row: bool = False,
) -> list[list[int]]:
    """Batches of prompt numbers; ``prompts``: (tokens, new tokens, beams) of each. Only one group shares a batch.

    New tokens and beams are the same within a group. ``shares``: rows that begin alike are read on from one row, which
    takes memory too. ``by_row``: prompts are read one by one, and only the answers are decoded together. Such a batch
    may have twice the tokens, because each step of decoding reads all weights, for few rows as for many.
    """

    def fits(batch: list[int]) -> bool:
        tokens, new, beams = prompts[batch[0]]  # longest first
        rows = len(batch) * beams
        how = {"padded": prompts[batch[-1]][0] < tokens, "by_row": by_row}
        memory = footprint.generating(rows, tokens, new, chunk=limits.chunk, **how)
        if rows > 1 and shares:
            memory += tokens * footprint.kv
        return limits.allow(len(batch), len(batch) * (tokens + new) // (1 + by_row), memory)

    return pack([tokens for tokens, _, _ in prompts], groups, fits)


def pieces(widths: Sequence[int], overhead: int) -> list[list[int]]:
    """Numbers 0..n-1 cut into forwards, longest first, for the fewest tokens: padding, and ``overhead`` a forward.

    A row much longer than the others would otherwise pad them all.
    """
    order = sorted(range(len(widths)), key=lambda number: -widths[number])
    best, cut = [0], [0]
    for stop in range(1, len(order) + 1):
        costs = [best[start] + (stop - start) * widths[order[start]] + overhead for start in range(stop)]
        best.append(min(costs))
        cut.append(costs.index(best[-1]))
    found: list[list[int]] = []
    stop = len(order)
    while stop:
        found.append(order[cut[stop] : stop])
        stop = cut[stop]
    return found[::-1]
