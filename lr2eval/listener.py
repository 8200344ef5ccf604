"""Follow the progress of a workflow: pass it a :class:`Listener` and override the methods that you need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lr2eval.benchmark import Shard


class Listener:
    """Is told how a workflow progresses. Every method does nothing here, so override only what you need.

    The command line draws its bars with a listener. If a method raises an exception, the workflow stops as if it was
    interrupted: finished work is kept, and the same call resumes.
    """

    def message(self, text: str) -> None:
        """One line for a person: ``loading demo``, ``resuming after step 40 of 120``."""

    def run_started(self, shards: Sequence[Shard], *, together: bool = False) -> None:
        """The run of one model begins. ``together``: workers run several shards at the same time."""

    def shard_kept(self, shard: Shard) -> None:
        """An earlier session finished this shard, so it does not run again."""

    def shard_started(self, shard: Shard) -> None:
        """The model gets the samples of this shard next."""

    def batch_done(self, samples: float, tokens: int, seconds: float) -> None:
        """A batch has ended. It answered ``samples`` samples, and read and wrote ``tokens`` tokens in ``seconds``.

        ``samples`` may be a fraction: a sample with four choices is four requests, and a batch may end between them.
        """

    def shard_postponed(self) -> None:
        """The shard that started last stops here. It starts again later and keeps its answers."""

    def shard_done(self, shard: Shard, score: float | None, n: int) -> None:
        """The shard is scored: 0 to 100 over ``n`` samples, or ``None`` if no sample was scored."""

    def search_started(self, total: int, after: int, iterations: int, workers: int = 1) -> None:
        """A search begins.

        Args:
            total: most evaluations of the whole search. One evaluation runs one set of factors on one sample.
            after: those evaluations that follow the last round, to compare the best factors with the other rules.
            iterations: rounds of each split.
            workers: evaluations that run at the same time.
        """

    def evaluated(self, seconds: float, *, known: bool) -> None:
        """One evaluation ended after ``seconds``. ``known``: its result came from the journal."""

    def round_done(self, split: int, iteration: int, best_nll: float, left: int) -> None:
        """A round of a split ended.

        ``best_nll`` is the lowest loss so far, in nats per token. The rounds that follow need at most ``left``
        evaluations.
        """

    def ended(self) -> None:
        """The run or search that began last ended, normally or with an error."""
