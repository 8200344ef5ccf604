"""What a person sees while a run goes on: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from lr2eval._config import format_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import Progress, TaskID

    from lr2eval._types import Shard


class RunProgress:
    """Progress of one run over its shards. Use as a context manager around the run.

    ``live`` draws rich bars (task, length, done/total, tokens/s, time left); otherwise one line is printed per
    finished shard and at most one every ``every`` seconds in between. Everything goes to standard error.
    """

    def __init__(self, *, live: bool | None = None, every: float = 20.0, quiet: bool = False) -> None:
        self._live = sys.stderr.isatty() if live is None else live
        self._every = every
        self._quiet = quiet
        self._bars: Progress | None = None
        self._bar: TaskID | None = None
        self._total_bar: TaskID | None = None
        self._name = ""
        self._total = self._tokens = 0
        self._done = self._busy = 0.0
        self._last_line = 0.0
        self._together = False
        self._samples, self._answered, self._read, self._began = 0, 0.0, 0, 0.0

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._bars:
            self._bars.stop()
            self._bars = None

    def message(self, text: str) -> None:
        """One line for the reader; never part of standard output."""
        if self._quiet:
            return
        if self._bars:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def start(self, shards: Sequence[Shard], *, together: bool = False) -> None:
        """Before the first shard. ``together``: several run at a time, so only the whole has a bar."""
        self._together, self._samples = together, sum(shard.n for shard in shards)
        self._began = self._last_line = time.monotonic()
        if not self._live or self._quiet:
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._total_bar = self._bars.add_task("all", total=sum(shard.n for shard in shards), speed="")
        self._bars.start()

    def shard_started(self, shard: Shard) -> None:
        at = "" if shard.length is None else f" {format_length(shard.length)}"
        self._name = f"{shard.task}{at}"
        self._total, self._done, self._tokens, self._busy = shard.n, 0.0, 0, 0.0
        if self._together:
            return
        self._last_line = time.monotonic()
        if self._bars:
            self._bar = self._bars.add_task(self._name, total=shard.n, speed="")

    def batch_done(self, samples: float, tokens: int, seconds: float) -> None:
        """After a batch that answered ``samples`` samples and took ``seconds`` for ``tokens`` tokens."""
        if self._together:
            return
        self._done += samples
        self._tokens += tokens
        self._busy += seconds
        done = min(self._total, round(self._done))
        speed = f"{self._tokens / self._busy:,.0f} tok/s" if self._tokens and self._busy else ""
        if self._bars and self._bar is not None and self._total_bar is not None:
            before = self._bars.tasks[self._bars.task_ids.index(self._bar)].completed
            self._bars.update(self._bar, completed=done, speed=speed)
            self._bars.advance(self._total_bar, done - before)
        elif time.monotonic() - self._last_line >= self._every and 0 < done < self._total:
            self._last_line = time.monotonic()
            left = self._busy / done * (self._total - done)
            self.message(f"  {self._name}: {done}/{self._total}, {speed}, about {format_seconds(left)} left")

    def batch_of_any(self, samples: float, tokens: int) -> None:
        """After a batch of any shard, where several run at a time."""
        self._answered += samples
        self._read += tokens
        speed = f"{self._read / max(time.monotonic() - self._began, 1e-9):,.0f} tok/s" if self._read else ""
        if self._bars and self._total_bar is not None:
            self._bars.update(self._total_bar, completed=min(self._samples, round(self._answered)), speed=speed)
        elif time.monotonic() - self._last_line >= self._every and self._answered:
            self._last_line = time.monotonic()
            self.message(f"  all: {min(self._samples, round(self._answered))}/{self._samples}, {speed}")

    def shard_done(self, shard: Shard, score: float | None, n: int) -> None:
        if self._bars and self._bar is not None and self._total_bar is not None:
            before = self._bars.tasks[self._bars.task_ids.index(self._bar)].completed
            self._bars.advance(self._total_bar, shard.n - before)
            self._bars.remove_task(self._bar)
            self._bar = None
        shown = "nothing scored" if score is None else f"{score:.1f} (n={n})"
        self.message(f"{self._name}: {shown}")

    def shard_postponed(self) -> None:
        """The shard that was started goes on later, and then tells again what it has done."""
        if self._bars and self._bar is not None and self._total_bar is not None:
            before = self._bars.tasks[self._bars.task_ids.index(self._bar)].completed
            self._bars.advance(self._total_bar, -before)
            self._bars.remove_task(self._bar)
            self._bar = None

    def shard_kept(self, shard: Shard) -> None:
        """A shard that an earlier session finished."""
        self._answered += shard.n
        if self._bars and self._total_bar is not None:
            self._bars.advance(self._total_bar, shard.n)


def format_seconds(seconds: float) -> str:
    """``95`` -> ``1 min 35 s``; for people, not for machines."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 90:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
