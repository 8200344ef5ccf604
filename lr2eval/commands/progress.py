"""What a person sees while a run or a search goes on: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from lr2eval.base.console import plain_console, say
from lr2eval.base.units import format_length, format_seconds
from lr2eval.base.visible import line, short
from lr2eval.listener import Listener

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, TaskID

    from lr2eval.benchmark import Shard


class ProgressDisplay(Listener, AbstractContextManager["ProgressDisplay"]):
    """Shows the run or search that began last. Use as a context manager. Everything goes to standard error.

    ``live`` draws bars (by default on a terminal). Otherwise it prints a line for each finished shard, and for work
    that goes on at most one line every ``every`` seconds.
    """

    def __init__(self, *, live: bool | None = None, every: float = 20.0) -> None:
        self._live = sys.stderr.isatty() if live is None else live
        self._every = every
        self._bars: Progress | None = None
        self._all: TaskID | None = None
        self._one: TaskID | None = None
        self._last_line = 0.0

    def __exit__(self, *_: object) -> None:
        self.ended()

    def ended(self) -> None:
        if self._bars:
            self._bars.stop()
        self._bars = self._all = self._one = None

    def message(self, text: str) -> None:
        if self._bars:
            self._bars.console.print(line(text))
        else:
            say(text, error=True)

    def _start(self, name: str, total: int, *columns: ProgressColumn) -> None:
        from rich.progress import BarColumn, Progress

        self._bars = Progress(_text("description"), BarColumn(), *columns, console=plain_console(sys.stderr))
        self._all = self._bars.add_task(name, total=total, note="")
        self._bars.start()

    def _update(self, bar: TaskID | None, **values: object) -> None:
        if self._bars and bar is not None:
            self._bars.update(bar, **values)  # type: ignore[arg-type]  # the names are those of rich

    def _due(self) -> bool:
        """Whether it is time for another line; never if there are bars."""
        return self._bars is None and time.monotonic() - self._last_line >= self._every

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        self.message(text)

    # A run

    def run_started(self, shards: Sequence[Shard], *, together: bool = False) -> None:
        """If several shards run ``together``, only the whole run has a bar."""
        self.ended()
        self._together, self._samples, self._finished = together, sum(shard.n for shard in shards), 0
        self._name, self._total, self._done, self._tokens, self._busy = "all", self._samples, 0.0, 0, 0.0
        self._began = self._last_line = time.monotonic()
        if self._live:
            from rich.progress import MofNCompleteColumn, TimeRemainingColumn

            self._start("all", self._samples, MofNCompleteColumn(), _text("fields[note]"), TimeRemainingColumn())

    def shard_kept(self, shard: Shard) -> None:
        self._finished += shard.n
        self._update(self._all, completed=self._finished)

    def shard_started(self, shard: Shard) -> None:
        if self._together:
            return
        self._name, self._total, self._done, self._tokens, self._busy = _name(shard), shard.n, 0.0, 0, 0.0
        self._last_line = time.monotonic()
        if self._bars:
            self._one = self._bars.add_task(self._name, total=shard.n, note="")

    def batch_done(self, samples: float, tokens: int, seconds: float) -> None:
        self._done += samples
        self._tokens += tokens
        self._busy = time.monotonic() - self._began if self._together else self._busy + seconds
        whole = self._finished if self._together else 0
        done = min(self._total, whole + round(self._done))
        speed = f"{self._tokens / self._busy:,.0f} tokens/s" if self._tokens and self._busy else ""
        self._update(self._one, completed=done, note=speed)
        self._update(self._all, completed=self._finished - whole + done, note=speed if self._together else "")
        if self._due() and done and (self._together or done < self._total):
            left = "" if self._together else f", about {format_seconds(self._busy / done * (self._total - done))} left"
            self._line(f"  {self._name}: {done}/{self._total} samples, {speed}{left}")

    def shard_postponed(self) -> None:
        if self._bars and self._one is not None:
            self._bars.remove_task(self._one)
            self._one = None
            self._update(self._all, completed=self._finished)

    def shard_done(self, shard: Shard, score: float | None, n: int) -> None:
        if not self._together:
            self._finished += shard.n
        self.shard_postponed()
        self.message(f"{_name(shard)}: {'no sample was scored' if score is None else f'{score:.1f} (n={n})'}")

    # A search

    def search_started(self, total: int, after: int, iterations: int, workers: int = 1) -> None:
        self.ended()
        self._total, self._after, self._iterations, self._workers = total, after, iterations, workers
        self._evaluated, self._new, self._busy, self._where = 0, 0, 0.0, "first round"
        self._last_line = -math.inf
        if self._live:
            self._start(self._where, total, _text("fields[note]"))

    def evaluated(self, seconds: float, *, known: bool) -> None:
        self._evaluated += 1
        if not known:
            self._new += 1
            self._busy += seconds
        self._show_search()

    def round_done(self, label: str, iteration: int, best_nll: float, left: int) -> None:
        self._total = self._evaluated + left + self._after
        perplexity = f"{math.exp(best_nll):.4g}" if best_nll < 700 else "inf"
        self._where = f"{label}, iteration {iteration}/{self._iterations}, best perplexity {perplexity}"
        self._show_search()
        if self._due() or (self._bars is None and iteration == self._iterations):
            self._line(f"{self._where}; {self._left()}")

    def _left(self) -> str:
        left = max(0, self._total - self._evaluated)
        text = f"{left:,} evaluations left"
        if not (self._new and left):
            return text
        return f"{text}, about {format_seconds(self._busy / self._new * left / self._workers)}"

    def _show_search(self) -> None:
        done = min(self._evaluated, self._total)
        self._update(self._all, completed=done, total=self._total, description=self._where, note=self._left())


def _text(of: str) -> ProgressColumn:
    from rich.progress import TextColumn

    return TextColumn(f"{{task.{of}}}", markup=False)  # brackets in names are text


def _name(shard: Shard) -> str:
    task = short(line(shard.task), 40)
    return task if shard.length is None else f"{task} {format_length(shard.length)}"
