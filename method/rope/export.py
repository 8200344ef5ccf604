"""Writes a checkpoint folder with other RoPE factors, which stock transformers can load."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lr2eval._version import __version__
from lr2eval.base.files import cache_dir, disk_problem, sweep, temporary, write_json
from lr2eval.base.reading import read_object, read_text
from lr2eval.errors import StoreError, UsageError
from lr2eval.method.rope.files import FactorsFile
from lr2eval.method.rope.scaling import RopeScaling, default_attention_factor
from lr2eval.method.rope.source import ModelRope
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.config import quiet_transformers

FACTORS = "rope_factors.json"
"""File in the exported folder with the factors and their origin; `lr2eval rope --factors` reads it."""

_WEIGHTS = ".safetensors"
_REWRITTEN = ("config.json", "README.md", FACTORS)
_NEVER = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".h5", ".msgpack", ".onnx")
"""Other forms of the weights: they would not match the new configuration, and pickles are not copied."""


@dataclass
class Exported:
    """Messages of an export: ``warnings`` about surprising effects, ``notes`` about what was done."""

    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export(
    source: ModelRope,
    scaling: RopeScaling,
    out: Path,
    *,
    factors: FactorsFile,
    command: Sequence[str],
    link: bool = True,
    trained: Path | None = None,
    training: Mapping[str, Any] | None = None,
) -> Exported:
    """Write ``out``, the checkpoint of ``source`` with ``rope_type: longrope`` and these factors.

    Weights are hard links where the file system allows (``link``), else copies; tokenizer, generation configuration and
    other small files are copied byte for byte; ``config.json`` and ``README.md`` are rewritten and
    ``rope_factors.json`` is added. The folder appears whole or not at all. ``trained`` is a folder with other
    weights for the same model, and ``training`` what the card says about them.

    First, stock transformers must read the same numbers from the new configuration and build the model (without
    weights) with a rotary module that our windowed one can replace.

    Raises :class:`UsageError` for an ``out`` that exists or a model that is not supported, :class:`CheckpointError` for
    a damaged source, :class:`StoreError` if writing fails.
    """
    from transformers import AutoConfig

    check_plain(source)
    checkpoint = Checkpoint.open(source.folder, cache=cache_dir())
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: already exists; choose a new folder")
    done = Exported(warnings=_warnings(source, scaling))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(out.parent, out.name)
        work = temporary(out)
        work.mkdir()
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror or error}; choose a folder that can be written") from error
    try:
        config = _new_config(source, scaling)
        write_json(work / "config.json", config)
        with quiet_transformers():
            _check_loads(lambda: AutoConfig.from_pretrained(work, trust_remote_code=False), scaling)
        _bring_files(source.folder, work, link, done, trained)
        if "rope_scaling" in config:
            done.notes.append("config.json: transformers 4.51 or newer reads these numbers")
        provenance = _provenance(checkpoint, factors, command) | ({"training": dict(training)} if training else {})
        write_json(work / FACTORS, scaling.to_json() | provenance)
        _write_card(source.folder, work, out.name, scaling, provenance)
        os.replace(work, out)
    except OSError as error:
        raise StoreError(f"{out}: {disk_problem(error)} and run the same command again") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return done


def seen_under(
    checkpoint: Checkpoint, source: ModelRope, scaling: RopeScaling, override: Mapping[str, Any], name: str
) -> Checkpoint:
    """``checkpoint`` as :func:`export` would write it with this scaling; nothing is written.

    Raises :class:`UsageError` where :func:`export` does.
    """
    check_plain(source)
    found = checkpoint.under(_new_config(source, scaling), override, name)
    with quiet_transformers():
        _check_loads(lambda: found.model_config().text, scaling)
    return found


def check_plain(source: ModelRope) -> None:
    """Raises :class:`UsageError` for the text model of a larger checkpoint."""
    if source.config.is_wrapped:
        raise UsageError(f"{source.folder}: a multimodal model; only plain text decoders can be exported")


def _new_config(source: ModelRope, scaling: RopeScaling) -> dict[str, Any]:
    """The source's configuration with the new RoPE, in the spelling of transformers 5 and in the older one.

    Programs that know only one of the two read the same numbers. Where they cannot agree (:func:`_agrees`), only
    ``rope_parameters`` is written.
    """
    rope = scaling.rope_parameters(source.head_dim)
    # vLLM ignores attention_factor and reads these two.
    rope |= {"short_mscale": scaling.short_attention_factor, "long_mscale": scaling.long_attention_factor}
    config = {key: value for key, value in source.config.raw.items() if key not in ("rope_parameters", "rope_scaling")}
    config |= {
        "max_position_embeddings": scaling.target_window,
        "original_max_position_embeddings": scaling.original_window,
        "rope_theta": scaling.theta,
        "rope_parameters": rope,
    }
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope["partial_rotary_factor"]
    if _agrees(source, scaling):
        keys = {"short_factor", "long_factor"} if _is_phi3(source) else rope.keys() - {"rope_theta", "rope_type"}
        config["rope_scaling"] = {"type": "longrope", **{key: rope[key] for key in rope if key in keys}}
    return config


def _is_phi3(source: ModelRope) -> bool:
    return source.config.raw.get("model_type") == "phi3"


def _agrees(source: ModelRope, scaling: RopeScaling) -> bool:
    """Whether ``rope_scaling`` can say the same. Phi-3's takes factors only, so it has the usual temperature."""
    usual = default_attention_factor(scaling.scale, scaling.original_window)
    return not _is_phi3(source) or scaling.long_attention_factor == scaling.short_attention_factor == usual


def _check_loads(read: Callable[[], Any], scaling: RopeScaling) -> None:
    """Stock transformers must read exactly these numbers and use them in a supported rotary module."""
    import torch
    from transformers import AutoModelForCausalLM

    from lr2eval.method.rope.windowed import install_rope

    try:
        config = read()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        rotary = install_rope(model)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"stock transformers cannot use longrope factors in this model: {reason}") from error
    if rotary is None or rotary.scaling != scaling:
        raise UsageError(
            "stock transformers reads other RoPE numbers from the new config.json than were written; models of this "
            "type cannot be exported"
        )


def _bring_files(source: Path, work: Path, link: bool, done: Exported, trained: Path | None) -> None:
    linked, copied, left = 0, 0, []
    paths = [path for path in source.iterdir() if not _is_weights(path)]
    paths += filter(_is_weights, (trained or source).iterdir())
    for path in sorted(paths, key=lambda path: path.name):
        if path.name in _REWRITTEN or path.name.startswith("."):
            continue
        if path.is_dir() or path.suffix in _NEVER:
            left.append(path.name + ("/" if path.is_dir() else ""))
        elif path.suffix == _WEIGHTS and link and _linked(path.resolve(), work / path.name):
            linked += 1
        else:
            shutil.copyfile(path, work / path.name)
            copied += path.suffix == _WEIGHTS
    if linked:
        done.notes.append(
            f"weights: {linked} {_files(linked)} hard-linked; they share their bytes with the source, so never edit "
            "them in place"
        )
    if copied:
        done.notes.append(f"weights: {copied} {_files(copied)} copied")
    if left:
        done.notes.append(f"not copied: {', '.join(left)}")


def _files(count: int) -> str:
    return "file" if count == 1 else "files"


def _is_weights(path: Path) -> bool:
    return path.name.endswith((_WEIGHTS, f"{_WEIGHTS}.index.json"))


def _linked(path: Path, target: Path) -> bool:
    try:
        os.link(path, target)
    except OSError:  # another file system, or one without hard links
        return False
    return True


def _warnings(source: ModelRope, scaling: RopeScaling) -> list[str]:
    config = source.config.raw
    if _is_phi3(source):
        found = [
            "stock transformers chooses one set of factors for a whole batch, by its longest row; `lr2eval run` "
            "chooses per row"
        ]
    else:
        found = [
            "stock transformers does not rebuild the cache when generation crosses "
            f"{scaling.original_window:,} tokens, and uses one set of factors for a whole batch; `lr2eval run` does "
            "both correctly"
        ]
    long, short = scaling.long_attention_factor, scaling.short_attention_factor
    if long != short:
        found.append(
            f"the attention factors differ ({short:g} inside the window, {long:g} beyond); stock transformers uses "
            f"{long:g} for both, only lr2eval reads the other"
        )
    if not _agrees(source, scaling):
        found.append(
            f"transformers 4 has no place for attention factor {long:g} in a Phi-3 model and would use plain RoPE; "
            "this checkpoint needs transformers 5"
        )
    if any(factor != 1.0 for factor in scaling.short_factor):
        found.append("the short factors are not all 1, so outputs for inputs inside the original window change too")
    sliding = config.get("sliding_window")
    if isinstance(sliding, int) and sliding < scaling.target_window and config.get("use_sliding_window", True):
        found.append(f"sliding_window is {sliding:,}: tokens further apart than that do not attend to each other")
    limit = _tokenizer_limit(source.folder)
    if limit is not None and limit < scaling.target_window:
        found.append(
            f"tokenizer_config.json: model_max_length {limit:,} is kept; a tokenizer asked to truncate will cut there"
        )
    return found


def _tokenizer_limit(folder: Path) -> int | None:
    try:
        limit = read_object(folder / "tokenizer_config.json").get("model_max_length")
    except UsageError:
        return None
    return int(limit) if isinstance(limit, int | float) and limit > 0 else None


def _provenance(checkpoint: Checkpoint, factors: FactorsFile, command: Sequence[str]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "lr2eval_version": __version__,
        "command": list(command),
        "source": {"name": checkpoint.name, "fingerprint": checkpoint.fingerprint},
        "factors_file": {"name": factors.path.name, "sha256": factors.sha256},
    }
    return made | ({"search": dict(factors.search)} if factors.search else {})


def _write_card(source: Path, work: Path, name: str, scaling: RopeScaling, provenance: Mapping[str, Any]) -> None:
    """README.md: the source's front matter, what this checkpoint is, then the source's own card."""
    front, original = _split_card(source / "README.md")
    model, file = provenance["source"], provenance["factors_file"]
    numbers = hashlib.sha256(json.dumps([list(scaling.long_factor), list(scaling.short_factor)]).encode()).hexdigest()
    attention = f"{scaling.long_attention_factor:.6g}"
    if scaling.short_attention_factor != scaling.long_attention_factor:
        attention += f" beyond the original window, {scaling.short_attention_factor:.6g} inside it"
    rows = [
        ("source", f"{model['name']}, fingerprint `{model['fingerprint']}`"),
        ("original window", f"{scaling.original_window:,} tokens"),
        ("window", f"{scaling.target_window:,} tokens (s = {scaling.scale:g})"),
        ("factors", f"{scaling.provenance}; from `{file['name']}`, sha256 `{file['sha256']}`"),
        ("digest of the numbers", f"`{numbers}`"),
        ("attention factor", attention),
        ("command", f"`{shlex.join(provenance['command'])}`"),
        ("made by", f"lr2eval {provenance['lr2eval_version']}"),
        *_search_rows(provenance.get("search") or {}),
        *((f"training: {key}", f"`{value}`") for key, value in (provenance.get("training") or {}).items()),
    ]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    weights = "those of the source, trained on" if "training" in provenance else "those of the source, unchanged"
    text = (
        f"{front}# {name}\n\nThe weights are {weights}. Sequences of up to "
        f"{scaling.original_window:,} tokens use its original RoPE; longer ones the factors in `config.json` "
        f"(also in `{FACTORS}`).\n\n| | |\n|---|---|\n{table}\n"
    )
    if original:
        text += f"\n---\n\nThe source's own card:\n\n{original}"
    (work / "README.md").write_text(text, encoding="utf-8")


def _search_rows(search: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("search digest", f"`{search['digest']}`")] if search.get("digest") else []
    perplexities = search.get("needle_perplexity")
    if isinstance(perplexities, Mapping):
        said = ", ".join(
            f"{rule} {value:.4g}" for rule, value in perplexities.items() if isinstance(value, int | float)
        )
        rows.append(("needle perplexity", said))
    return rows


def _split_card(path: Path) -> tuple[str, str]:
    """(front matter with its dashes, the rest) of a model card; empty where there is none."""
    try:
        text = read_text(path)
    except UsageError:
        return "", ""
    if text.startswith("---\n") and (end := text.find("\n---\n", 3)) > 0:
        return text[: end + 5] + "\n", text[end + 5 :].lstrip()
    return "", text
