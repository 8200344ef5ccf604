"""The plan of a run, printed before the model is loaded: tokens, prompts beyond the window, memory and time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lr2eval._config import format_length, parse_bytes
from lr2eval._errors import UsageError
from lr2eval._estimate import Asked, Batch, Speed, kv_bytes, seconds
from lr2eval._progress import format_seconds
from lr2eval._tables import printed_table, table

if TYPE_CHECKING:
    from lr2eval._prepare import Prepared
    from lr2eval.method.recipe import Shape

MANY = 15
"""Tasks of one benchmark and length beyond which they share a line."""


@dataclass(frozen=True)
class Planned:
    """A line of the plan. Bytes of keys and values are 0 where none are kept (scored choices)."""

    name: str
    length: int | None
    samples: int
    tokens: int
    new: int
    over: int
    exact: bool
    kv_sample: int
    kv_batch: int
    seconds: float | None


class Estimator:
    """Tokens, memory and time of prepared runs; each model is measured once."""

    def __init__(self) -> None:
        self._speeds: dict[Any, Speed] = {}
        self.spent = 0.0
        """Seconds that measuring took."""

    def plan(self, run: Prepared) -> tuple[list[Planned], str]:
        """(a line for each task and length, why there is no time, "" where there is)."""
        from lr2eval._estimate_work import asked

        work = asked(run)
        batches, shape, config = _batched(run, work)
        speed, why = self._speed(run, config, batches) if shape else (None, "a model of unknown sizes")
        item = _item(run)
        lines = []
        for one, split in zip(work, batches, strict=True):
            kv = kv_bytes(shape, item) if shape and one.new else 0
            took = seconds(split, shape, speed, run.checkpoint.original_window) if shape and speed else None
            lines.append(
                Planned(
                    name=f"{one.benchmark}:{one.task}",
                    length=one.length,
                    samples=one.samples,
                    tokens=one.tokens,
                    new=one.new * len(one.prompts),
                    over=one.over,
                    exact=one.exact,
                    kv_sample=kv * one.longest,
                    kv_batch=kv * max((b.rows * (b.width + b.new) for b in split), default=0),
                    seconds=took,
                )
            )
        return lines, why

    def _speed(self, run: Prepared, config: Any, batches: Sequence[Sequence[Batch]]) -> tuple[Speed | None, str]:
        from lr2eval._estimate_speed import calibrate, config_shape

        if run.config.backend != "hf":
            return None, f"--backend {run.config.backend} is not measured"
        settings = run.settings["config"]
        every = [batch for split in batches for batch in split]
        longest = max((batch.width for batch in every), default=64)
        rows = max((batch.rows for batch in every if batch.new), default=1)
        key = config_shape(config), settings["dtype"], settings["device"], longest, rows
        if key not in self._speeds:
            started = time.perf_counter()
            try:
                self._speeds[key] = calibrate(config, settings["dtype"], settings["device"], longest=longest, rows=rows)
            except Exception as error:  # whatever a foreign model does with its own configuration: the run may still go
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                return None, f"the calibration failed: {reason[:120]}"
            self.spent += time.perf_counter() - started
        return self._speeds[key], ""


def _item(run: Prepared) -> int:
    return 4 if run.settings["config"]["dtype"] == "float32" else 2


def _batched(run: Prepared, work: Sequence[Asked]) -> tuple[list[list[Batch]], Shape | None, Any]:
    """(batches of every piece of work, sizes of the model if they are stated, its configuration), as the backend
    plans them: longest first, within rows, tokens and memory."""
    import torch
    from transformers import AutoConfig

    from lr2eval._estimate_speed import config_shape
    from lr2eval.backends._memory import Footprint, free_memory
    from lr2eval.backends._planning import MAX_ROWS, TOKENS_CPU, TOKENS_GPU, Limits, pack

    device = _device(run.settings["config"]["device"])
    try:
        config = AutoConfig.from_pretrained(
            run.checkpoint.folder, local_files_only=True, trust_remote_code=run.config.trust_remote_code
        )
        shape = config_shape(config)
    except (UsageError, OSError, ValueError):  # loading will say what is wrong with it, if anything is
        return [[] for _ in work], None, None
    footprint = Footprint.of(config.get_text_config(), _item(run))
    auto = run.config.batch_size == "auto"
    stated = run.config.memory_limit
    memory = (
        parse_bytes(stated) if stated else free_memory(torch.device(device)) - run.checkpoint.parameters * _item(run)
    )
    limits = Limits(
        rows=MAX_ROWS if auto else int(run.config.batch_size),
        tokens=(TOKENS_CPU if device.startswith("cpu") else TOKENS_GPU) if auto else None,
        memory=memory,
    )
    original = run.checkpoint.original_window if run.checkpoint.rope_type == "longrope" else None

    def split(one: Asked) -> list[Batch]:
        lengths, new = one.prompts, one.new

        def fits(batch: list[int]) -> bool:
            width = lengths[batch[0]]  # longest first
            padded = bool(new) and lengths[batch[-1]] < width
            cost = footprint.generating(len(batch), width, new, padded=padded, chunk=None) if new else (
                footprint.scoring(len(batch), width, len(batch), chunk=None))  # fmt: skip
            if new and len(batch) > 1:
                cost += width * footprint.kv  # the row that the others are read on from
            return limits.allow(len(batch), len(batch) * (width + new), cost)

        sides = [original is not None and bool(new) and length > original for length in lengths]
        if one.taken:
            return [*(Batch(1, width, 0) for width in one.beginnings), *shared(one)]
        made = pack(lengths, sides, fits)
        return [
            Batch(len(b), lengths[b[0]], new, padded=bool(new) and lengths[b[-1]] < lengths[b[0]]) for b in made if b
        ]

    def shared(one: Asked) -> list[Batch]:
        """Scored choices of which only the rest is read; those that take equally much together, as a family does."""
        found = []
        for start in sorted(set(one.taken)):
            rest = [length - taken for length, taken in zip(one.prompts, one.taken, strict=True) if taken == start]

            def fits(batch: list[int], start: int = start, rest: list[int] = rest) -> bool:
                rows, width = len(batch), rest[batch[0]]
                cost = footprint.sharing(1, start, rows, width, rows, chunk=None) if start else (
                    footprint.scoring(rows, width, rows, chunk=None))  # fmt: skip
                return limits.allow(rows, start + rows * width, cost)

            found += [Batch(len(b), rest[b[0]], 0, start=start) for b in pack(rest, [False] * len(rest), fits) if b]
        return found

    return [split(one) for one in work], shape, config


def _device(name: str) -> str:
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:100]
        raise UsageError(f"--device {name}: not usable here ({reason}); `lr2eval doctor` shows what is") from error
    return name


def print_plan(runs: Mapping[str, Prepared], say: Callable[[str], None]) -> None:
    """The table of every run on standard error, then the time of all."""
    estimator = Estimator()
    total: float | None = 0.0
    reasons = []
    for part, run in runs.items():
        lines, why = estimator.plan(run)
        _print(part, run, lines)
        reasons += [why] if why else []
        times = [line.seconds for line in lines]
        total = None if total is None or None in times else total + sum(t for t in times if t is not None)
    if total is None:
        say(f"no time estimate: {'; '.join(dict.fromkeys(reasons))}")
    else:
        say(
            f"about {format_seconds(total)} of work for the model on this machine, by a calibration of "
            f"{estimator.spent:.0f} s, if every answer takes all its tokens; start-up and scoring come on top"
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
