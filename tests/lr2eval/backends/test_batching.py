from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch

from lr2eval.backends import batching
from lr2eval.backends.batching import BatchLimits, Footprint, free_memory, run_split
from lr2eval.errors import BackendError
from tests.tiny_models import tiny_config

CPU = torch.device("cpu")


def _machine_with(monkeypatch: pytest.MonkeyPatch, available: int) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": available}))


def test_footprint_follows_the_shape_of_the_model() -> None:
    footprint = Footprint.of(tiny_config("llama"), 4)
    assert footprint.kv == 2 * 2 * 2 * 16 * 4  # key and value, layers, heads, head dimension, float32
    assert footprint.logits == 320 * (4 + 8)
    whole = footprint.generating(2, 1000, 100, padded=False, chunk=None)
    assert whole < footprint.generating(2, 1000, 100, padded=True, chunk=None)
    assert whole < footprint.generating(3, 1000, 100, padded=False, chunk=None)
    assert whole > footprint.generating(2, 1000, 100, padded=False, chunk=10)
    one = footprint.scoring(1, 1000, 1, chunk=None)
    assert footprint.scoring(1, 1000, 1000, chunk=None) == one + 999 * footprint.logits
    assert footprint.scoring(1, 1000, 1000, chunk=10) < one
    assert footprint.scoring(1, 1000, 1, chunk=1000) == one


def test_beginnings_are_held_beside_the_larger_of_two_forwards() -> None:
    footprint = Footprint.of(tiny_config("llama"), 4)
    assert footprint.layer == 2 * (2 + 4) * 16 * 4  # the cached heads and their copies for every head
    rows = footprint.sharing(2, 100, 8, 10, 8, chunk=None)
    per_row = 10 * footprint.activations + 110 * footprint.layer + 10 * 110 * footprint.mask + footprint.logits
    assert rows == 2 * 100 * footprint.kv + 8 * per_row
    assert footprint.sharing(2, 1000, 1, 1, 1, chunk=None) == 2 * 1000 * (footprint.kv + footprint.activations)
    in_pieces = footprint.sharing(2, 1000, 1, 1, 1, chunk=10)
    second = footprint.activations + 1001 * (footprint.layer + footprint.mask) + footprint.logits
    assert in_pieces == 2 * 1000 * footprint.kv + second
    kept = footprint.sharing(2, 100, 8, 20, 8, chunk=5) - footprint.sharing(2, 100, 8, 5, 8, chunk=5)
    assert kept == 8 * (20 * footprint.kv + 15 * (footprint.layer + 5 * footprint.mask))


def test_free_memory_is_a_steady_power_of_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(batching, "_CGROUP", tmp_path)
    for available in (11_000_000_000, 13_000_000_000):
        _machine_with(monkeypatch, available)
        assert free_memory(CPU) == 1 << 33
    assert free_memory(CPU, 4_000_000_000) == 1 << 32  # 0.8 * (13 - 4) billion, rounded down
    _machine_with(monkeypatch, 0)
    assert free_memory(CPU) == 1
    assert free_memory(CPU, 1 << 40) == 1


@pytest.mark.parametrize(("free", "found"), [(63, 48), (63.1, 48), (78, 56), (50, 40), (139, 96)])
def test_free_memory_of_a_gpu_keeps_at_least_seven_tenths_of_its_share(
    monkeypatch: pytest.MonkeyPatch, free: float, found: int
) -> None:
    """63 GiB free were 32 GiB for a batch when rounded to a power of two."""
    gib = 1 << 30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * gib) - 2 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * gib)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 * gib)
    assert free_memory(torch.device("cuda")) == found * gib
    assert found > 0.7 * 0.8 * free


def test_a_container_limit_counts_but_not_its_file_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(batching, "_CGROUP", tmp_path)
    _machine_with(monkeypatch, 1 << 40)
    (tmp_path / "memory.max").write_text("4000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 1500\nactive_file 500\ninactive_file 1000\n")
    assert free_memory(CPU) == 1024  # 0.8 * (4000 - 3000 + 1500), rounded down
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(CPU) == 1 << 39


def test_the_largest_chunk_that_fits_is_taken() -> None:
    def cost(chunk: int | None) -> int:
        return 8000 if chunk is None else chunk

    def chunk(length: int, memory: int, stated: int | None = None) -> int | None:
        return BatchLimits(1, None, memory, stated).chunk_for(length, cost)

    assert chunk(8000, 9000) is None
    assert chunk(8000, 5000) == 4096
    assert chunk(8000, 2000) == 1024
    assert chunk(8000, 10) == 256
    assert chunk(200, 10) is None
    assert chunk(8000, 10, stated=300) == chunk(8000, 9000, stated=300) == 300


def test_results_keep_their_order_when_a_batch_is_split() -> None:
    seen = []

    def run(rows: Sequence[int], chunk: int | None) -> list[int]:
        seen.append((len(rows), chunk))
        if len(rows) > 2:
            raise MemoryError
        return [row * 10 for row in rows]

    assert run_split([1, 2, 3, 4, 5], run, chunk=None, length=lambda row: row) == [10, 20, 30, 40, 50]
    assert seen == [(5, None), (2, None), (3, None), (1, None), (2, None)]


@pytest.mark.parametrize("text", ["DefaultCPUAllocator: can't allocate memory: you tried", "CUDA out of memory"])
def test_a_single_row_tries_every_smaller_chunk(text: str) -> None:
    chunks = []

    def run(rows: Sequence[int], chunk: int | None) -> list[int]:
        chunks.append(chunk)
        raise RuntimeError(text)

    with pytest.raises(BackendError, match="a sequence of 5,000 tokens does not fit into memory"):
        run_split([5000], run, chunk=None, length=lambda row: row)
    assert chunks == [None, 4096, 1024, 256]
