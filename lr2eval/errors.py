"""Every error a user can meet: one line that names the thing and what to do, and an exit code.

The command line prints ``str(error)`` without a traceback and leaves with ``error.exit_code``
(the table is in the README and in ``docs/exit-codes.md``).
"""

from __future__ import annotations

from collections.abc import Mapping


class Lr2EvalError(Exception):
    """Base of the tree; ``exit_code`` is what the command line leaves with."""

    exit_code = 5


def first_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an error's text, or its type if it has none; at most ``limit`` characters."""
    return " ".join((str(error).strip().splitlines() or [type(error).__name__])[0].split())[:limit]


class UsageError(Lr2EvalError):
    """The question itself is wrong: a flag, a configuration, a folder. Nothing was started."""

    exit_code = 2


class CheckpointError(UsageError):
    """The model folder cannot be used: missing or truncated weights, no tokenizer, pickles, bad factors."""


class TaskError(UsageError):
    """Unknown task, or a task that cannot exist at the asked length."""


class MissingDataError(UsageError):
    """Benchmark data is not there. ``missing`` lists every thing that is missing, one line each.

    ``tasks`` says for each task of the benchmark that cannot run without it what it misses; empty means all tasks.
    """

    def __init__(self, message: str, missing: tuple[str, ...] = (), tasks: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.missing = missing or (message,)
        self.tasks = dict(tasks or {})


class MissingPackageError(UsageError):
    """An optional package is not installed; the text has the command that installs it."""


class NotComparableError(Lr2EvalError):
    """Two runs do not answer the same question (other samples, prompts, tokenizers)."""

    exit_code = 4


class RunFailedError(Lr2EvalError):
    """The run stopped part-way; every finished batch is in the store and the same command resumes."""

    exit_code = 5


class StoreError(RunFailedError):
    """The run folder cannot be read or written: full disk, damaged database, lost folder."""


class DiskError(StoreError):
    """The disk is full, failed or locked. The data may well be sound."""


class BackendError(RunFailedError):
    """The model produced something unusable (NaN logits) or does not fit into memory."""
