"""Where the model of a search is: in this process, or in several that each keep a copy of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from lr2eval.backends.loading import load_model, quiet
from lr2eval.errors import CheckpointError
from lr2eval.method.search.executors import Executor, InProcess, Job, Result
from lr2eval.method.search.needles import Sample
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.workers.settings import Workers, settle


@dataclass(frozen=True)
class Loading:
    """What a worker needs. Goes to another process as it is."""

    checkpoint: Checkpoint
    dtype: str
    device: str
    samples: Sequence[Sample]
    workers: Workers

    def executor(self) -> AbstractContextManager[Executor]:
        """One that keeps the model here, or in workers."""
        if self.workers.here:
            return nullcontext(_Lazy(self))
        return self.workers.pool(self, self.device)

    def __call__(self, number: int) -> Executor:
        elsewhere = self.workers.kind == "ray"
        device = settle(number, self.device, self.workers.threads, self.checkpoint, elsewhere=elsewhere)
        return _Lazy(replace(self, device=device))


class _Lazy:
    """The in-process executor; the model is loaded when first needed, and a refusal of it names the checkpoint."""

    def __init__(self, loading: Loading) -> None:
        self._loading = loading
        self._inner: InProcess | None = None

    def run(self, jobs: Sequence[Job], /) -> Iterator[Result]:
        loading = self._loading
        if self._inner is None:
            with quiet():
                model = load_model(loading.checkpoint, loading.dtype, loading.device, False)
            self._inner = InProcess(model, loading.samples)
        try:
            yield from self._inner.run(jobs)
        except ValueError as error:
            raise CheckpointError(f"{loading.checkpoint.folder}: {error}; search another model") from error
