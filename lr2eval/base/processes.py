"""Starting processes from whatever script a user runs."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.resource_tracker import ensure_running
from typing import Any


@contextmanager
def main_is_not_run_again() -> Iterator[None]:
    """A process that is started meanwhile (``spawn``) does not run the user's script first, as it otherwise would.

    A script without ``if __name__ == "__main__"`` would make the same call of ours again, in each process, and wait
    there for the lock that this one holds. Our processes need nothing that the script defines.
    """
    main = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.update(__file__=None, __spec__=None)
    try:
        yield
    finally:
        main.update(kept)
        if "__file__" not in kept:
            del main["__file__"]


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Delay Ctrl-C while processes are started, so that none is lost half started; they themselves never get it."""
    ensure_running()  # the helper of multiprocessing: if it started inside the block, it would unblock the signal
    heard: list[int] = []
    here = threading.current_thread() is threading.main_thread()  # only there does Python handle signals
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number)) if here else None
    # A process that starts meanwhile inherits the blocked signal.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if here:
            signal.signal(signal.SIGINT, before or signal.SIG_DFL)
        if heard:
            signal.raise_signal(signal.SIGINT)
