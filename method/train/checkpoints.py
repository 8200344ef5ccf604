"""Checkpoints of a training: everything that the next step depends on, in a folder that is complete or ignored.

``checkpoints/step-000020/`` holds ``weights.safetensors``, ``optimizer.safetensors``, ``random.safetensors`` (generator
states of every process) and ``state.json``. It is valid only with the marker ``COMPLETE``, which is written last, after
all other files are synced to disk, and lists their sizes. No pickle is written or read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from lr2eval.base.files import write_json
from lr2eval.errors import StoreError
from lr2eval.method.train.parallel import Ranks

FOLDER = "checkpoints"
MARKER = "COMPLETE"
_STATES = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint. ``facts`` is the content of ``state.json``."""

    folder: Path
    step: int
    facts: Mapping[str, Any]


def name_of(step: int) -> str:
    """Folder name of the checkpoint after ``step`` steps."""
    return f"step-{step:06d}"


def complete(home: Path) -> list[Saved]:
    """The complete checkpoints of an output folder, oldest first.

    Raises :class:`StoreError` if a file that a marker lists is missing or has another size.
    """
    found = []
    for folder in sorted((home / FOLDER).glob("step-*")):
        try:
            sizes = json.loads((folder / MARKER).read_text(encoding="utf-8"))
            wrong = [name for name, size in sizes.items() if (folder / name).stat().st_size != size]
            facts = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            if not (folder / MARKER).exists():
                continue
            raise StoreError(
                f"{error.filename}: is missing; remove {folder} to resume from the checkpoint before it"
            ) from error
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{folder}: cannot be read ({error}); remove it to resume from the checkpoint before it"
            ) from error
        if wrong:
            raise StoreError(
                f"{folder / wrong[0]}: its size has changed; remove {folder} to resume from the checkpoint before it"
            )
        found.append(Saved(folder, int(facts["step"]), facts))
    return found


def tidy(home: Path, keep: int) -> None:
    """Remove incomplete checkpoints and all complete ones but the last ``keep``; the marker is removed first."""
    whole = [saved.folder for saved in complete(home)]
    for folder in sorted((home / FOLDER).glob("step-*")):
        if folder not in whole[len(whole) - keep if len(whole) > keep else 0 :]:
            (folder / MARKER).unlink(missing_ok=True)
            shutil.rmtree(folder)


def save(
    home: Path, step: int, facts: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> None:
    """Write the checkpoint after ``step`` steps. Every process must call it; the first one writes.

    Raises :class:`StoreError` in every process if writing fails. Earlier checkpoints are kept.
    """
    weights = gather(model.named_parameters(), ranks)
    states = gather(
        (
            (f"{name}|{key}", optimizer.state[parameter][key])
            for name, parameter in model.named_parameters()
            for key in _STATES
            if key in optimizer.state[parameter]
        ),
        ranks,
    )
    random: dict[str, torch.Tensor] = {}
    for rank, generators in enumerate(ranks.gathered(_generators(ranks.device))):
        random |= {f"{kind}|{rank}": state for kind, state in generators.items()}
    folder = home / FOLDER / name_of(step)

    def write() -> None:
        try:
            _write(folder, weights, states, random, {**facts, "step": step})
        except (OSError, SafetensorError, StoreError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise StoreError(
                f"{folder}: {_one_line(error)}; {_last(home)}; free some space or fix the folder, then run the same "
                "command again"
            ) from error

    ranks.in_first(write)


def _last(home: Path) -> str:
    whole = complete(home)
    return f"the last complete checkpoint is {name_of(whole[-1].step)}" if whole else "no checkpoint was saved before"


def _one_line(error: BaseException) -> str:
    text = str(getattr(error, "strerror", None) or error).strip()
    return (text.splitlines() or [type(error).__name__])[0].rpartition("I/O error: ")[2]


def _write(
    folder: Path,
    weights: Mapping[str, torch.Tensor],
    states: Mapping[str, torch.Tensor],
    random: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
) -> None:
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, tensors in (("weights", weights), ("optimizer", states), ("random", random)):
        save_file(dict(tensors), folder / f"{name}.safetensors")
    write_json(folder / "state.json", dict(facts))
    sizes = {}
    for path in sorted(folder.iterdir()):
        sync(path)
        sizes[path.name] = path.stat().st_size
    sync(folder)
    write_json(folder / MARKER, sizes)
    for each in (folder, folder.parent, folder.parent.parent):
        sync(each)


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(saved: Saved, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
    """Load weights, optimizer and this process's generators from a checkpoint; every process reads it.

    Raises :class:`StoreError` for a file that cannot be read or does not fit the model.
    """
    try:
        _load(saved, model, optimizer, ranks)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise StoreError(
            f"{saved.folder}: cannot be loaded ({_one_line(error)}); remove it to resume from the checkpoint before it"
        ) from error


def _load(saved: Saved, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
    with (
        safe_open(saved.folder / "weights.safetensors", "pt") as weights,
        safe_open(saved.folder / "optimizer.safetensors", "pt") as states,
        safe_open(saved.folder / "random.safetensors", "pt") as random,
    ):
        known = set(states.keys())
        for name, parameter in model.named_parameters():
            with torch.no_grad():
                parameter.copy_(_part(weights.get_tensor(name), parameter))
            if f"{name}|{_STATES[0]}" in known:
                optimizer.state[parameter] = {
                    "step": torch.tensor(float(saved.step)),
                    **{key: _part(states.get_tensor(f"{name}|{key}"), parameter) for key in _STATES},
                }
        torch.set_rng_state(random.get_tensor(f"cpu|{ranks.rank}"))
        if ranks.device.startswith("cuda"):
            torch.cuda.set_rng_state(random.get_tensor(f"cuda|{ranks.rank}"), ranks.device)


def _generators(device: str) -> dict[str, torch.Tensor]:
    found = {"cpu": torch.get_rng_state()}
    if device.startswith("cuda"):
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def gather(named: Iterable[tuple[str, torch.Tensor]], ranks: Ranks) -> dict[str, torch.Tensor]:
    """Unsharded tensors in host memory, in the first process only. Every process must call it."""
    found = {}
    for name, value in named:
        whole = value.detach().full_tensor() if hasattr(value, "full_tensor") else value.detach()
        if ranks.rank == 0:
            found[name] = whole.cpu().contiguous()
    return found


def _part(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a full tensor, sharded like a parameter."""
    if not hasattr(like, "device_mesh"):
        return value.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
