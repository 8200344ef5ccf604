"""Checkpoints of a training: everything that the next step depends on, in a folder that is complete or ignored.

``checkpoints/step-000020/`` holds ``weights.safetensors``, ``optimizer.safetensors``, ``random.safetensors`` (generator
states of every process) and ``state.json``. Several processes write one ``shard-*.safetensors`` each in place of the
first two, through ``torch.distributed.checkpoint``; any number of processes can read either. A checkpoint is valid only
with the marker ``COMPLETE``, which is written last, after all other files are synced to disk, and lists their sizes and
checksums. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed import checkpoint as distributed
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

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
    """Write the checkpoint after ``step`` steps. Every process must call it, and writes its part of the weights.

    Raises :class:`StoreError` in every process if writing fails. Earlier checkpoints are kept.
    """
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    states = {
        f"{name}|{key}": optimizer.state[parameter][key].detach()
        for name, parameter in model.named_parameters()
        for key in _STATES
        if key in optimizer.state[parameter]
    }
    random: dict[str, torch.Tensor] = {}
    for rank, generators in enumerate(ranks.gathered(_generators(ranks.device))):
        random |= {f"{kind}|{rank}": state for kind, state in generators.items()}
    folder = home / FOLDER / name_of(step)

    def begin() -> None:
        (folder / MARKER).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        whole = {"weights": weights, "optimizer": states} if ranks.size == 1 else {}
        for name, tensors in (*whole.items(), ("random", random)):
            save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")

    def end() -> None:
        write_json(folder / STATE, {**facts, "step": step})
        files = {}
        for path in sorted(folder.iterdir()):
            sync(path)
            files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        sync(folder)
        write_json(folder / MARKER, sealed(files))
        for each in (folder, folder.parent, folder.parent.parent):
            sync(each)

    try:
        ranks.in_first(begin)
        if ranks.size > 1:
            distributed.save(
                weights | states, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True)
            )
        ranks.in_first(end)
    except (OSError, SafetensorError, StoreError, distributed.CheckpointException) as error:
        if ranks.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        raise StoreError(
            f"{folder}: {_one_line(error)}; {_last(home)}; free some space or fix the folder, then run the same "
            "command again"
        ) from error


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
        reader = HuggingFaceStorageReader(str(saved.folder))
        known = reader.read_metadata().state_dict_metadata
        wanted: dict[str, torch.Tensor] = {}
        for name, parameter in model.named_parameters():
            wanted[name] = parameter.detach()
            if f"{name}|{_STATES[0]}" in known:
                made = {key: torch.empty_like(parameter) for key in _STATES}
                optimizer.state[parameter] = {"step": torch.tensor(float(saved.step)), **made}
                wanted |= {f"{name}|{key}": value for key, value in made.items()}
        for name, value in wanted.items():
            if known[name].size != value.shape:
                raise KeyError(f"{name} has the shape {tuple(known[name].size)}, not {tuple(value.shape)}")
        _read(wanted, reader, alone=ranks.size == 1)
        with safe_open(saved.folder / "random.safetensors", "pt") as random:
            states = set(random.keys())  # a process that was not there when this was saved keeps its own seed
            if (name := f"cpu|{ranks.rank}") in states:
                torch.set_rng_state(random.get_tensor(name))
            if (name := f"cuda|{ranks.rank}") in states and ranks.device.startswith("cuda"):
                torch.cuda.set_rng_state(random.get_tensor(name), ranks.device)
    except (OSError, SafetensorError, KeyError, RuntimeError, distributed.CheckpointException) as error:
        raise StoreError(f"{saved.folder}: cannot be loaded ({_one_line(error)}); {_remove(saved.folder)}") from error


def weights(saved: Saved) -> dict[str, torch.Tensor]:
    """The whole weights of a checkpoint, in this process alone."""
    reader = HuggingFaceStorageReader(str(saved.folder))
    known = {name: about for name, about in reader.read_metadata().state_dict_metadata.items() if "|" not in name}
    found = {name: torch.empty(about.size, dtype=about.properties.dtype) for name, about in known.items()}
    _read(found, reader, alone=True)
    return found


def _read(wanted: dict[str, torch.Tensor], reader: HuggingFaceStorageReader, *, alone: bool) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        distributed.load(wanted, storage_reader=reader, no_dist=alone)


def weights_hash(saved: Saved) -> str:
    """sha256 of the file of weights. For shards, whose headers differ from time to time, that of names and numbers.

    Raises :class:`StoreError` if a file is not the one in the marker.
    """
    if whole := checked(saved).get("weights.safetensors"):
        return whole
    found = hashlib.sha256()
    for name, value in sorted(weights(saved).items()):
        found.update(name.encode() + value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _generators(device: str) -> dict[str, torch.Tensor]:
    found = {"cpu": torch.get_rng_state()}
    if device.startswith("cuda"):
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found
