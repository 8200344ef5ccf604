"""The one reader of a model's ``config.json``. transformers says what the file means: its defaults count, too."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lr2eval.base import reading
from lr2eval.errors import CheckpointError, first_line

CONFIG = "config.json"
_SIZES = {
    "num_hidden_layers": 1024, "hidden_size": 2**24, "num_attention_heads": 2**16, "num_key_value_heads": 2**16,
    "head_dim": 2**20, "intermediate_size": 2**28, "vocab_size": 2**28, "max_position_embeddings": 2**40,
    "sliding_window": 2**40, "attention_chunk_size": 2**40,
}  # fmt: skip
"""Sizes that build the model, and more than any model will have."""
_MOST = 2**40
"""More than any whole number in a configuration; torch's arithmetic ends at 2**63."""
_WINDOWS = ("max_position_embeddings", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")
_NUMBERS = (
    "rope_theta", "factor", "attention_factor", "original_max_position_embeddings", "partial_rotary_factor",
    "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "low_freq_factor", "high_freq_factor", "short_mscale",
    "long_mscale", "alpha",
)  # fmt: skip


@dataclass(frozen=True)
class ModelConfig:
    """A model's configuration. Lengths are tokens.

    A multimodal checkpoint keeps its text model under ``text_config``; everything here is about the text model.
    """

    path: Path
    """The file, for messages."""
    raw: Mapping[str, Any] = field(repr=False)
    """The whole file as it is."""
    text: Any = field(repr=False)
    """transformers' configuration of the text model."""

    @classmethod
    def read(cls, folder: Path, *, trust_remote_code: bool = False) -> ModelConfig:
        """The configuration in a checkpoint folder, or in a file.

        ``trust_remote_code`` runs the folder's own configuration class. Raises :class:`CheckpointError`, in one line,
        for a file that is not JSON, that transformers cannot read, or whose numbers no model can have.
        """
        path = folder if folder.is_file() else folder / CONFIG
        return cls.of(path, read_object(path), trust_remote_code=trust_remote_code)

    @classmethod
    def of(cls, path: Path, raw: Mapping[str, Any], *, trust_remote_code: bool = False) -> ModelConfig:
        """The same from what a file at ``path`` holds, or would hold."""
        named = raw.get("architectures") or []
        if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            raise CheckpointError(f"{path}: architectures is {named!r:.60}, not a list of class names; correct it")
        _check_numbers(path, raw)
        with quiet_transformers():
            made = _transformers_config(path, raw, trust_remote_code)
            try:
                text = made.get_text_config()
            except ValueError as error:
                raise CheckpointError(f"{path}: {first_line(error)}; choose a model with one text decoder") from error
        if isinstance(text, Mapping):
            raise CheckpointError(f"{path}: a {made.model_type} model has no text_config; move its keys to the top")
        found = cls(path, raw, text)
        if found.rope_type == "longrope":
            found._check_factors()
        return found

    @property
    def own(self) -> Mapping[str, Any]:
        """The part of the file that describes the text model."""
        inner = self.raw.get("text_config")
        return inner if isinstance(inner, Mapping) else self.raw

    @property
    def architecture(self) -> str:
        """The class that the file names, else its model type."""
        return str(next(iter(self.raw.get("architectures") or []), self.raw.get("model_type")))

    @property
    def is_wrapped(self) -> bool:
        """Whether the text model is a part of a larger model."""
        return self.own is not self.raw

    @property
    def is_text_model(self) -> bool:
        """Whether transformers loads the checkpoint as a causal language model."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        return self.raw.get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "auto_map" in self.raw

    @cached_property
    def window(self) -> int:
        """The window that the configuration states (``max_position_embeddings``)."""
        found = next((value for name in _WINDOWS if (value := getattr(self.text, name, None)) is not None), None)
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise CheckpointError(
                f"{self.path}: max_position_embeddings is {found!r:.60}, but lr2eval needs the window in tokens; set "
                "it, or choose another text decoder"
            )
        return found

    @property
    def rope(self) -> Mapping[str, Any]:
        """transformers' ``rope_parameters``; empty for a model without RoPE."""
        return getattr(self.text, "rope_parameters", None) or {}

    @property
    def layer_ropes(self) -> Mapping[str, Mapping[str, Any]]:
        """The RoPE parameters of each layer type where they differ; empty for a model with one RoPE."""
        return {name: value for name, value in self.rope.items() if isinstance(value, Mapping)}

    @property
    def rope_type(self) -> str:
        """transformers' ``rope_type``; ``none`` without RoPE, and ``per-layer`` where each layer type has its own."""
        if self.layer_ropes:
            return "per-layer"
        return str(self.rope.get("rope_type") or "default") if self.rope else "none"

    @property
    def original_window(self) -> int | None:
        """``Lt``: the window before any rescaling; ``None`` if a rescaled model's file does not state it.

        Dynamic NTK leaves ``max_position_embeddings`` as it was.
        """
        if not self.is_rescaled or self.rope_type == "dynamic":
            return self.window
        name = "original_max_position_embeddings"
        stated = self.own.get(name) is not None or any(
            isinstance(rope := self.own.get(key), Mapping) and rope.get(name) is not None
            for key in ("rope_parameters", "rope_scaling")
        )
        # transformers fills this in from the current window; only Phi-3 and its kin have a default of their own.
        known = stated or getattr(self.text, name, None)
        return int(self.rope[name]) if known and self.rope.get(name) else None

    @property
    def is_rescaled(self) -> bool:
        """Whether its window is no longer the one of its plain RoPE."""
        return self.rope_type not in ("default", "none", "per-layer")

    @property
    def suggested_window(self) -> int | None:
        """The window that the factor of the RoPE suggests, where it is above the stated one (Qwen2.5 with YaRN)."""
        factor, original = self.rope.get("factor"), self.original_window
        if self.rope_type not in ("yarn", "linear", "llama3", "dynamic") or not factor or not original:
            return None
        window = int(factor * original)
        return window if window > self.window else None

    def _check_factors(self) -> None:
        if self.original_window is None:
            raise CheckpointError(
                f"{self.path}: longrope needs original_max_position_embeddings to know when to switch windows; add the "
                "window that the model was trained with"
            )
        for key in ("short_factor", "long_factor"):
            factors, wanted = self.rope.get(key) or [], self._pairs()
            if len(factors) != wanted:
                raise CheckpointError(
                    f"{self.path}: {key} has {len(factors)} numbers, but the model has {wanted} rotary pairs; use the "
                    "factors of this model"
                )

    def _pairs(self) -> int:
        """Rotary pairs, as transformers counts them for its longrope."""
        heads = getattr(self.text, "num_attention_heads", None) or 1
        head_dim = getattr(self.text, "head_dim", None) or self.text.hidden_size // heads
        return int(head_dim * (self.rope.get("partial_rotary_factor") or 1.0)) // 2


def _check_numbers(path: Path, raw: Mapping[str, Any]) -> None:
    """Refuse sizes and RoPE numbers that no model can have; transformers would only warn, or run out of memory."""
    if large := next(_too_large(raw), ""):
        raise CheckpointError(f"{path}: {large} is too large a number; correct it")
    own = raw.get("text_config")
    for part in (raw, own if isinstance(own, Mapping) else {}):
        for name, most in _SIZES.items():
            value = part.get(name)
            least = int(name != "sliding_window")  # 0 is a way to say none
            if isinstance(value, bool | str | float) or (isinstance(value, int) and not least <= value <= most):
                raise CheckpointError(
                    f"{path}: {name} is {value!r:.60}, not a whole number from 1 to {most:,}; correct it"
                )
        tables = [part]
        for key in ("rope_parameters", "rope_scaling"):
            table = part.get(key)
            if table is not None and not isinstance(table, Mapping):
                raise CheckpointError(f"{path}: {key} is {table!r:.60}, not an object; correct it")
            tables += [table or {}, *(inner for inner in (table or {}).values() if isinstance(inner, Mapping))]
        for table in tables:
            _check_rope(path, table)


def _too_large(value: Any, name: str = "") -> Iterator[str]:
    """The keys of whole numbers that no configuration needs."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _too_large(inner, str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _too_large(inner, name)
    elif isinstance(value, int) and abs(value) > _MOST:
        yield name


def _check_rope(path: Path, table: Mapping[str, Any]) -> None:
    for name in _NUMBERS:
        value = table.get(name)
        if value is not None and not (_is_number(value) and value > 0):
            raise CheckpointError(f"{path}: {name} is {value!r:.60}, not a positive number; correct it")
    kind = table.get("rope_type") or table.get("type")
    for key in ("short_factor", "long_factor") if kind == "longrope" else ():
        factors = table.get(key)
        if not isinstance(factors, list) or not all(_is_number(factor) and factor > 0 for factor in factors):
            raise CheckpointError(
                f"{path}: longrope needs {key}, a list of positive numbers, one for each rotary pair; add it"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint. Raises :class:`CheckpointError`; NaN and infinity are refused."""
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; give the folder of a Hugging Face model")
    return reading.read_object(path, error=CheckpointError, fix="copy the file again")


def _transformers_config(path: Path, raw: Mapping[str, Any], trust_remote_code: bool) -> Any:
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = raw.get("model_type")
    own_code = "auto_map" in raw
    try:
        if trust_remote_code and own_code and path.name == CONFIG:
            return transformers.AutoConfig.from_pretrained(
                str(path.parent), local_files_only=True, trust_remote_code=True
            )
        if isinstance(kind, str) and kind in CONFIG_MAPPING:
            return CONFIG_MAPPING[kind].from_dict(copy.deepcopy(dict(raw)))  # it writes into nested tables
    except Exception as error:  # code of many models; they raise whatever their arithmetic meets
        # The first Phi-3 checkpoints call longrope "su"; transformers 5 no longer reads them.
        fix = 'write "longrope" instead of "su"' if '"su"' in json.dumps(raw.get("rope_scaling")) else "correct it"
        raise CheckpointError(f"{path}: transformers cannot read it ({_reason(error)}); {fix}") from error
    known = f"transformers {transformers.__version__} does not know"
    if own_code:
        fix = "its folder brings its own code: `lr2eval run --set trust_remote_code=true` runs it, if you trust it"
    else:
        fix = "choose another model, or install a transformers that knows it"
    raise CheckpointError(f"{path}: model_type is {kind!r:.60}, which {known}; {fix}")


def _reason(error: Exception) -> str:
    """What a validation error says, without its headings."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return first_line(Exception(" ".join(lines[:2]))) if lines else type(error).__name__


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' advice about configurations; restores its log level."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
