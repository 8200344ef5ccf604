"""``lr2eval doctor``: check the installation."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import typer

from lr2eval.base.console import say
from lr2eval.base.files import cache_dir, output_folder
from lr2eval.errors import Lr2EvalError

EXTRAS = {
    "vllm": "vllm",
    "ray": "ray",
    "train": "liger_kernel",
    "longbench": "jieba",
    "api": "tenacity",
    "models": "gguf",
}
Verdict = tuple[str, str]
"""("ok" | "note" | "PROBLEM", what was found)."""


def _packages() -> Verdict:
    from lr2eval.base.machine import versions

    found = versions()
    missing = [name for name in ("lm_eval", "torch", "transformers") if name not in found]
    if missing:
        return "PROBLEM", f"not installed: {', '.join(missing)}; pip install lr2eval again"
    return "ok", ", ".join(f"{name} {version}" for name, version in found.items())


def _device() -> Verdict:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return "ok", f"{torch.cuda.get_device_name(0)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    import psutil

    memory = psutil.virtual_memory().available / 2**30
    return "note", f"no GPU; torch threads on the CPU: {torch.get_num_threads()}; free memory: {memory:.0f} GiB"


def _tasks() -> Verdict:
    from lr2eval.registry import benchmarks

    return "ok", ", ".join(f"{name} ({len(b.tasks())})" for name, b in benchmarks().items())


def _cache() -> Verdict:
    folder = cache_dir()
    try:
        output_folder(folder)
    except Lr2EvalError as error:
        return "PROBLEM", f"{error.__cause__}; make it writable or set LR2EVAL_CACHE"
    return "ok", str(folder)


def _disk() -> Verdict:
    free = {
        str(place): shutil.disk_usage(place).free / 2**30
        for place in {cache_dir(), Path(os.getcwd())}
        if place.exists()
    }
    shown = ", ".join(f"{space:.1f} GiB free at {place}" for place, space in free.items())
    return ("note" if min(free.values()) < 2 else "ok"), shown


def _extras() -> Verdict:
    here = [extra for extra, module in EXTRAS.items() if importlib.util.find_spec(module) is not None]
    others = [extra for extra in EXTRAS if extra not in here]
    get = f"; not installed: {', '.join(others)} (pip install 'lr2eval[{','.join(others)}]')" if others else ""
    return "note", f"installed: {', '.join(here) or 'none'}{get}"


def doctor() -> None:
    """Check the installation: torch, device, extras, cache, disk."""
    verdicts = []
    for check in (_packages, _device, _tasks, _cache, _disk, _extras):
        try:
            verdict, found = check()
        except (ImportError, OSError, Lr2EvalError) as error:
            verdict, found = "PROBLEM", str(error)
        verdicts.append(verdict)
        say(f"{verdict:8}{check.__name__[1:]:10}{found}")
    raise typer.Exit(2 if "PROBLEM" in verdicts else 0)
