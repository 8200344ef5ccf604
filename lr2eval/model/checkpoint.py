"""A checkpoint folder, checked before anything is loaded from it (design D12). No torch at import time.

Only the headers of safetensors files are read: this finds a truncated download, a missing shard or a pickle in
milliseconds instead of minutes.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, RootModel

from lr2eval.base.files import write_json
from lr2eval.base.ids import digest
from lr2eval.base.machine import slowdown
from lr2eval.base.reading import checked, opened, parse_json
from lr2eval.errors import CheckpointError, StoreError
from lr2eval.model.config import CONFIG, ModelConfig, read_object

_INDEX = "model.safetensors.index.json"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # zip (torch.save) and raw pickle
_MAX_HEADER = 100_000_000
_CONVERT = "convert the checkpoint to safetensors (save_pretrained in an environment you trust)"
_HASHES = "weight-hashes.json"
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
Size = Annotated[int, Field(ge=0, strict=True)]
_NOT_IDENTITY = ("_name_or_path", "transformers_version")


@dataclass(frozen=True)
class Checkpoint:
    """What is known about a checkpoint without loading it. Windows are tokens."""

    folder: Path
    name: str
    config: Mapping[str, Any] = field(repr=False)
    architecture: str
    is_text_model: bool
    """Whether transformers loads it as a causal language model."""
    parameters: int
    """Numbers stored in the weight files (tied weights counted once)."""
    dtype: str
    """The torch dtype the configuration asks for, else the one that holds most of the stored numbers."""
    window: int
    """``max_position_embeddings``."""
    original_window: int | None
    """``Lt`` of a rescaled checkpoint, else ``None``."""
    suggested_window: int | None
    """What the RoPE's factor suggests, where that is longer than ``window``."""
    rope_type: str
    rope: Mapping[str, Any] = field(repr=False)
    """transformers' ``rope_parameters``."""
    fingerprint: str
    """sha256 over configuration and weights: equal iff the checkpoints compute the same."""
    weights: Sequence[tuple[str, str]] = field(default=(), repr=False)
    """Name and sha256 of each weight file."""
    override: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The RoPE that the model is seen under instead of its own (:meth:`under`); empty for its own."""

    def fitting_dtype(self, device: str) -> str:
        """The dtype for ``--dtype auto``: the stated one, or float32 where a CPU is faster with it and has the room."""
        import psutil

        half = device == "cpu" and self.dtype in ("bfloat16", "float16")
        room = half and 4 * self.parameters <= psutil.virtual_memory().available
        return "float32" if room and slowdown(self.dtype) > 1 else self.dtype

    @classmethod
    def open(
        cls, folder: Path | str, *, cache: Path | None = None, name: str | None = None, trust_remote_code: bool = False
    ) -> Checkpoint:
        """Check a checkpoint folder and describe it.

        Weight files are hashed in full; with ``cache`` (a folder) the hash of an unchanged file (same path, size and
        modification time) is remembered there. ``name`` is what to call it, by default the folder's name.
        ``trust_remote_code`` runs the folder's own configuration class.

        Raises :class:`CheckpointError` for a missing folder, configuration or weight file, damaged, truncated or
        pickled weights, and broken longrope parameters.
        """
        folder = Path(folder)
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.exists() else "no such folder"
            raise CheckpointError(f"{folder}: {what}; give the folder that holds config.json and the safetensors files")
        config = ModelConfig.read(folder, trust_remote_code=trust_remote_code)
        files = _weight_files(folder)
        sizes: Counter[str] = Counter()
        for file in files:
            sizes.update(_tensor_counts(file))
        stored = _DTYPES.get(max(sizes, key=lambda dtype: sizes[dtype]), "float32")
        weights = tuple((file.name, _file_hash(file, cache)) for file in files)
        return cls(
            folder=folder,
            name=name or Path(os.path.abspath(folder)).name,  # of a link its own name
            architecture=config.architecture,
            is_text_model=config.is_text_model,
            parameters=sum(sizes.values()),
            dtype=_dtype(config, stored),
            weights=weights,
            **_decided(config, weights),
        )

    def under(self, config: Mapping[str, Any], override: Mapping[str, Any], name: str) -> Checkpoint:
        """The same weights under another ``config.json``, called ``name``; the folder stays as it is.

        ``override`` says what differs. The fingerprint is that of an exported folder with this configuration.
        """
        found = _decided(ModelConfig.of(self.folder / CONFIG, config), self.weights)
        return replace(self, name=name, override=dict(override), **found)

    def model_config(self, *, trust_remote_code: bool = False) -> ModelConfig:
        """The configuration that the model is to be loaded with."""
        return ModelConfig.of(self.folder / CONFIG, self.config, trust_remote_code=trust_remote_code)


def _decided(config: ModelConfig, weights: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The facts that depend on the configuration of the RoPE."""
    identity = {key: value for key, value in config.raw.items() if key not in _NOT_IDENTITY}
    return {
        "config": config.raw,
        "window": config.window,
        "original_window": config.original_window if config.is_rescaled else None,
        "suggested_window": config.suggested_window,
        "rope_type": config.rope_type,
        "rope": dict(config.rope),
        "fingerprint": digest([identity, weights]),
    }


def _dtype(config: ModelConfig, stored: str) -> str:
    places = ((part, key) for part in (config.own, config.raw) for key in ("dtype", "torch_dtype"))
    return next((value for part, key in places if isinstance(value := part.get(key), str)), stored)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, by its index where it has one."""
    if (folder / _INDEX).exists():
        listed = read_object(folder / _INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise CheckpointError(f"{folder / _INDEX}: weight_map is not a list of weight files; download it again")
        names = sorted({str(name) for name in listed.values()})
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{folder / _INDEX}: lists files outside this folder; download the original index")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder / missing[0]}: no such file; {len(missing)} of the {len(names)} weight files in {_INDEX} are "
                "missing: download the checkpoint again"
            )
        files = [folder / name for name in names]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"{folder / pickles[0]}: pickled weights can run any code, so lr2eval never opens them; {_CONVERT}, or "
            "download its safetensors version"
        )
    raise CheckpointError(f"{folder}: no *.safetensors file; download the weights into this folder")


class StoredTensor(BaseModel):
    """An entry of the header. ``data_offsets``: first byte and end, behind the header."""

    dtype: str
    shape: list[Size]
    data_offsets: tuple[Size, Size]


class TensorTable(RootModel[dict[str, StoredTensor]]):
    """The tensors of a safetensors file by name."""


def _tensor_counts(path: Path) -> dict[str, int]:
    """Stored numbers by safetensors dtype, from the header; checks that the file is whole.

    Layout: 8 bytes little-endian header size, JSON header, then the tensors without gaps.
    """
    size = path.stat().st_size
    with opened(path, error=CheckpointError, fix="download it again") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        text = file.read(length) if 8 + length <= size and length <= _MAX_HEADER else b""
    counts: dict[str, int] = {}
    end = 0
    try:
        header = parse_json(text, str(path), error=CheckpointError)
        tensors = {name: value for name, value in header.items() if name != "__metadata__"} if header else {}
        for tensor in checked(TensorTable, tensors, str(path), error=CheckpointError).root.values():
            end = max(end, tensor.data_offsets[1])
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + math.prod(tensor.shape)
    except (CheckpointError, AttributeError) as error:
        # Only now: a header of 640 bytes starts with the same two bytes as a pickle.
        if start.startswith(_PICKLE_MAGIC):
            raise CheckpointError(
                f"{path}: a pickle with the name of a safetensors file, so lr2eval does not open it; {_CONVERT}"
            ) from error
        if size < 8 + length <= 8 + _MAX_HEADER:
            raise _truncated(path, size, 8 + length) from error
        raise CheckpointError(f"{path}: not a safetensors file (unreadable header); download it again") from error
    if not counts:
        raise CheckpointError(f"{path}: contains no tensors; download it again")
    if 8 + length + end > size:
        raise _truncated(path, size, 8 + length + end)
    return counts


def _truncated(path: Path, size: int, wanted: int) -> CheckpointError:
    return CheckpointError(f"{path}: truncated, has {size:,} of {wanted:,} bytes; download it again")


def _file_hash(path: Path, cache: Path | None) -> str:
    """sha256 of a file, remembered in ``cache`` under (resolved path, size, modification time)."""
    state = path.stat()
    key = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}"
    known = _known_hashes(cache)
    if key not in known:
        with opened(path, error=CheckpointError, fix="download it again") as file:
            known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        if cache is not None:
            with contextlib.suppress(OSError, StoreError):  # without the cache, a file is only hashed again
                cache.mkdir(parents=True, exist_ok=True)
                write_json(cache / _HASHES, _known_hashes(cache) | known)
    return known[key]


def _known_hashes(cache: Path | None) -> dict[str, str]:
    try:
        known = read_object(cache / _HASHES) if cache else {}
    except CheckpointError:
        return {}
    return {key: value for key, value in known.items() if isinstance(value, str)}
