"""Loaded by vLLM in each of its processes (entry point ``vllm.general_plugins``): engines end with their driver.

Without this, an engine whose driver is killed waits forever and keeps the memory of the accelerator. The engine's own
workers already end with it.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import MutableMapping

OURS = "LR2EVAL_VLLM"
"""Environment variable by which an engine knows that this package started it. Other engines are not touched."""


def mark(environ: MutableMapping[str, str]) -> None:
    """Tell the engines that will inherit ``environ``; a user's choice of plug-ins (``VLLM_PLUGINS``) is added to."""
    environ[OURS] = "1"
    if "VLLM_PLUGINS" in environ:  # if it is not set, vLLM loads all plug-ins
        chosen = [name for name in environ["VLLM_PLUGINS"].split(",") if name not in ("", "lr2eval")]
        environ["VLLM_PLUGINS"] = ",".join([*chosen, "lr2eval"])


def leave_with_driver() -> None:
    """End this process, without clean-up, as soon as its parent is gone."""
    parent = multiprocessing.parent_process()
    if parent is None or OURS not in os.environ:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="lr2eval-driver", daemon=True).start()
