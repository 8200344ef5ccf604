"""Loaded by vLLM in each of its processes (entry point ``vllm.general_plugins``): engines leave with their driver.

An engine whose driver is killed waits for its next request for ever, and keeps the memory of the accelerator. Its own
workers do watch it and follow.
"""

from __future__ import annotations

import multiprocessing
import os
import threading

OURS = "LR2EVAL_VLLM"
"""Environment variable that tells engines that this package started them: those of others are left alone."""


def leave_with_driver() -> None:
    """End this process, without clean-up, as soon as the one that started it is gone."""
    parent = multiprocessing.parent_process()
    if parent is None or OURS not in os.environ:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="lr2eval-driver", daemon=True).start()
