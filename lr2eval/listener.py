"""Follow the progress of a workflow: pass it a :class:`Listener` and override the methods that you need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from lr2eval.benchmark import Shard

P = ParamSpec("P")
R = TypeVar("R")


class Listener:
    """Is told how a workflow progresses. Every method does nothing here, so override only what you need.

    The command line draws its bars with a listener. If a method raises an exception, the workflow stops as if it was
    interrupted: finished work is kept, the same call resumes, and the caller gets the exception as it was raised.
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

    def round_done(self, label: str, iteration: int, best_nll: float, left: int) -> None:
        """A round ended, of ``split 14``; or some gradient steps, ``from yarn``.

        ``best_nll`` is the lowest loss so far, in nats per token. The rounds that follow need at most ``left``
        evaluations.
        """

    def ended(self) -> None:
        """The run or search that began last ended, normally or with an error."""


class _Stop(BaseException):
    """Carries what a listener raised through a workflow, which must not take it for an error of disk or back end."""

    def __init__(self, ears: _Ears, error: Exception) -> None:
        super().__init__()
        self.ears, self.error = ears, error


class _Ears:
    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def __getattr__(self, name: str) -> Callable[..., None]:
        method = getattr(self._listener, name)

        def call(*arguments: Any, **named: Any) -> None:
            try:
                method(*arguments, **named)
            except Exception as error:
                raise _Stop(self, error) from error

        return call


def with_listener(workflow: Callable[P, R]) -> Callable[P, R]:
    """For a workflow with the keyword ``listener``: it gets one that is never ``None``.

    What the user's listener raises reaches the user unchanged. No handler of the workflow sees it.
    """

    @wraps(workflow)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        ears = _Ears(cast("Listener | None", named.get("listener")) or Listener())
        try:
            return workflow(*arguments, **{**named, "listener": ears})  # type: ignore[arg-type]
        except _Stop as stop:
            if stop.ears is not ears:  # the workflow that called this one has the user's listener
                raise
            raise stop.error from None

    return call
