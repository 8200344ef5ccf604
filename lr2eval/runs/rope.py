"""``--rope``: a checkpoint seen under another RoPE than its own, in memory. Its folder stays as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lr2eval.base.files import expanded
from lr2eval.base.settings import refuse_unknown
from lr2eval.base.units import format_length
from lr2eval.errors import UsageError
from lr2eval.method.rope.rules import rope_rule, rope_rules
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.runs.config import OF_ROPE, RunConfig

_TEMPERATURES = ("attention_factor", "short_attention_factor")


def check_rope(config: RunConfig) -> None:
    """Check what needs no model. Raises :class:`UsageError`."""
    plain = config.without_rope()
    given = next((key for key in OF_ROPE if getattr(config, key) != getattr(plain, key)), "")
    if config.rope is None and given:
        flag = f"--{given.replace('_', '-')}" if given in ("target_length", "attention_factor") else f"--set {given}"
        raise UsageError(f"{flag}: says how --rope is made; add --rope RULE, or omit it")
    if config.rope is not None and (config.backend not in ("hf", "vllm") or config.trust_remote_code):
        other = "trust_remote_code" if config.trust_remote_code else f"--backend {config.backend}"
        raise UsageError(f"--rope: works with --backend hf and vllm, without code of the model's own; omit {other}")
    if config.rope is not None and not _is_file(config.rope):
        if config.target_length is None:
            raise UsageError(
                f"--rope {config.rope}: --target-length is missing; give the window to reach, for example 32k"
            )
        try:
            rope_rule(config.rope)
        except UsageError as error:
            raise UsageError(str(error).replace("--rule ", "--rope ")) from error


def _is_file(name: str) -> bool:
    file = expanded(name)
    return name not in rope_rules() and (file.is_file() or file.suffix in (".csv", ".json", ".txt"))


def under_rope(checkpoint: Checkpoint, config: RunConfig) -> Checkpoint:
    """The checkpoint with the rule or factors file of ``config.rope``, as an export with them would be.

    Raises :class:`UsageError` for a rule, file or target that does not fit the model, and for a model that cannot be
    exported either.
    """
    from lr2eval.method.rope.export import seen_under
    from lr2eval.method.rope.files import read_factors, scaling_of_file
    from lr2eval.method.rope.rules import attention_factor, make_scaling, with_attention
    from lr2eval.method.rope.source import ModelRope

    check_rope(config)
    name, target = config.rope or "", config.target_length
    file = expanded(name)
    source = ModelRope.read(checkpoint.folder)
    original = source.original(from_original=config.from_original)
    override: dict[str, Any] = {"checkpoint": checkpoint.fingerprint}
    try:
        if _is_file(name):
            refuse_unknown(config.rule, (), group="rule")
            found = read_factors(file)
            scaling = with_attention(scaling_of_file(found, original, target), config.attention_factor)
            override |= {"rule": f"{file.name}: {scaling.provenance}", "sha256": found.sha256}
        else:
            scaling = make_scaling(name, original, target or 0, config.rule, config.attention_factor)
            override |= {"rule": scaling.provenance}
    except UsageError as error:  # in the words of `lr2eval rope`
        said = str(error).replace("--rule ", "--rope ").replace("--set ", "--set rule.")
        raise UsageError(said.replace(f"{name}.", "rule.") if config.rule else said) from error
    asked = config.short_attention_factor
    if (short := attention_factor(asked, original, scaling.target_window, flag="short_attention_factor")) is not None:
        scaling = replace(scaling, short_attention_factor=short)
        override["rule"] += f", temperature {short:g} inside the window"
    override["temperature"] = scaling.long_attention_factor
    given = config.rule | {key: value for key in _TEMPERATURES if (value := getattr(config, key)) is not None}
    words = [f"{key}={value}".removesuffix(".0") for key, value in given.items()]
    label = ", ".join([file.name, *words, format_length(scaling.target_window)])
    return seen_under(checkpoint, source, scaling, override, f"{checkpoint.name} ({label})")
