"""Checkpoints of a training: everything that the next step depends on, in a folder that is complete or ignored.

``checkpoints/step-000020/`` holds ``weights.safetensors``, ``optimizer.safetensors``, ``random.safetensors`` (generator
states of every process) and ``state.json``. It is valid only with the marker ``COMPLETE``, which is written last, after
all other files are synced to disk, and lists their sizes and checksums. No pickle is written or read.
"""

from __future__ import annotations

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

from lr2eval.base.files import sha256, write_json
from lr2eval.base.reading import read_object
from lr2eval.errors import StoreError, first_line
from lr2eval.method.train.parallel import Ranks
from lr2eval.record.base import SEAL, check_seal, sealed

FOLDER = "checkpoints"
MARKER = "COMPLETE"
STATE = "state.json"
_STATES = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint. ``facts`` is the content of ``state.json``; ``marker`` says of each file its ``bytes`` and
    ``sha256`` (not in those of older versions)."""

    folder: Path
    step: int
    facts: Mapping[str, Any]
    marker: Mapping[str, Mapping[str, Any]]


def name_of(step: int) -> str:
    """Folder name of the checkpoint after ``step`` steps."""
    return f"step-{step:06d}"


def complete(home: Path) -> list[Saved]:
    """The complete checkpoints of an output folder, oldest first.

    Raises :class:`StoreError` if a file that a marker lists is missing or has another size.
    """
    return [read(folder) for folder in sorted((home / FOLDER).glob("step-*")) if (folder / MARKER).exists()]


def read(folder: Path) -> Saved:
    """A complete checkpoint. Raises :class:`StoreError` if its marker is damaged or does not fit its files."""
    fix = _remove(folder)
    listed = read_object(folder / MARKER, error=StoreError, fix=fix)
    check_seal(listed, folder / MARKER, fix)
    marker = {
        name: said if isinstance(said, dict) else {"bytes": said} for name, said in listed.items() if name != SEAL
    }
    for name, said in marker.items():
        path = folder / name
        if not path.is_file():
            raise StoreError(f"{path}: is missing; {fix}")
        if path.stat().st_size != said.get("bytes"):
            raise StoreError(f"{path}: its size has changed; {fix}")
    facts = read_object(folder / STATE, error=StoreError, fix=fix)
    if not isinstance(facts.get("step"), int):
        raise StoreError(f"{folder / STATE}: damaged (step is not a number); {fix}")
    return Saved(folder, facts["step"], facts, marker)


def checked(saved: Saved) -> dict[str, str]:
    """sha256 of every file of a checkpoint, by name. Raises :class:`StoreError` if it is not the one in the marker."""
    found = {}
    for name, said in saved.marker.items():
        try:
            found[name] = sha256(saved.folder / name)
        except OSError as error:
            raise StoreError(f"{saved.folder / name}: {error.strerror}; {_remove(saved.folder)}") from error
        if found[name] != said.get("sha256", found[name]):
            what = "was changed after it was written (the checksum differs)"
            raise StoreError(f"{saved.folder / name}: {what}; {_remove(saved.folder)}")
    return found


def _remove(folder: Path) -> str:
    return f"remove {folder} to resume from the checkpoint before it"


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
            (folder / MARKER).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for name, tensors in (("weights", weights), ("optimizer", states), ("random", random)):
                save_file(tensors, folder / f"{name}.safetensors")
            write_json(folder / STATE, {**facts, "step": step})
            files = {}
            for path in sorted(folder.iterdir()):
                sync(path)
                files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
            sync(folder)
            write_json(folder / MARKER, sealed(files))
            for each in (folder, folder.parent, folder.parent.parent):
                sync(each)
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
    return str(getattr(error, "strerror", None) or first_line(error)).rpartition("I/O error: ")[2]


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(saved: Saved, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> None:
    """Load weights, optimizer and this process's generators from a checkpoint; every process reads it.

    Raises :class:`StoreError` for a file that was changed, cannot be read or does not fit the model.
    """
    ranks.in_first(lambda: checked(saved))
    try:
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
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise StoreError(f"{saved.folder}: cannot be loaded ({_one_line(error)}); {_remove(saved.folder)}") from error


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
