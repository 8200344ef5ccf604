"""Write a checkpoint with other RoPE factors; stock transformers can load it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lr2eval.method.rope.scaling import RopeScaling

MANY = 64
"""The largest published scale factor s of one step."""


@dataclass(frozen=True)
class ExportOutcome:
    """An exported checkpoint folder, its factors, and messages for the user."""

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
    attention_factor: str | float | None = None,
    short_attention_factor: str | float | None = None,
    from_original: bool = False,
    copy_weights: bool = False,
    command: Sequence[str] = (),
) -> ExportOutcome:
    """Write ``model`` with the RoPE factors of a CSV or JSON file to the new folder ``out``.

    ``target_length`` (tokens) and ``attention_factor`` (``su``, ``yarn`` or a positive number) replace the values of
    the file. ``short_attention_factor`` is used inside the original window instead; stock transformers ignores it.
    Weights are hard links unless ``copy_weights``. ``from_original`` starts from the window before the model's own
    rescaling.

    Raises :class:`lr2eval.UsageError` for factors that do not fit the model or an ``out`` that exists.
    """
    from lr2eval.method.rope.export import export as export_checkpoint
    from lr2eval.method.rope.files import read_factors, scaling_of_file
    from lr2eval.method.rope.rules import attention_factor as resolved
    from lr2eval.method.rope.rules import with_attention
    from lr2eval.method.rope.source import ModelRope
    from lr2eval.model.names import locate

    out, found = Path(out), read_factors(Path(factors))
    source = ModelRope.read(locate(str(model)))
    scaling = scaling_of_file(found, source.original(from_original=from_original), target_length)
    scaling = with_attention(scaling, attention_factor)
    short = resolved(short_attention_factor, scaling.original, scaling.target_window, flag="--short-attention-factor")
    if short is not None:
        scaling = replace(scaling, short_attention_factor=short)
    done = export_checkpoint(source, scaling, out, factors=found, command=command, link=not copy_weights)
    return ExportOutcome(out, scaling, [*scaling_warnings(scaling), *done.warnings], done.notes)


def scale_warnings(scale: float) -> list[str]:
    """A warning if a window is extended further than anybody has published for one step."""
    return [f"s = {scale:g} is larger than in any published result (at most {MANY})"] if scale > MANY else []


def scaling_warnings(scaling: RopeScaling) -> list[str]:
    """What is unusual about these factors, one line each."""
    found = scale_warnings(scaling.scale)
    factors = scaling.long_factor
    # Resonance RoPE rounds periods to whole tokens, which lets factors fall by less than a token of the period.
    for at, period in enumerate(scaling.original.periods[:-1], 1):
        if factors[at - 1] - factors[at] > 1 / period:
            found.append(f"the factors are not monotonic: pair {at} has {factors[at]:g} after {factors[at - 1]:g}")
            break
    return found
