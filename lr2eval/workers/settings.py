"""How many workers a run or a search has and where they are; what each does before it loads a model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from lr2eval.errors import CheckpointError, UsageError
from lr2eval.workers.pool import Executor, Pool, Processes

if TYPE_CHECKING:
    from lr2eval.model.checkpoint import Checkpoint


Item = TypeVar("Item")
Result = TypeVar("Result")
ExecutorKind = Literal["processes", "ray"]


@dataclass(frozen=True)
class Workers:
    """``--workers``, ``--executor``, ``--gpus-per-worker`` and the group of options ``ray``."""

    count: int = 1
    kind: ExecutorKind = "processes"
    gpus: float | None = None
    """Per worker, of a cluster; ``None``: one if the device is ``cuda``, else none."""
    ray: Mapping[str, Any] | None = None

    def check(self) -> None:
        """Raises :class:`UsageError` for options that do not belong together, and for a missing package."""
        if self.kind == "ray":
            from lr2eval.workers.ray import check_installed

            check_installed()
        elif self.gpus is not None:
            raise UsageError(
                "--gpus-per-worker is for --executor ray; processes share the GPUs of this machine in turn"
            )
        if unknown := sorted((self.ray or {}).keys() - {"address"}):
            raise UsageError(f"ray.{unknown[0]}: no such option; there is ray.address=HOST:PORT")

    @property
    def here(self) -> bool:
        """Whether the one worker is this process."""
        return self.count == 1 and self.kind == "processes"

    @property
    def threads(self) -> int | None:
        """Of torch in each worker; ``None``: as many as its cluster reserves for it."""
        if self.kind == "ray":
            return None
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // self.count)

    def pool(self, build: Callable[[int], Executor[Item, Result]], device: str) -> Pool[Any, Item, Result]:
        """Nothing is started before there is work, but a cluster is connected to."""
        if self.kind == "processes":
            return Processes(build, self.count)
        from lr2eval.workers.ray import Ray

        cuda = device.startswith("cuda")
        gpus = self.gpus if self.gpus is not None else float(cuda)
        if gpus and not cuda:
            raise UsageError(f"--gpus-per-worker {gpus:g}: this run is on the device {device}; add --device cuda")
        return Ray(build, self.count, gpus, (self.ray or {}).get("address"))

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {"workers": self.count, "executor": "in-process" if self.here else self.kind}


def settle(number: int, device: str, threads: int | None, checkpoint: Checkpoint, *, elsewhere: bool) -> str:
    """In worker ``number``: set torch's threads and return its device, the GPUs of the machine going round.

    ``elsewhere``: the machine may be another one than the driver's; :class:`CheckpointError` unless the same model lies
    at the same path there.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if elsewhere:
        _same_model(checkpoint)
    if device == "cuda" and torch.cuda.device_count():
        return f"cuda:{number % torch.cuda.device_count()}"
    return device


def _same_model(checkpoint: Checkpoint) -> None:
    import platform

    from lr2eval.base.files import cache_dir
    from lr2eval.model.checkpoint import Checkpoint

    try:
        found = Checkpoint.open(checkpoint.folder, cache=cache_dir()).fingerprint
    except CheckpointError as error:
        raise CheckpointError(
            f"on the worker's machine {platform.node()}: {error} (every machine reads the model at the same path)"
        ) from error
    if found != checkpoint.fingerprint:
        raise CheckpointError(
            f"{checkpoint.folder}: on the worker's machine {platform.node()} another model than here; put the same one "
            "there, or on a shared disk"
        )
