"""How many workers a run or a search has and where they are; what each does before it loads a model."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from lr2eval.base.files import cache_dir
from lr2eval.base.settings import refuse_unknown
from lr2eval.errors import CheckpointError, UsageError
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.workers.pool import Built, Executor, Pool, Processes

Item = TypeVar("Item")
Result = TypeVar("Result")
ExecutorKind = Literal["processes", "ray"]


@dataclass(frozen=True)
class Workers:
    """``--workers``, ``--executor``, ``--gpus-per-worker`` and the group of options ``ray``."""

    count: int = 1
    kind: ExecutorKind = "processes"
    gpus: float | None = None
    """Per Ray worker; ``None``: 1 if the device is ``cuda``, else 0."""
    ray: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Raises :class:`UsageError` for options that do not belong together, and for a missing package."""
        if self.kind == "ray":
            from lr2eval.workers.ray import check_installed

            check_installed()
        elif self.gpus is not None:
            raise UsageError(
                "--gpus-per-worker: only works with --executor ray; worker processes take the GPUs of this machine in "
                "turn, so omit it"
            )
        refuse_unknown(self.ray or {}, ["address"], group="ray")
        if self.ray and self.kind != "ray":
            raise UsageError("ray.address: only works with --executor ray; add that, or omit ray.address")

    @property
    def here(self) -> bool:
        """Whether the one worker is this process."""
        return self.count == 1 and self.kind == "processes"

    def pool(
        self, load: Callable[[str], Executor[Item, Result]], checkpoint: Checkpoint, device: str
    ) -> Pool[Any, Item, Result]:
        """Workers that each ``load`` an executor (picklable; called with the worker's device) when they have work.

        No worker starts before there is work, but a Ray cluster is connected to at once.
        """
        build = ModelLoader(self, load, checkpoint, device)
        if self.kind == "processes":
            return Processes(build, self.count)
        from lr2eval.workers.ray import Ray

        cuda = device.startswith("cuda")
        gpus = self.gpus if self.gpus is not None else float(cuda)
        if gpus and not cuda:
            raise UsageError(f"--gpus-per-worker {gpus:g}: the device is {device}; add --device cuda")
        return Ray(build, self.count, gpus, (self.ray or {}).get("address"))

    def executor(
        self, load: Callable[[str], Executor[Item, Result]], checkpoint: Checkpoint, device: str
    ) -> AbstractContextManager[Executor[Item, Result]]:
        """The same, or an executor in this process if that is the one worker; it too loads when it has work."""
        if self.here:
            return nullcontext(Built(lambda _: load(device), 0))
        return self.pool(load, checkpoint, device)

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {"workers": self.count, "executor": "in-process" if self.here else self.kind}


@dataclass(frozen=True)
class ModelLoader:
    """Makes the executor of a worker, in the worker. It is sent to the worker's process as it is."""

    workers: Workers
    load: Callable[[str], Executor[Any, Any]]
    checkpoint: Checkpoint
    device: str

    def __call__(self, number: int) -> Executor[Any, Any]:
        return self.load(self.prepare(number))

    def prepare(self, number: int) -> str:
        """Set torch's threads and return the device of worker ``number``; workers take the machine's GPUs in turn.

        A Ray worker may be on another machine: raises :class:`CheckpointError` unless the same model is at the same
        path there.
        """
        import torch

        if self.workers.kind == "ray":
            self._check_same_model()  # the cluster has set the threads
        else:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            torch.set_num_threads(max(1, cores // self.workers.count))
        if self.device == "cuda" and torch.cuda.device_count():
            return f"cuda:{number % torch.cuda.device_count()}"
        return self.device

    def _check_same_model(self) -> None:
        folder = self.checkpoint.folder
        try:
            found = Checkpoint.open(folder, cache=cache_dir())
            if self.checkpoint.override:  # its configuration came with it
                found = found.under(self.checkpoint.config, self.checkpoint.override, found.name)
        except CheckpointError as error:
            raise CheckpointError(
                f"worker on {platform.node()}: {error} (each machine must have the model at the same path)"
            ) from error
        if found.fingerprint != self.checkpoint.fingerprint:
            raise CheckpointError(
                f"{folder}: the machine {platform.node()} has a different model at this path; copy the right one "
                "there, or use a shared disk"
            )
