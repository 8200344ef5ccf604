"""Where the model of a search is: in this process, or in several that each keep a copy of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from lr2eval._checkpoint import Checkpoint
from lr2eval._errors import CheckpointError
from lr2eval._executors import Processes
from lr2eval.backends._loading import load_model, quiet
from lr2eval.method.executors import Executor, InProcess, Job, Result
from lr2eval.method.needles import Sample


@dataclass(frozen=True)
class Loading:
    """What a worker needs; the worker of number n takes the n-th GPU. Goes to another process as it is."""

    checkpoint: Checkpoint
    dtype: str
    device: str
    samples: Sequence[Sample]
    threads: int | None = None
    """Of a worker; ``None`` leaves torch's own choice."""

    def executor(self, workers: int) -> AbstractContextManager[Executor]:
        """One that keeps the model here (for one worker) or in ``workers`` processes."""
        if workers == 1:
            return nullcontext(_Lazy(self, 0))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return Processes(Loading(**(vars(self) | {"threads": max(1, cores // workers)})), workers)

    def __call__(self, number: int) -> Executor:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return _Lazy(self, number)


class _Lazy:
    """The in-process executor; the model is loaded when first needed, and a refusal of it names the checkpoint."""

    def __init__(self, loading: Loading, number: int) -> None:
        self._loading, self._number = loading, number
        self._inner: InProcess | None = None

    def run(self, jobs: Sequence[Job], /) -> Iterator[Result]:
        loading = self._loading
        if self._inner is None:
            device = loading.device
            if device == "cuda" and torch.cuda.device_count():
                device = f"cuda:{self._number % torch.cuda.device_count()}"
            with quiet():
                model = load_model(loading.checkpoint, loading.dtype, device, False)
            self._inner = InProcess(model, loading.samples)
        try:
            yield from self._inner.run(jobs)
        except ValueError as error:
            raise CheckpointError(f"{loading.checkpoint.folder}: {error}; search another model") from error
