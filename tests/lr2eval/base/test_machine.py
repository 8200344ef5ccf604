"""What counts as running out of memory, and what a manifest tells about the machine."""

from __future__ import annotations

import pytest
import torch

from lr2eval.base.machine import hardware, out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_every_device_says_it_in_its_own_words(error: Exception) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
        RuntimeError("out of resource: shared memory, Required: 303104, Hardware limit: 232448"),
        ValueError("a row does not fit"),
    ],
)
def test_other_errors_are_not_tried_again(error: Exception) -> None:
    """A kernel that asks for too much shared memory will not get it in smaller batches."""
    assert not out_of_memory(error)


def test_hardware_names_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "accelerator" not in hardware()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "NVIDIA H100")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91900)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert hardware()["accelerator"] == "2 x NVIDIA H100"
    assert hardware()["cuda"] == "13.0, cuDNN 91900"
