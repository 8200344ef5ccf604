"""``lr2eval rope``: print the RoPE factors of a model, a rule or a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lr2eval.base.console import print_json, printed_table, say, table
from lr2eval.base.settings import read_sets, refuse_unknown
from lr2eval.base.units import format_length
from lr2eval.commands.options import AsJson, FromOriginal, read_length
from lr2eval.errors import UsageError
from lr2eval.method.rope.rules import RULES, make_scaling, rope_rule, rope_rules, rule_failures, with_attention
from lr2eval.model.rope_facts import CLIPPED, below_bound, is_increasing, real_index, split_index

if TYPE_CHECKING:
    from lr2eval.method.rope.scaling import OriginalRope, RopeScaling

CHECKPOINT = "checkpoint"
"""Stands for a rule where a checkpoint's own factors are shown."""


def _facts(name: str, folder: Path, scaling: RopeScaling) -> dict[str, Any]:
    original = scaling.original
    factors = scaling.long_factor
    rescaled = scaling.scale > 1
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
        "d_rcd": real_index(factors, scaling.scale) if rescaled else None,
        "split": split_index(factors) if rescaled else None,
        "below_bound": list(below_bound(factors, scaling.scale, original.d_tcd)),
        "monotonic": is_increasing(factors),
        "factors": list(factors),
        "periods": [factor * period for factor, period in zip(factors, original.periods, strict=True)],
        "original_periods": list(original.periods),
    }


def _warn(scaling: RopeScaling) -> None:
    from lr2eval.workflows.export import scaling_warnings

    for warning in scaling_warnings(scaling):
        say(f"warning: {warning}", error=True)


def _show(name: str, folder: Path, scaling: RopeScaling, as_json: bool) -> None:
    _warn(scaling)
    facts = _facts(name, folder, scaling)
    if as_json:
        print_json(facts)
        return
    made_by = "the model's own RoPE" if name == CHECKPOINT else scaling.provenance
    say(f"{facts['model']}: {made_by}")
    say(_geometry(scaling.original, scaling.target_window))
    say(_temperature(scaling))
    for line in _positions(facts):
        say(line)
    shown = table("pair", "period", "factor", "period with factor", "", right=slice(4))
    for i, factor in enumerate(scaling.long_factor):
        marks = [mark for mark in ("d10_tcd", "d_tcd", "d_rcd", "split") if facts[mark] == i]
        marks += ["below s"] if i in facts["below_bound"] else []
        period = f"{facts['periods'][i]:,.1f}" if factor < CLIPPED else "no position"
        row = str(i), f"{facts['original_periods'][i]:,.1f}", f"{factor:.6g}", period
        shown.add_row(*row, ", ".join(marks))
    printed_table(shown)


def _show_all(
    folder: Path, original: OriginalRope, target: int, settings: Mapping[str, Any], asked: str | None, as_json: bool
) -> None:
    rules = rope_rules()
    refuse_unknown(settings, {key for rule in rules.values() for key in rule.settings})
    made, left_out = {}, rule_failures()
    for name, rule in rules.items():
        fitting = {key: value for key, value in settings.items() if key in rule.settings}
        try:
            made[name] = make_scaling(name, original, target, fitting, asked)
        except UsageError as error:
            if name == "none":  # it needs only a target length, so the target is wrong
                raise
            left_out[name] = str(error).removeprefix(f"--rule {name}: ")
    facts = {name: _facts(name, folder, scaling) for name, scaling in made.items()}
    _warn(next(iter(made.values())))
    if as_json:
        print_json({"rules": facts, "left_out": left_out})
        return
    say(f"{folder.resolve().name}: every rule")
    say(_geometry(original, target))
    last = original.pairs - 1
    places = list(dict.fromkeys(i for i in (original.d10_tcd, original.d_tcd, last) if i <= last))
    at_places = [f"factor at {i}" for i in places]
    shown = table("rule", *at_places, "d_rcd", "pairs below s", "temperature", right=slice(1, None))
    for name, scaling in made.items():
        fact = facts[name]
        at = [f"{scaling.long_factor[i]:.6g}" for i in places]
        reached = "-" if fact["d_rcd"] is None else str(fact["d_rcd"])
        shown.add_row(name, *at, reached, str(len(fact["below_bound"])), f"{scaling.long_attention_factor:.4f}")
    printed_table(shown)
    say(f"pairs below s: pairs from d_tcd ({original.d_tcd}) on with a factor smaller than s")
    for name, reason in left_out.items():
        say(f"left out: {name}: {reason}")


def _geometry(original: OriginalRope, target: int) -> str:
    lengths = f"{format_length(original.window)} to {format_length(target)}, s = {target / original.window:g}"
    if target == original.window:
        lengths = format_length(target)
    return f"window {lengths}; base {original.theta:g}, {original.pairs} rotary pairs"


def _temperature(scaling: RopeScaling) -> str:
    long, short = scaling.long_attention_factor, scaling.short_attention_factor
    where = "for all inputs" if long == short else f"beyond the original window, {short:.6g} inside it"
    return f"temperature {long:.6g} {where} (cos and sin are multiplied by it)"


def _positions(facts: Mapping[str, Any]) -> tuple[str, ...]:
    if facts["scale"] <= 1:
        return (f"critical pairs, counted from 0: d10_tcd {facts['d10_tcd']}, d_tcd {facts['d_tcd']}",)
    reached = "no d_rcd (no factor reaches s)" if facts["d_rcd"] is None else f"d_rcd {facts['d_rcd']}"
    split = "" if facts["split"] is None else f", split {facts['split']}"
    below = facts["below_bound"]
    bound = "every pair from d_tcd on has a factor of at least s"
    if below:
        bound = f"{len(below)} pairs from d_tcd on have a factor below s: {below[0]} to {below[-1]}"
    return (
        f"critical pairs, counted from 0: d10_tcd {facts['d10_tcd']}, d_tcd {facts['d_tcd']}, {reached}{split}",
        bound,
    )


def rope(
    model: Annotated[str, typer.Option(help="A folder with a config.json (weights are not needed), or a model name.")],
    target_length: Annotated[
        str | None, typer.Option(help="The window to reach, in tokens: 128k.", metavar="<length>")
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(help=f"The rule: {', '.join(RULES)}, or all. Packages can add rules."),
    ] = None,
    factors: Annotated[
        Path | None, typer.Option(help="Show the factors in this CSV or JSON file instead of a rule.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set a parameter of the rule: beta_fast=64.", metavar="<key=value>"),
    ] = None,
    attention_factor: Annotated[
        str | None,
        typer.Option(
            help="Another attention temperature: a number, su for sqrt(1 + ln s / ln Lt), yarn for 0.1 ln s + 1.",
            metavar="<factor>",
        ),
    ] = None,
    from_original: FromOriginal = False,
    as_json: AsJson = False,
) -> None:
    """Show the RoPE factors of a rule, file or checkpoint. Also show periods and critical pairs."""
    from lr2eval.method.rope.files import read_factors, scaling_of_file
    from lr2eval.method.rope.source import ModelRope
    from lr2eval.model.names import locate

    if rule is not None and factors is not None:
        raise UsageError("--rule and --factors cannot be combined; give one of them")
    target = read_length("--target-length", target_length)
    if rule not in (None, "all"):
        rope_rule(rule)  # a wrong name is told before the model is read
    source = ModelRope.read(locate(model))
    if rule is None and factors is None:
        if target is not None or set_ or attention_factor is not None:
            raise UsageError(
                "--target-length, --set and --attention-factor need --rule or --factors; omit them to see the "
                "checkpoint's own factors"
            )
        _show(CHECKPOINT, source.folder, source.own(), as_json)
        return
    original = source.original(from_original=from_original)
    if factors is not None:
        if set_:
            raise UsageError("--set changes a --rule; omit it with --factors")
        made = with_attention(scaling_of_file(read_factors(factors), original, target), attention_factor)
        _show(str(factors), source.folder, made, as_json)
        return
    if target is None:
        raise UsageError("--target-length is missing; give the window to reach, for example 128k")
    settings = dict(read_sets(set_ or ()))
    if rule == "all":
        _show_all(source.folder, original, target, settings, attention_factor, as_json)
    else:
        scaling = make_scaling(str(rule), original, target, settings, attention_factor)
        _show(str(rule), source.folder, scaling, as_json)
