"""What a person sees while a run or a search goes on: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from lr2eval.base.units import format_length, format_seconds
from lr2eval.listener import Listener

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from lr2eval.benchmark import Shard


class RunProgress(Listener):
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
        self.ended()

    def ended(self) -> None:
        if self._bars:
            self._bars.stop()
            self._bars = self._bar = self._total_bar = None

    def message(self, text: str) -> None:
        """One line for the reader; never part of standard output."""
        if self._quiet:
            return
        if self._bars:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def run_started(self, shards: Sequence[Shard], *, together: bool = False) -> None:
        """``together``: several run at a time, so only the whole has a bar."""
        self.ended()
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
            self._batch_of_any(samples, tokens)
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

    def _batch_of_any(self, samples: float, tokens: int) -> None:
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


class SearchProgress(Listener):
    """Iteration, best perplexity, split, evaluations left and time left. Use as a context manager.

    Everything goes to standard error. ``total`` counts evaluations (a vector of
    factors on a sample), ``after`` those that follow the last round.
    """

    def __init__(self, *, live: bool | None = None, every: float = 20.0) -> None:
        self._live = sys.stderr.isatty() if live is None else live
        self._every = every
        self._bars: Progress | None = None
        self._bar: TaskID | None = None
        self._total = self._done = self._after = self._new = self._iterations = 0
        self._busy = 0.0
        self._workers = 1
        self._last_line = -math.inf
        self._where = ""

    def __enter__(self) -> SearchProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.ended()

    def ended(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._bar = None

    def message(self, text: str) -> None:
        """One line for the reader; never part of standard output."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def search_started(self, total: int, after: int, iterations: int, workers: int = 1) -> None:
        """Before the first evaluation; ``workers`` evaluations go on at a time."""
        self._total, self._after, self._iterations, self._workers = total, after, iterations, workers
        if not self._live:
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}")
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._bar = self._bars.add_task("first round", total=total, left="")
        self._bars.start()

    def evaluated(self, seconds: float, *, known: bool) -> None:
        """One evaluation has ended or was found in the journal."""
        self._done += 1
        if not known:
            self._new += 1
            self._busy += seconds
        self._draw()

    def round_done(self, split: int, iteration: int, best_nll: float, left: int) -> None:
        """A round has ended; at most ``left`` evaluations are left in the search."""
        self._total = self._done + left + self._after
        self._where = (
            f"split {split}, iteration {iteration}/{self._iterations}, best perplexity {_perplexity(best_nll)}"
        )
        self._draw()
        now = time.monotonic()
        if self._bars is None and (now - self._last_line >= self._every or iteration == self._iterations):
            self._last_line = now
            self.message(f"{self._where}; {self._left()}")

    def _left(self) -> str:
        left = max(0, self._total - self._done)
        if not (self._new and left):
            return f"{left:,} evaluations left"
        seconds = self._busy / self._new * left / self._workers
        return f"{left:,} evaluations left, about {format_seconds(seconds)}"

    def _draw(self) -> None:
        if self._bars is not None and self._bar is not None:
            self._bars.update(
                self._bar,
                completed=min(self._done, self._total),
                total=self._total,
                description=self._where or "first round",
                left=self._left(),
            )


def _perplexity(nll: float) -> str:
    return f"{math.exp(nll):.4g}" if nll < 700 else "inf"


class ExtendProgress(Listener):
    """Bars of whichever step goes on: a search or a run. Use as a context manager."""

    def __init__(self) -> None:
        self._active: RunProgress | SearchProgress = RunProgress()

    def __enter__(self) -> ExtendProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._active.ended()

    def ended(self) -> None:
        self._active.ended()

    def message(self, text: str) -> None:
        self._active.message(text)

    def run_started(self, shards: Sequence[Shard], *, together: bool = False) -> None:
        self._active = RunProgress()
        self._active.run_started(shards, together=together)

    def shard_kept(self, shard: Shard) -> None:
        self._active.shard_kept(shard)

    def shard_started(self, shard: Shard) -> None:
        self._active.shard_started(shard)

    def batch_done(self, samples: float, tokens: int, seconds: float) -> None:
        self._active.batch_done(samples, tokens, seconds)

    def shard_postponed(self) -> None:
        self._active.shard_postponed()

    def shard_done(self, shard: Shard, score: float | None, n: int) -> None:
        self._active.shard_done(shard, score, n)

    def search_started(self, total: int, after: int, iterations: int, workers: int = 1) -> None:
        self._active = SearchProgress()
        self._active.search_started(total, after, iterations, workers)

    def evaluated(self, seconds: float, *, known: bool) -> None:
        self._active.evaluated(seconds, known=known)

    def round_done(self, split: int, iteration: int, best_nll: float, left: int) -> None:
        self._active.round_done(split, iteration, best_nll, left)
