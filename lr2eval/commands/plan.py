"""The plan of a run, printed before the model is loaded: tokens, prompts beyond the window, memory and time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lr2eval.base.console import printed_table, table
from lr2eval.base.units import format_length, format_seconds
from lr2eval.estimate.plan import Planned, make_plan

if TYPE_CHECKING:
    from lr2eval.runs.prepare import Prepared
    from lr2eval.workflows.run import Ready

MANY = 15
"""Tasks of one benchmark and length beyond which they share a line."""


def print_plan(ready: Ready, say: Callable[[str], None]) -> None:
    """The table of every model on standard error, then the time of all."""
    plan = make_plan(ready.models)
    for part, lines in plan.lines.items():
        _print(part, ready.models[part], lines)
    if plan.seconds is None:
        say(f"no time estimate: {'; '.join(plan.reasons)}")
    else:
        say(
            f"about {format_seconds(plan.seconds)} of work for the model on this machine, by a calibration of "
            f"{plan.calibration:.0f} s, if every answer takes all its tokens; start-up and scoring come on top"
        )


def _print(part: str, run: Prepared, lines: Sequence[Planned]) -> None:
    checkpoint = run.checkpoint
    title = f"{part + ': ' if part else ''}{checkpoint.name}, window {checkpoint.window:,} tokens"
    shown = table(
        "task", "length", "samples", "prompt tokens", "to write", "too long", "KV/sample", "KV/batch", "time",
        title=title,
    )  # fmt: skip
    shown.columns[0].min_width = 24
    for column in shown.columns[2:]:
        column.justify = "right"
    grouped = _few(lines)
    for line in [*grouped, *([_sum("all", None, lines)] if len(grouped) > 1 else [])]:
        shown.add_row(
            line.name,
            "-" if line.length is None else format_length(line.length),
            f"{line.samples:,}",
            f"{'' if line.exact else '~'}{line.tokens:,}",
            f"{line.new:,}",
            f"{line.over:,}",
            _bytes(line.kv_sample),
            _bytes(line.kv_batch),
            "-" if line.seconds is None else format_seconds(line.seconds),
        )
    printed_table(shown, sys.stderr)
    if any(not line.exact for line in lines):
        print("~ from prompts of some samples of each task, short to long", file=sys.stderr)
    if over := sum(line.over for line in lines):
        fate = {
            "error": "the run would stop there: choose --truncation middle or skip, or longer --lengths",
            "skip": "skipped (--truncation skip)",
            "middle": "cut in the middle (--truncation middle)",
        }[run.config.truncation]
        print(f"{over:,} prompts are too long for their window: {fate}", file=sys.stderr)
    for item in run.not_run:
        at = "" if item.length is None else f" at {format_length(item.length)}"
        print(f"not run: {item.task}{at}: {item.reason}", file=sys.stderr)


def _few(lines: Sequence[Planned]) -> list[Planned]:
    """One line for the tasks of a benchmark and length that are many."""
    groups: dict[tuple[str, int | None], list[Planned]] = {}
    for line in lines:
        groups.setdefault((line.name.partition(":")[0], line.length), []).append(line)
    found = []
    for (benchmark, length), members in groups.items():
        found += members if len(members) <= MANY else [_sum(f"{benchmark} ({len(members)} tasks)", length, members)]
    return found


def _sum(name: str, length: int | None, lines: Sequence[Planned]) -> Planned:
    times = [line.seconds for line in lines]
    return Planned(
        name=name,
        length=length,
        samples=sum(line.samples for line in lines),
        tokens=sum(line.tokens for line in lines),
        new=sum(line.new for line in lines),
        over=sum(line.over for line in lines),
        exact=all(line.exact for line in lines),
        kv_sample=max(line.kv_sample for line in lines),
        kv_batch=max(line.kv_batch for line in lines),
        seconds=None if None in times else sum(t for t in times if t is not None),
    )


def _bytes(count: int) -> str:
    """Whole MiB or GiB to one decimal; nothing where nothing is kept."""
    if not count:
        return "-"
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{max(count / 2**20, 0.1):,.1f} MiB"
