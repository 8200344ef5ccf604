"""Print the plan of a run: samples, tokens, prompts that are too long, batches, memory, data files and time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from lr2eval.base.console import printed_table, table
from lr2eval.base.files import cache_dir
from lr2eval.base.machine import slowdown
from lr2eval.base.units import format_length, format_seconds
from lr2eval.estimate.plan import PlannedShard, make_plan
from lr2eval.runs.decoding import notes as decoding_notes

if TYPE_CHECKING:
    from lr2eval.runs.prepare import Prepared
    from lr2eval.workflows.run import Ready

MANY = 15
"""If more tasks of a benchmark have one length, they share a line."""
_TOO_LONG = {
    "error": "the run would stop; choose --truncation middle or skip, or longer --lengths",
    "skip": "skipped (--truncation skip)",
    "middle": "the middle is cut out (--truncation middle)",
}


def print_plan(ready: Ready, say: Callable[[str], None]) -> None:
    """The table of every model on standard error, then the time of all."""
    plan = make_plan(ready.models)
    notes: list[str] = []
    rules = [part for part, run in ready.models.items() if run.checkpoint.override]
    for part, lines in plan.lines.items():
        run, name = ready.models[part], ready.models[part].checkpoint.name
        alike = [other for other in rules if plan.lines[other] == lines] if part in rules else [part]
        if part == alike[0]:
            also = f" (the same for {', '.join(alike[1:])})" if alike[1:] else ""
            _print(f"{part + ': ' if part else ''}{name}, window {run.checkpoint.window:,} tokens{also}", lines)
        notes += _notes(run, lines)
    for note in dict.fromkeys(notes):
        say(note)
    if plan.reason or plan.rates is None:
        say(f"no time estimate: {plan.reason}")
        return
    total = sum(line.seconds or 0.0 for lines in plan.lines.values() for line in lines)
    say(f"about {format_seconds(total)} of model time, if every answer uses all its tokens")
    speeds = f"{plan.rates.operations / 1e9:,.0f} Gflop/s, {plan.rates.bandwidth / 1e9:,.1f} GB/s"
    say(f"This is a rough figure, from one short matrix product ({speeds}).")
    say("Loading the model and scoring take extra time.")


def _print(title: str, lines: Sequence[PlannedShard]) -> None:
    columns = ("task", "samples", "prompt tokens", "answer tokens", "batches", "KV cache", "time")
    shown = table(*columns, title=title, right=slice(1, None))
    grouped = _grouped(lines)
    for line in [*grouped, *([_sum("all", None, lines)] if len(grouped) > 1 else [])]:
        shown.add_row(
            line.name if line.length is None else f"{line.name} {format_length(line.length)}",
            f"{line.samples:,}",
            f"{'' if line.exact else '~'}{line.tokens:,}",
            f"{line.new:,}",
            "-" if line.batches is None else f"{'' if line.exact else '~'}{line.batches:,}",
            _bytes(line.cache),
            "-" if line.seconds is None else format_seconds(line.seconds),
        )
    printed_table(shown, sys.stderr)


def _notes(run: Prepared, lines: Sequence[PlannedShard]) -> Iterator[str]:
    """What the table cannot say."""
    if run.card:
        yield run.card
    if any(not line.exact for line in lines):
        yield "~ estimated from a few prompts of each task, short to long"
    checkpoint = run.checkpoint
    if made := checkpoint.override:
        rule = f"{made['rule']} to {checkpoint.window:,} tokens, temperature {made['temperature']:.4g}"
        yield f"RoPE: {rule}; checkpoint untouched"
    longer = checkpoint.suggested_window
    if longer and max(run.lengths) <= checkpoint.window:
        window = format_length(checkpoint.window)
        yield (
            f"{checkpoint.name}: the {checkpoint.rope_type} factor in its configuration suggests a window of "
            f"{format_length(longer)}, but max_position_embeddings is {window}; to run beyond {window}, add "
            f"--lengths {window}..{format_length(longer)} --set beyond_window=true"
        )
    if over := sum(line.over for line in lines):
        fate = _TOO_LONG[run.config.truncation]
        yield f"{run.checkpoint.name}: {over:,} prompt{'' if over == 1 else 's'} longer than the window: {fate}"
    yield from _dtype_notes(run)
    if any(shard.max_new_tokens for shard in run.shards):
        yield from decoding_notes(run.config.generation, run.checkpoint)
    if files := {str(shard.data["file"]) for shard in run.shards if "file" in shard.data}:
        yield f"data: {len(files)} file{'' if len(files) == 1 else 's'} in {cache_dir()}"
    for item in run.not_run:
        at = "" if item.length is None else f" at {format_length(item.length)}"
        yield f"not run: {item.task}{at}: {item.reason}"


def _dtype_notes(run: Prepared) -> Iterator[str]:
    """Which number type ``auto`` stands for, or that the one asked for is slow here."""
    asked, stated, used = run.config.dtype, run.checkpoint.dtype, run.dtype
    if asked == "auto" and used != stated:
        slow = f"This processor takes {slowdown(stated):.1f} times as long with the model's own {stated}."
        yield f"--dtype auto: {used}, as this run began" if run.kept_dtype else f"--dtype auto: {used}. {slow}"
    here = (run.config.backend, run.device) == ("hf", "cpu")
    if here and asked not in ("auto", "float32") and (times := slowdown(asked)) > 1:
        yield f"warning: --dtype {asked} is slow here: this processor takes {times:.1f} times as long as with float32"


def _grouped(lines: Sequence[PlannedShard]) -> list[PlannedShard]:
    """The lines, but one for all tasks of a benchmark and length if there are many."""
    groups: dict[tuple[str, int | None], list[PlannedShard]] = {}
    for line in lines:
        groups.setdefault((line.name.partition(":")[0], line.length), []).append(line)
    found = []
    for (benchmark, length), members in groups.items():
        found += members if len(members) <= MANY else [_sum(f"{benchmark} ({len(members)} tasks)", length, members)]
    return found


def _sum(name: str, length: int | None, lines: Sequence[PlannedShard]) -> PlannedShard:
    known = all(line.seconds is not None for line in lines)
    return PlannedShard(
        name=name,
        length=length,
        **{count: sum(getattr(line, count) for line in lines) for count in ("samples", "tokens", "new", "over")},
        exact=all(line.exact for line in lines),
        batches=sum(line.batches or 0 for line in lines) if known else None,
        cache=max(line.cache or 0 for line in lines),
        seconds=sum(line.seconds or 0.0 for line in lines) if known else None,
    )


def _bytes(count: int | None) -> str:
    """MiB or GiB to one decimal; ``-`` if nothing is kept or the size is not known."""
    if not count:
        return "-"
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{max(count / 2**20, 0.1):,.1f} MiB"
