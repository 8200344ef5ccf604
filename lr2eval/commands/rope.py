"""``lr2eval rope``: print the RoPE factors of a model, a rule or a file."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lr2eval.base.console import print_json, printed_table, table
from lr2eval.base.units import format_length
from lr2eval.commands.options import AsJson, FromOriginal, read_length
from lr2eval.errors import UsageError

if TYPE_CHECKING:
    from lr2eval.method.rope.scaling import OriginalRope, RopeScaling


def _settings(sets: Sequence[str]) -> dict[str, Any]:
    import json

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
    from lr2eval.method.rope.rules import rope_rule

    rule = rope_rule(name)
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
    from lr2eval.model.rope_facts import below_bound, is_increasing, real_index, split_index

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
    from lr2eval.workflows.export import scaling_warnings

    for warning in scaling_warnings(scaling):
        print(f"warning: {warning}", file=sys.stderr)


def _show(name: str, folder: Path, scaling: RopeScaling, as_json: bool) -> None:
    _warn(scaling)
    facts = _facts(name, folder, scaling)
    if as_json:
        print_json(facts)
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
    from lr2eval.method.rope.rules import rope_rules, rule_failures

    rules = rope_rules()
    unknown = [key for key in settings if not any(key in rule.settings for rule in rules.values())]
    if unknown:
        raise UsageError(f"--set {unknown[0]}: no rule has such a setting")
    made, left_out = {}, rule_failures()
    for name, rule in rules.items():
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
        print_json({"rules": facts, "left_out": left_out})
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


def rope(
    model: Annotated[str, typer.Option(help="A folder with a config.json (weights are not needed), or a model name.")],
    target_length: Annotated[
        str | None, typer.Option(help="The window to reach, in tokens: 128k.", metavar="<length>")
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="The rule: none, pi, ntk, ntk-aware, dynamic-ntk, yarn, llama3, longrope2, ntk-rcd, yarn-rcd, or all."
        ),
    ] = None,
    factors: Annotated[
        Path | None, typer.Option(help="Show the factors in this CSV or JSON file instead of a rule.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set a parameter of the rule: beta_fast=64.", metavar="<key=value>"),
    ] = None,
    from_original: FromOriginal = False,
    as_json: AsJson = False,
) -> None:
    """Show the RoPE factors of a rule, a file or a longrope checkpoint. Also show periods and critical pairs."""
    from lr2eval.method.rope.source import ModelRope
    from lr2eval.model.names import locate
    from lr2eval.workflows.export import scaling_of_file

    if rule is not None and factors is not None:
        raise UsageError("--rule and --factors both say what to analyse; give one of them")
    source = ModelRope.read(locate(model))
    target = read_length("--target-length", target_length)
    if rule is None and factors is None:
        own = source.own()
        if own is None:
            raise UsageError(
                f"{source.folder}: holds no longrope factors of its own; give --rule NAME or --factors FILE"
            )
        if target is not None or set_:
            raise UsageError("without --rule or --factors the checkpoint's own factors are shown; drop the other flags")
        _show("checkpoint", source.folder, own, as_json)
        return
    original = source.original(from_original=from_original)
    if factors is not None:
        if set_:
            raise UsageError("--set gives settings of a --rule; drop it with --factors")
        scaling = scaling_of_file(factors, original, target)
        _show(str(factors), source.folder, scaling, as_json)
        return
    if target is None:
        raise UsageError("--target-length is missing; give the window to reach, for example 128k")
    if rule == "all":
        _show_all(source.folder, original, target, _settings(set_ or ()), as_json)
        return
    _show(str(rule), source.folder, _by_rule(str(rule), original, target, _settings(set_ or ())), as_json)
