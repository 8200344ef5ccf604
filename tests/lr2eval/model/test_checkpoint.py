from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lr2eval.errors import CheckpointError
from lr2eval.model.checkpoint import Checkpoint

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "rope_theta": 1000.0,
    "transformers_version": "5.0.0",
    "_name_or_path": "somewhere",
}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}


def _write_config(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    _write_config(path)
    save_file({"a": np.ones((4, 3), np.float16), "b": np.ones(5, np.float32)}, path / "model.safetensors")
    return path


def _refused(folder: Path) -> str:
    """The error of opening a folder; every one is a single line."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def test_describes_a_checkpoint(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    assert (checkpoint.name, checkpoint.architecture) == ("model", "LlamaForCausalLM")
    assert (checkpoint.parameters, checkpoint.dtype) == (17, "float16")
    assert (checkpoint.window, checkpoint.original_window, checkpoint.rope_type) == (256, None, "default")
    assert Checkpoint.open(str(folder), name="short").name == "short"
    _write_config(folder, dtype="bfloat16")
    assert Checkpoint.open(folder).dtype == "bfloat16"


def test_longrope_is_described(folder: Path) -> None:
    _write_config(folder, rope_parameters={**LONGROPE, "original_max_position_embeddings": 32})
    checkpoint = Checkpoint.open(folder)
    assert (checkpoint.rope_type, checkpoint.original_window) == ("longrope", 32)
    assert checkpoint.rope["long_factor"] == [4.0] * 8
    _write_config(
        folder, model_type="phi3", original_max_position_embeddings=64, rope_scaling={**LONGROPE, "rope_type": "yarn"}
    )
    checkpoint = Checkpoint.open(folder)
    assert (checkpoint.rope_type, checkpoint.original_window) == ("longrope", 64)
    _write_config(
        folder, model_type="phi3", original_max_position_embeddings=64, rope_scaling={**LONGROPE, "rope_type": "su"}
    )
    assert _refused(folder).endswith('write "longrope" instead of "su"')


def test_several_weight_files(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part-1.safetensors")
    save_file({"c": np.ones(3, np.float32)}, folder / "part-2.safetensors")
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-1.safetensors", "c": "part-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert Checkpoint.open(folder).parameters == 20
    (folder / "part-2.safetensors").unlink()
    message = _refused(folder)
    assert "part-2.safetensors: no such file; 1 of the 2 weight files" in message
    assert "download the checkpoint again" in message


def test_index_cannot_leave_the_folder(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    assert "lists files outside this folder" in _refused(folder)


def test_fingerprint_is_the_content(folder: Path, tmp_path: Path) -> None:
    first = Checkpoint.open(folder).fingerprint
    _write_config(folder, transformers_version="9.9", _name_or_path="elsewhere")
    moved = folder.rename(tmp_path / "moved")
    assert Checkpoint.open(moved).fingerprint == first
    _write_config(moved, rope_theta=2000.0)
    other_config = Checkpoint.open(moved).fingerprint
    _write_config(moved)
    weights = moved / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert len({first, other_config, Checkpoint.open(moved).fingerprint}) == 3


def test_weight_hashes_are_remembered_until_the_file_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file.name) or real(file, name))
    cache = tmp_path / "cache"
    first = Checkpoint.open(folder, cache=cache).fingerprint
    assert Checkpoint.open(folder, cache=cache).fingerprint == first
    assert len(hashed) == 1
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert Checkpoint.open(folder, cache=cache).fingerprint == first
    assert len(hashed) == 2
    (cache / "weight-hashes.json").write_text("{ torn")
    assert Checkpoint.open(folder, cache=cache).fingerprint == first
    assert len(hashed) == 3
    (tmp_path / "file").write_text("")
    assert Checkpoint.open(folder, cache=tmp_path / "file" / "no").fingerprint == first


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return damage


def _cut(share: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return damage


def _zip_as_safetensors(folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.safetensors", "w") as archive:
        archive.writestr("data.pkl", pickle.dumps({}))


def _only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never opened")


@pytest.mark.parametrize(
    ("damage", "thing", "mend"),
    [
        (_remove("config.json"), "config.json: no such file", "config.json"),
        (_write("config.json", b"{"), "config.json: not valid JSON", "copy the file again"),
        (_write("config.json", b"[]"), "config.json: not a JSON object", "copy the file again"),
        (_write("config.json", b"{}"), "model_type is None", "choose another model"),
        (_remove("model.safetensors"), "no *.safetensors file", "download the weights"),
        (_only_pickle, "pytorch_model.bin: pickled weights", "convert the checkpoint to safetensors"),
        (_zip_as_safetensors, "a pickle with the name of a safetensors file", "convert the checkpoint to safetensors"),
        (
            _write("model.safetensors", pickle.dumps({"a": list(range(99))}, protocol=2)),
            "a pickle with the name of a safetensors file",
            "convert the checkpoint to safetensors",
        ),
        (_cut(0.9), "model.safetensors: truncated, ", "download it again"),
        (_cut(0.2), "model.safetensors: truncated, ", "download it again"),
        (_write("model.safetensors", b""), "truncated, has 0 of 8 bytes", "download it again"),
        (_write("model.safetensors", b"\xff" * 64), "not a safetensors file", "download it again"),
        (_write("model.safetensors", struct.pack("<Q", 4) + b"nope"), "not a safetensors file", "download it again"),
        (_write("model.safetensors", struct.pack("<Q", 2) + b"{}"), "contains no tensors", "download it again"),
    ],
)
def test_damaged_folders_are_refused(folder: Path, damage: Callable[[Path], None], thing: str, mend: str) -> None:
    damage(folder)
    message = _refused(folder)
    assert thing in message
    assert mend in message


def test_a_header_that_starts_like_a_pickle_is_read(folder: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(0x0280)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    assert (folder / "model.safetensors").read_bytes().startswith(b"\x80\x02")
    assert Checkpoint.open(folder).parameters == 1


def test_no_folder(tmp_path: Path) -> None:
    assert "no such folder; give the folder" in _refused(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    assert "is a file, not a folder; give the folder" in _refused(tmp_path / "file")


@pytest.mark.parametrize(
    ("rope", "thing"),
    [
        (LONGROPE, "longrope needs original_max_position_embeddings"),
        (
            {**LONGROPE, "original_max_position_embeddings": 32, "long_factor": [4.0] * 7},
            "long_factor has 7 numbers, but the model has 8 rotary pairs",
        ),
        (
            {**LONGROPE, "original_max_position_embeddings": 32, "short_factor": [1.0] * 16},
            "short_factor has 16 numbers, but the model has 8 rotary pairs",
        ),
        (
            {**LONGROPE, "original_max_position_embeddings": 32, "partial_rotary_factor": 0.5},
            "short_factor has 8 numbers, but the model has 4 rotary pairs",
        ),
        (
            {"rope_type": "longrope", "original_max_position_embeddings": 32, "long_factor": [1.0] * 8},
            "longrope needs short_factor, a list of positive numbers",
        ),
        (
            {**LONGROPE, "original_max_position_embeddings": 32, "long_factor": ["4"] * 8},
            "longrope needs long_factor, a list of positive numbers",
        ),
    ],
)
def test_broken_longrope_is_refused(folder: Path, rope: dict[str, Any], thing: str) -> None:
    _write_config(folder, rope_parameters=rope)
    assert thing in _refused(folder)


def test_needs_no_torch() -> None:
    code = "import sys, lr2eval.model.checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "x", [], [1], {}, 10**30, -1])
@pytest.mark.parametrize(
    "key", ["hidden_size", "num_hidden_layers", "max_position_embeddings", "rms_norm_eps", "rope_theta"]
)
def test_what_is_no_number_is_one_line(folder: Path, key: str, bad: Any) -> None:
    if (key, bad) == ("rms_norm_eps", -1):
        bad = "1"  # transformers accepts a negative number here
    _write_config(folder, **{key: bad})
    assert "config.json" in _refused(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": -1}, "architectures is -1, not a list of class names"),
        ({"architectures": [1]}, "architectures is [1]"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 10**30}},
         "original_max_position_embeddings is too large a number"),
        ({"vision_config": {"layers": [1, 10**30]}}, "layers is too large a number"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn', not an object"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor is '2', not a positive number"),
        ({"rope_scaling": {"type": "linear", "factor": math.nan}}, "it contains NaN, which is not a JSON number"),
        ({"sliding_window": -1}, "sliding_window is -1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, not a whole number from 1 to 1,024"),
        ({"model_type": []}, "model_type is []"),
        ({"dtype": "float31"}, "transformers cannot read it"),
    ],
)  # fmt: skip
def test_configurations_that_no_model_has(folder: Path, changes: dict[str, Any], said: str) -> None:
    _write_config(folder, **changes)
    assert said in _refused(folder)


@pytest.mark.parametrize("listed", [None, "x", [1], {}])
def test_an_index_without_a_map(folder: Path, listed: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    assert "weight_map is not a list of weight files" in _refused(folder)
