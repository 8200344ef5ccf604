"""Ray actors as workers: the scheduling is that of :class:`lr2eval.workers.pool.Pool`."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lr2eval.base import machine
from lr2eval.errors import RunFailedError, UsageError, first_line
from lr2eval.workers.pool import Built, Event, Executor, Item, Pool, Result, answered

SAME = ("lr2eval", "lm_eval", "torch", "transformers", "tokenizers")
"""Packages whose versions decide answers; a worker whose versions differ from the driver's is refused."""

PATIENCE = 600.0
"""Seconds to wait for the first worker; a cluster may have to start machines first."""

_KNOCK = 5.0
_ATTEMPTS = 3
_OWN = {
    "RAY_worker_niceness": "0",  # workers do all the work, so they need no lower priority
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_prestart_worker_first_driver": "0",  # Ray would first wait for workers that nobody asked for
    "RAY_enable_worker_prestart": "0",
}
"""Settings of a cluster that we start: on a busy machine, importing takes a worker longer than Ray's one minute."""


def check_installed() -> None:
    """Raises :class:`UsageError` with the install line."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--executor ray: ray is not installed; pip install 'lr2eval[ray]'")


class Actor:
    """One worker: Ray's handle and the worker's number."""

    def __init__(self, handle: Any, number: int) -> None:
        self.handle, self.number = handle, number


class Ray(Pool[Actor, Item, Result]):
    """Workers in a Ray cluster; use as a context manager.

    Args:
        build: as in :class:`lr2eval.workers.pool.Processes`.
        gpus_per_worker: reserved for each worker, which sees no other GPU. CPUs are an equal share of the smallest
            machine.
        address: ``HOST:PORT`` of a cluster; by default the one this process is connected to, else a new one on this
            machine that ends with this process.

    Raises :class:`UsageError` for an unreachable cluster or one that has too few GPUs, and, from :meth:`run`, for a
    worker with different versions of the packages in :data:`SAME`; :class:`RunFailedError` if no worker starts within
    ten minutes.
    """

    def __init__(
        self,
        build: Callable[[int], Executor[Item, Result]],
        workers: int,
        gpus_per_worker: float = 0.0,
        address: str | None = None,
    ) -> None:
        super().__init__(workers)
        check_installed()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self._events: queue.SimpleQueue[Event[Actor]] = queue.SimpleQueue()
        self._any_ready = False
        self._own = not ray.is_initialized()
        if self._own:
            _connect(address, workers)
        elif address is not None:
            raise UsageError(f"ray.address={address}: this process is already connected to a cluster; omit the option")
        try:
            self._cpus = _share(workers, gpus_per_worker)
            self._build = ray.put(build)
            # The pool replaces dead workers and repeats their items, so Ray must not.
            self._class = ray.remote(_Remote).options(
                num_cpus=self._cpus, num_gpus=gpus_per_worker, max_restarts=0, max_task_retries=0
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all workers and, if this object connected, disconnect, which ends a cluster that it started."""
        import ray

        if ray.is_initialized():
            super().close()
            if self._own:
                ray.shutdown()

    def _start(self, number: int) -> Actor:
        actor = Actor(self._class.remote(self._build, number, self._cpus), number)
        self._when_done(actor, actor.handle.versions.remote())
        return actor

    def _send(self, worker: Actor, item: Item) -> None:
        self._when_done(worker, worker.handle.work.remote(item))

    def _when_done(self, worker: Actor, reference: Any) -> None:
        # The cost of a callback does not grow with the number of workers; asking Ray which is ready does.
        reference.future().add_done_callback(lambda future: self._events.put(_event(worker, future)))

    def _wait(self) -> list[Event[Actor]]:
        try:
            event = self._events.get(timeout=None if self._any_ready else PATIENCE)
        except queue.Empty:
            raise RunFailedError(
                f"no Ray worker started within {PATIENCE / 60:.0f} minutes; use fewer --workers or --gpus-per-worker, "
                "or check the cluster with `ray status`"
            ) from None
        if event[0] == "ready":
            _refuse_other(event[2])
            self._any_ready = True
        return [event]

    def _stop(self, worker: Actor) -> None:
        import ray

        with contextlib.suppress(Exception):  # it is dead already
            ray.kill(worker.handle, no_restart=True)


class _Remote:
    """What runs in a worker; Ray turns it into an actor."""

    def __init__(self, build: Callable[[int], Executor[Any, Any]], number: int, cpus: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(cpus)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(cpus)
        self._executor = Built(build, number)

    def versions(self) -> tuple[str, dict[str, str]]:
        return socket.gethostname(), machine.versions()

    def work(self, item: Any) -> Any:
        return answered(self._executor, item)


def _event(worker: Actor, future: Any) -> Event[Actor]:
    import ray.exceptions

    try:
        value = future.result()
    except ray.exceptions.RayTaskError as error:  # errors of the item itself are caught in the worker
        reason = first_line(error.cause or error)
        return "failed", worker, RunFailedError(f"a worker cannot send back its result ({reason})")
    except Exception as error:  # the worker died, or its machine is lost and the result with it
        return "died", worker, first_line(error)
    return (value[0], worker, value[1]) if value[0] in ("ended", "failed") else ("ready", worker, value)


def _refuse_other(there: tuple[str, dict[str, str]]) -> None:
    """Raise :class:`UsageError` for a worker whose software could give other answers than the driver's."""
    host, theirs = there
    ours = machine.versions()
    for package in SAME:
        if ours.get(package) != theirs.get(package):
            raise UsageError(
                f"the Ray worker on {host} has {package} {theirs.get(package, '(not installed)')}, this process has "
                f"{ours.get(package, '(not installed)')}; install the same version on every machine"
            )


def _connect(address: str | None, workers: int) -> None:
    import ray

    if address is not None and address != "auto":
        _knock(address)
    if address is None:
        os.environ.update(_OWN | os.environ)
    own = {} if address else {"num_cpus": max(workers, os.cpu_count() or 1), "include_dashboard": False}
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _own_signals():
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **own)
            return
        except Exception as error:
            ray.shutdown()
            if attempt < _ATTEMPTS and address is None and "timed out" in str(error):
                continue  # a busy machine: Ray waits only half a minute for its own processes, whatever it is told
            where = f"ray.address={address}" if address else "a Ray cluster on this machine"
            raise UsageError(
                f"{where}: cannot be used ({first_line(error)}); start a cluster with `ray start --head`, using the "
                "same Python and Ray versions as here"
            ) from error


def _knock(address: str) -> None:
    """Raise :class:`UsageError` if nothing listens there; Ray would wait for minutes and then kill this process."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), _KNOCK).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(
            f"ray.address={address}: no Ray cluster answers there ({first_line(error)}); give the HOST:PORT that "
            "`ray start --head` prints, or omit the option to start a cluster on this machine"
        ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep our SIGTERM handler, which closes the run's files; Ray would replace it."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _share(workers: int, gpus: float) -> int:
    """CPUs for each worker. Raises :class:`UsageError` if no machine has enough GPUs for one worker."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max((machine.get("GPU", 0.0) for machine in machines), default=0.0)
    if gpus > most:
        raise UsageError(f"--gpus-per-worker {gpus:g}: no machine of the cluster has more than {most:g}; ask for fewer")
    machines = [machine for machine in machines if machine.get("CPU") and machine.get("GPU", 0.0) >= gpus]
    smallest = min((machine["CPU"] for machine in machines), default=1.0)
    return max(1, int(smallest) // -(-workers // max(1, len(machines))))
