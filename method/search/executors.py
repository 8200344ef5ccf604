"""Who computes the scores of a search: its jobs and results, and the executor with the model in this process.

The search waits for a whole round and writes down each result as it comes, so a lost worker costs what it was working
on. Jobs of one candidate come one after the other, so an executor that sets the factors once for them saves work.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search.needles import Sample
from lr2eval.method.search.perplexity import mean_nll
from lr2eval.workers import pool


@dataclass(frozen=True)
class Job:
    """One evaluation: these factors on the sample of this number. ``number`` is the job's place in its round."""

    number: int
    scaling: RopeScaling
    sample: int


@dataclass(frozen=True)
class Result:
    """``nll`` in nats per scored token, maybe no finite number; ``tokens`` read; wall ``seconds`` of the evaluation."""

    job: Job
    nll: float
    tokens: int
    seconds: float


Executor = pool.Executor[Job, Result]
"""Evaluates jobs, one after the other or many at a time."""


class InProcess:
    """A resident model, whose factors are swapped through the windowed rotary module; nothing is loaded again.

    Samples longer than the original window are read under the long factors. Raises :class:`ValueError` for a model
    whose rotary module cannot be replaced.
    """

    def __init__(self, model: Any, samples: Sequence[Sample]) -> None:
        self._model, self._samples = model, samples

    def run(self, jobs: Sequence[Job], /) -> Iterator[Result]:
        for job in jobs:
            install_rope(self._model, job.scaling)
            sample = self._samples[job.sample]
            began = time.perf_counter()
            nll = mean_nll(self._model, sample)
            yield Result(job, nll, len(sample.ids), time.perf_counter() - began)
