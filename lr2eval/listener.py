"""How a workflow tells its progress: pass it a :class:`Listener`, and override the methods you want to hear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lr2eval.benchmark import Shard


class Listener:
    """Hears how a workflow goes on. Every method does nothing here, so override only what you need.

    The command line draws its bars with a listener; a notebook may pass none. An exception that a method raises ends
    the workflow like an interruption: finished work is kept, and the same call resumes.
    """

    def message(self, text: str) -> None:
        """One line for a person: ``loading demo``, ``resuming after step 40 of 120``."""

    def run_started(self, shards: Sequence[Shard], *, together: bool = False) -> None:
        """A run of one model begins. ``together``: several workers answer different shards at a time."""

    def shard_kept(self, shard: Shard) -> None:
        """An earlier session has finished this shard."""

    def shard_started(self, shard: Shard) -> None:
        """The samples of this shard are asked next."""

    def batch_done(self, samples: float, tokens: int, seconds: float) -> None:
        """A batch has answered ``samples`` samples; it read and wrote ``tokens`` tokens in ``seconds``."""

    def shard_postponed(self) -> None:
        """The started shard goes on later, and then begins again with what it has."""

    def shard_done(self, shard: Shard, score: float | None, n: int) -> None:
        """The started shard is scored: 0 to 100 over ``n`` samples, ``None`` if none was scored."""

    def search_started(self, total: int, after: int, iterations: int, workers: int = 1) -> None:
        """A search begins. ``total`` counts evaluations (a vector of factors on a sample), ``after`` those that follow
        the last round."""

    def evaluated(self, seconds: float, *, known: bool) -> None:
        """One evaluation has ended in ``seconds``, or was ``known`` from the journal."""

    def round_done(self, split: int, iteration: int, best_nll: float, left: int) -> None:
        """A round has ended. ``best_nll``: the best so far in nats per token. At most ``left`` evaluations are left."""

    def ended(self) -> None:
        """The run or the search that began last has ended, or was cut short by an error."""
