"""``lr2eval rope`` and ``lr2eval export``: RoPE factors of a model, shown or written into a checkpoint."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lr2eval._config import format_length, parse_length
from lr2eval._errors import UsageError
from lr2eval._rope_facts import below_bound, is_increasing, real_index, split_index
from lr2eval._tables import printed_table, table
from lr2eval.method.rope import OriginalRope, RopeScaling
from lr2eval.method.rope_rules import RULES, longrope

MANY = 64
"""Scale factors beyond this are further than anybody has published for one step."""


def rope_command(
    model: str,
    *,
    target_length: str | None,
    rule: str | None,
    factors: Path | None,
    sets: Sequence[str],
    from_original: bool,
    as_json: bool,
) -> None:
    """``lr2eval rope``: factors of a rule, of a file, or of the checkpoint itself, and where they stand.

    Raises :class:`UsageError` for what cannot be computed from these flags.
    """
    from lr2eval._models import locate
    from lr2eval.method.rope_source import ModelRope

    if rule is not None and factors is not None:
        raise UsageError("--rule and --factors both say what to analyse; give one of them")
    source = ModelRope.read(locate(model))
    target = _parse_length("--target-length", target_length)
    if rule is None and factors is None:
        own = source.own()
        if own is None:
            raise UsageError(
                f"{source.folder}: holds no longrope factors of its own; give --rule NAME or --factors FILE"
            )
        if target is not None or sets:
            raise UsageError("without --rule or --factors the checkpoint's own factors are shown; drop the other flags")
        _show("checkpoint", source.folder, own, as_json)
        return
    original = source.original(from_original=from_original)
    if factors is not None:
        if sets:
            raise UsageError("--set gives settings of a --rule; drop it with --factors")
        scaling = _scaling_of_file(factors, original, target)
        _show(str(factors), source.folder, scaling, as_json)
        return
    if target is None:
        raise UsageError("--target-length is missing; give the window to reach, for example 128k")
    if rule == "all":
        _show_all(source.folder, original, target, _settings(sets), as_json)
        return
    _show(str(rule), source.folder, _by_rule(str(rule), original, target, _settings(sets)), as_json)


def export_command(
    model: str,
    *,
    factors: Path,
    target_length: str | None,
    out: Path,
    attention_factor: float | None,
    short_attention_factor: float | None,
    from_original: bool,
    copy_weights: bool,
    command: Sequence[str],
) -> None:
    """``lr2eval export``: a checkpoint folder with these factors that stock transformers loads."""
    from lr2eval._models import locate
    from lr2eval.method.export import export
    from lr2eval.method.rope_files import read_factors
    from lr2eval.method.rope_source import ModelRope

    source = ModelRope.read(locate(model))
    original = source.original(from_original=from_original)
    scaling = _scaling_of_file(factors, original, _parse_length("--target-length", target_length))
    for flag, value in (("--attention-factor", attention_factor), ("--short-attention-factor", short_attention_factor)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"{flag} {value:g}: is no positive number; 1 leaves attention as it is")
    long = scaling.long_attention_factor if attention_factor is None else attention_factor
    short = short_attention_factor
    if short is None:
        short = scaling.short_attention_factor if attention_factor is None else attention_factor
    scaling = replace(scaling, long_attention_factor=long, short_attention_factor=short)
    _warn(scaling)
    done = export(source, scaling, out, factors=read_factors(factors), command=command, link=not copy_weights)
    for warning in done.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for line in done.notes:
        print(line)
    print(out)


def _parse_length(flag: str, text: str | None) -> int | None:
    """Tokens of a length flag (``128k``). Raises :class:`UsageError` naming the flag."""
    if text is None:
        return None
    try:
        return parse_length(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error


def _scaling_of_file(path: Path, original: OriginalRope, target: int | None) -> RopeScaling:
    """The factors of a file as a scaling of this model. Raises :class:`UsageError` where the two do not fit."""
    from lr2eval.method.rope_files import read_factors

    found = read_factors(path)
    if len(found.factors) != original.pairs:
        raise UsageError(
            f"{path}: holds {len(found.factors)} factors where the model's {original.pairs} rotary pairs need "
            f"{original.pairs}; use factors made for this model"
        )
    if target is not None and found.target is not None and target != found.target:
        raise UsageError(
            f"{path}: made for {found.target:,} tokens, --target-length says {target:,}; leave the flag out"
        )
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


def _settings(sets: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in sets:
        key, separator, text = item.partition("=")
        if not separator or not key.strip():
            raise UsageError(f"--set {item}: write key=value")
        try:
            values[key.strip().replace("-", "_")] = json.loads(text)
        except json.JSONDecodeError:
            raise UsageError(f"--set {item}: {text!r} is no number; write key=NUMBER or key=[NUMBER,...]") from None
    return values


def _by_rule(name: str, original: OriginalRope, target: int, settings: Mapping[str, Any]) -> RopeScaling:
    rule = RULES.get(name)
    if rule is None:
        near = difflib.get_close_matches(name, [*RULES, "all"], 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(RULES)}, all"
        raise UsageError(f"--rule {name}: unknown rule; {hint}")
    for key in settings:
        if key not in rule.settings:
            known = f"it has {', '.join(rule.settings)}" if rule.settings else "it has none"
            raise UsageError(f"--set {key}: the rule {name} has no such setting; {known}")
    missing = [key for key, must in rule.settings.items() if must and key not in settings]
    if missing:
        raise UsageError(f"--rule {name}: needs {missing[0]}; add --set {missing[0]}=VALUE")
    try:
        return rule.make(original, target, **settings)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"--rule {name}: {error}") from error


def _facts(name: str, folder: Path, scaling: RopeScaling) -> dict[str, Any]:
    original = scaling.original
    factors = scaling.long_factor
    return {
        "model": folder.resolve().name,
        "rule": name,
        "made_by": scaling.provenance,
        "theta": scaling.theta,
        "rotary_dim": scaling.rotary_dim,
        "original_window": scaling.original_window,
        "target_length": scaling.target_window,
        "scale": scaling.scale,
        "temperature": scaling.long_attention_factor,
        "short_temperature": scaling.short_attention_factor,
        "d_tcd": original.d_tcd,
        "d10_tcd": original.d10_tcd,
        "d_rcd": real_index(factors, scaling.scale),
        "split": split_index(factors),
        "below_bound": list(below_bound(factors, scaling.scale, original.d_tcd)),
        "monotonic": is_increasing(factors),
        "factors": list(factors),
        "periods": [factor * period for factor, period in zip(factors, original.periods, strict=True)],
        "original_periods": list(original.periods),
    }


def _warn(scaling: RopeScaling) -> None:
    if scaling.scale > MANY:
        print(f"warning: s = {scaling.scale:g} is beyond {MANY}, further than any published result", file=sys.stderr)
    factors = scaling.long_factor
    if not is_increasing(factors):
        at = next(i for i in range(1, len(factors)) if factors[i] < factors[i - 1])
        print(
            f"warning: the factors are not monotonic: pair {at} has {factors[at]:g} after {factors[at - 1]:g}",
            file=sys.stderr,
        )


def _show(name: str, folder: Path, scaling: RopeScaling, as_json: bool) -> None:
    _warn(scaling)
    facts = _facts(name, folder, scaling)
    if as_json:
        print(json.dumps(facts, indent=2, allow_nan=False))
        return
    print(f"{facts['model']}: {scaling.provenance}")
    print(_geometry(scaling.original, scaling.target_window))
    print(_temperature(scaling))
    print(_positions(facts))
    shown = table("pair", "period", "factor", "period with factor", "")
    marks: dict[int, list[str]] = {}
    for mark in ("d10_tcd", "d_tcd", "d_rcd", "split"):
        if facts[mark] is not None:
            marks.setdefault(facts[mark], []).append(mark)
    for i in facts["below_bound"]:
        marks.setdefault(i, []).append("below s")
    for i, factor in enumerate(scaling.long_factor):
        row = str(i), f"{facts['original_periods'][i]:,.1f}", f"{factor:.6g}", f"{facts['periods'][i]:,.1f}"
        shown.add_row(*row, ", ".join(marks.get(i, ())))
    for column in shown.columns[:4]:
        column.justify = "right"
    printed_table(shown)


def _show_all(folder: Path, original: OriginalRope, target: int, settings: Mapping[str, Any], as_json: bool) -> None:
    unknown = [key for key in settings if not any(key in rule.settings for rule in RULES.values())]
    if unknown:
        raise UsageError(f"--set {unknown[0]}: no rule has such a setting")
    made, left_out = {}, {}
    for name, rule in RULES.items():
        fitting = {key: value for key, value in settings.items() if key in rule.settings}
        missing = [key for key, must in rule.settings.items() if must and key not in fitting]
        if missing:
            left_out[name] = f"needs --set {missing[0]}=VALUE"
            continue
        try:
            made[name] = _by_rule(name, original, target, fitting)
        except UsageError as error:
            if name == "none":  # asks for nothing but a longer target
                raise
            left_out[name] = str(error).removeprefix(f"--rule {name}: ").removeprefix(f"{name}: ")
    facts = {name: _facts(name, folder, scaling) for name, scaling in made.items()}
    _warn(next(iter(made.values())))
    if as_json:
        print(json.dumps({"rules": facts, "left_out": left_out}, indent=2, allow_nan=False))
        return
    print(f"{folder.resolve().name}: every rule")
    print(_geometry(original, target))
    last = original.pairs - 1
    places = list(dict.fromkeys(i for i in (original.d10_tcd, original.d_tcd, last) if i <= last))
    shown = table("rule", *(f"factor at {i}" for i in places), "d_rcd", "pairs below s", "temperature")
    for name, scaling in made.items():
        fact = facts[name]
        at = [f"{scaling.long_factor[i]:.6g}" for i in places]
        reached = "-" if fact["d_rcd"] is None else str(fact["d_rcd"])
        shown.add_row(name, *at, reached, str(len(fact["below_bound"])), f"{scaling.long_attention_factor:.4f}")
    for column in shown.columns[1:]:
        column.justify = "right"
    printed_table(shown)
    print(f"pairs below s: those from d_tcd {original.d_tcd} on whose factor is smaller than s")
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}")


def _geometry(original: OriginalRope, target: int) -> str:
    lengths = f"{format_length(original.window)} to {format_length(target)}, s = {target / original.window:g}"
    return f"window {lengths}; base {original.theta:g}, {original.pairs} rotary pairs"


def _temperature(scaling: RopeScaling) -> str:
    both = scaling.long_attention_factor == scaling.short_attention_factor
    short = "on both windows" if both else f"beyond the window, {scaling.short_attention_factor:.6g} inside it"
    return f"temperature {scaling.long_attention_factor:.6g} {short} (cos and sin are multiplied by it)"


def _positions(facts: Mapping[str, Any]) -> str:
    reached = "no factor reaches s" if facts["d_rcd"] is None else f"d_rcd {facts['d_rcd']}"
    split = "" if facts["split"] is None else f", split {facts['split']}"
    below = facts["below_bound"]
    bound = "every pair from d_tcd on has a factor of at least s"
    if below:
        bound = f"{len(below)} pairs from d_tcd on have a factor below s ({below[0]} to {below[-1]})"
    return f"d10_tcd {facts['d10_tcd']}, d_tcd {facts['d_tcd']}, {reached}{split} (0-based pairs); {bound}"
