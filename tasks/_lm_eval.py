"""Building lm-eval tasks from dict configurations, without the noise lm-eval makes while doing so."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Keep lm-eval's warnings about custom data sets and missing defaults off the terminal; errors pass."""
    logger = logging.getLogger("lm_eval")
    # Modules of lm-eval log through children of this logger and may carry a level of their own.
    children = [
        logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith("lm_eval.")
    ]
    levels = [(each, each.level) for each in (logger, *children)]
    for each, _ in levels:
        each.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for each, level in levels:
            each.setLevel(level)


def build_task(config: Mapping[str, Any], folder: Path | None = None) -> Any:
    """One lm-eval task from a configuration dict.

    With ``folder`` the configuration overrides the task of that name in this folder of YAML files. lm-eval only
    applies overrides to members of a group, hence the group of one around it.
    """
    with quiet_lm_eval():
        spec = dict(config) if folder is None else {"group": "lr2eval", "task": [dict(config)]}
        (task,) = task_manager(folder).load([spec])["tasks"].values()
    return task


@cache
def task_manager(folder: Path | None) -> Any:
    """lm-eval's task index over one folder only; indexing the built-in tasks would take seconds."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=False, include_path=None if folder is None else [folder])
