"""Write a checkpoint with other RoPE factors, which stock transformers loads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lr2eval.errors import UsageError

if TYPE_CHECKING:
    from lr2eval.method.rope.scaling import OriginalRope, RopeScaling

MANY = 64
"""The largest scale factor s that anybody has published for one step."""


@dataclass(frozen=True)
class ExportOutcome:
    """An exported checkpoint folder, its factors, and what a person should know about it."""

    folder: Path
    scaling: RopeScaling
    warnings: Sequence[str]
    notes: Sequence[str]


def export(
    model: Path | str,
    factors: Path | str,
    out: Path | str,
    *,
    target_length: int | None = None,
    attention_factor: float | None = None,
    short_attention_factor: float | None = None,
    from_original: bool = False,
    copy_weights: bool = False,
    command: Sequence[str] = (),
) -> ExportOutcome:
    """Write ``model`` with the RoPE factors of a CSV or JSON file to the new folder ``out``.

    ``target_length`` (tokens) and ``attention_factor`` replace those of the file; ``short_attention_factor`` is another
    one inside the original window, which stock transformers ignores. Weights are hard links unless ``copy_weights``.
    ``from_original`` starts from the window before the model's own rescaling.

    Raises :class:`lr2eval.UsageError` for factors that do not fit the model or an ``out`` that exists.
    """
    from lr2eval.method.rope.export import export as export_checkpoint
    from lr2eval.method.rope.files import read_factors
    from lr2eval.method.rope.source import ModelRope
    from lr2eval.model.names import locate

    factors, out = Path(factors), Path(out)
    source = ModelRope.read(locate(str(model)))
    original = source.original(from_original=from_original)
    scaling = scaling_of_file(factors, original, target_length)
    for flag, value in (("--attention-factor", attention_factor), ("--short-attention-factor", short_attention_factor)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{flag} {value:g}: is not a positive number; 1 leaves attention as it is")
    long = scaling.long_attention_factor if attention_factor is None else attention_factor
    short = short_attention_factor
    if short is None:
        short = scaling.short_attention_factor if attention_factor is None else attention_factor
    scaling = replace(scaling, long_attention_factor=long, short_attention_factor=short)
    done = export_checkpoint(
        source, scaling, out, factors=read_factors(factors), command=command, link=not copy_weights
    )
    return ExportOutcome(out, scaling, [*scaling_warnings(scaling), *done.warnings], done.notes)


def scaling_of_file(path: Path, original: OriginalRope, target: int | None) -> RopeScaling:
    """The factors of a file as a scaling of this model. Raises :class:`UsageError` where the two do not fit."""
    from lr2eval.method.rope.files import read_factors
    from lr2eval.method.rope.rules import longrope

    found = read_factors(path)
    if len(found.factors) != original.pairs:
        raise UsageError(
            f"{path}: holds {len(found.factors)} factors where the model's {original.pairs} rotary pairs need "
            f"{original.pairs}; use factors made for this model"
        )
    if target is not None and found.target is not None and target != found.target:
        raise UsageError(f"{path}: made for {found.target:,} tokens, --target-length says {target:,}; omit the flag")
    target = target or found.target
    if target is None:
        raise UsageError("--target-length is missing; give the window the factors are for, for example 128k")
    made = found.scaling
    if made is not None and made.original != original:
        raise UsageError(
            f"{path}: made for base {made.theta:g} and a window of {made.original_window:,}, the model has "
            f"{original.theta:g} and {original.window:,}; use factors made for this model"
        )
    try:
        plain = longrope(original, target, factors=found.factors, attention_factor=found.temperature)
    except ValueError as error:
        raise UsageError(f"--target-length: {error}; give a longer one") from error
    return made or replace(plain, provenance=found.origin or "given")


def scaling_warnings(scaling: RopeScaling) -> list[str]:
    """What is unusual about these factors, a line each."""
    from lr2eval.model.rope_facts import is_increasing

    found = []
    if scaling.scale > MANY:
        found.append(f"s = {scaling.scale:g} is beyond {MANY}, further than any published result")
    factors = scaling.long_factor
    if not is_increasing(factors):
        at = next(i for i in range(1, len(factors)) if factors[i] < factors[i - 1])
        found.append(f"the factors are not monotonic: pair {at} has {factors[at]:g} after {factors[at - 1]:g}")
    return found
