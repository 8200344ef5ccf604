"""Several RoPE rules of one model on the same samples, ranked. The original is the model as it is, in its window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BeforeValidator

from lr2eval.base.config import Kind, Length, Names
from lr2eval.base.files import file_name
from lr2eval.base.settings import read_sets
from lr2eval.base.units import format_length
from lr2eval.errors import UsageError
from lr2eval.listener import Listener, with_listener
from lr2eval.runs.config import OF_ROPE, RunConfig
from lr2eval.workflows.run import Ready, run_models

if TYPE_CHECKING:
    from lr2eval.workflows.compare import ComparisonOutcome

T = TypeVar("T")


def _once(value: Any) -> Any:
    texts = [text.strip() for text in value.split(",")] if isinstance(value, str) else []
    if again := next((text for text in texts if texts.count(text) > 1), ""):
        raise ValueError(f"names {again} twice; omit one")
    return value


class SweepConfig(RunConfig):
    """A sweep, fully described: the fields of a run, and the rules."""

    target_length: Length
    """The window to reach, in tokens, such as 32k."""
    rules: Annotated[Names, BeforeValidator(_once), Kind("names")] = ("none", "pi", "ntk", "yarn", "longrope2")
    """Rules and factors files, separated by commas. A rule may have options: yarn:beta_fast=64:attention_factor=1."""

    def settings(self) -> dict[str, Any]:
        """Those of a run, the rules, and what holds for all of them."""
        return super().settings() | self.model_dump(mode="json", include={*OF_ROPE})


@with_listener
def prepare_sweep(config: SweepConfig, *, listener: Listener | None = None) -> Ready:
    """Check the model and every rule, and make or find the data. Raises what can be known before a forward pass."""
    from lr2eval.runs.prepare import check_asked, open_checkpoint, prepare_pair
    from lr2eval.runs.rope import under_rope

    listener = listener or Listener()
    listener.message("checking model, rules and data")
    if given := next((key for key in ("baseline", "rope", "rule") if getattr(config, key)), ""):
        raise UsageError(f"{given}: a sweep compares --rules with the model as it is; omit {given}")
    plain = {key: getattr(config, key) for key in RunConfig.model_fields} | {"baseline": config.model}
    asked = {text: RunConfig(**plain | _asked(text, config)) for text in config.rules}

    def each(check: Callable[[RunConfig], T]) -> dict[str, T]:
        """What a check makes of every rule. Its errors are told in the words of this command."""
        found = {}
        for text, one in asked.items():
            try:
                found[text] = check(one)
            except UsageError as error:
                said = str(error).replace("--rope ", "--rules ").replace("--set rule.", f"{one.rope}:")
                raise type(error)(said) from error
        return found

    each(check_asked)
    checkpoint = open_checkpoint(config.model, config)
    seen = each(partial(under_rope, checkpoint))  # before the data are made
    original, first = prepare_pair(next(iter(asked.values())), listener.message)
    window, lengths = checkpoint.window, [shard.length or 0 for shard in first.shards]
    if not min(lengths) <= window < max(lengths):
        raise UsageError(f"--lengths: a sweep needs lengths up to the window of {window:,} tokens and beyond it")
    models = {"original": original}
    for text, one in asked.items():
        settings = first.config.model_copy(update={key: getattr(one, key) for key in ("rope", *OF_ROPE)})
        part = file_name(text, "rule")
        part += f"-{len(models)}" * (part in models)
        models[part] = replace(first, config=settings, checkpoint=seen[text])
    name = f"sweep-{Path(checkpoint.name).name}-{format_length(config.target_length)}"
    return Ready.at(config.out or Path("runs") / config.run_name(name), models)


def _asked(text: str, config: SweepConfig) -> dict[str, Any]:
    """The fields of a run that stand for one of ``--rules``. An attention factor for all is not for ``none``."""
    name, *options = text.split(":")
    rule: dict[str, Any] = dict(read_sets(options))
    own = {key: rule.pop(key) for key in ("attention_factor", "short_attention_factor") if key in rule}
    common = None if name == "none" else config.attention_factor
    return {"rope": name, "rule": rule, "attention_factor": common} | own


@with_listener
def sweep_ready(ready: Ready, *, listener: Listener | None = None, command: Sequence[str] = ()) -> ComparisonOutcome:
    """:func:`sweep` for a sweep that :func:`prepare_sweep` has checked."""
    from lr2eval.workflows.compare import compare_sweep

    done = run_models(ready, listener or Listener(), command)
    return compare_sweep([each.folder for each in done.values()], ready.folder)


@with_listener
def sweep(config: SweepConfig, *, listener: Listener | None = None, command: Sequence[str] = ()) -> ComparisonOutcome:
    """Evaluate ``config.model`` under each of ``config.rules`` on the same samples; ``comparison.ranking`` ranks them.

    Each rule has its own run folder below ``config.out`` (else ``runs/sweep-MODEL-TARGET-CONFIG``); the same call again
    resumes. Raises like :func:`lr2eval.run`.
    """
    return sweep_ready(prepare_sweep(config, listener=listener), listener=listener, command=command)
