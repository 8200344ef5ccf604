"""What a person sees while a search goes on: one live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

from lr2eval._progress import format_seconds

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress, TaskID


class SearchProgress:
    """Iteration, best perplexity, split, evaluations left and time left. Use as a context manager.

    It satisfies the search's ``Listener``; everything goes to standard error. ``total`` counts evaluations (a vector of
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
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def message(self, text: str) -> None:
        """One line for the reader; never part of standard output."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def start(self, total: int, after: int, iterations: int, workers: int = 1) -> None:
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

    def evaluated(self, result: Any, *, known: bool) -> None:
        """One evaluation has ended or was found in the journal."""
        self._done += 1
        if not known:
            self._new += 1
            self._busy += result.seconds
        self._draw()

    def round_done(self, done: Any, left: int) -> None:
        """A round has ended; at most ``left`` evaluations are left in the search."""
        self._total = self._done + left + self._after
        self._where = (
            f"split {done.split}, iteration {done.iteration}/{self._iterations}, "
            f"best perplexity {_perplexity(done.best_nll)}"
        )
        self._draw()
        now = time.monotonic()
        if self._bars is None and (now - self._last_line >= self._every or done.iteration == self._iterations):
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
