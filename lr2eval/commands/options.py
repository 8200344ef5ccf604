"""Flags that several commands share."""

from __future__ import annotations

import sys

import typer

from lr2eval.base.units import parse_length
from lr2eval.errors import UsageError
from lr2eval.listener import Listener


def to_stderr(text: str) -> None:
    """One line for a person; never part of standard output."""
    print(text, file=sys.stderr, flush=True)


class Messages(Listener):
    """Prints what a workflow says, and nothing else."""

    def message(self, text: str) -> None:
        to_stderr(text)


def typed_command() -> list[str]:
    """The command as it was typed, for the manifest."""
    return ["lr2eval", *sys.argv[1:]]


def spread_flags(context: typer.Context) -> dict[str, str]:
    """The worker flags among what ``run`` does not know itself. Anything else is refused as an unknown option."""
    known = {"--workers": "workers", "--executor": "executor", "--gpus-per-worker": "gpus_per_worker"}
    found = {}
    words = list(context.args)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if name not in known:
            context.fail(
                f"No such option: {name}" if name.startswith("-") else f"Got unexpected extra argument ({name})"
            )
        if not equals and not words:
            context.fail(f"Option {name!r} requires an argument.")
        found[known[name]] = value if equals else words.pop(0)
    return found


def read_length(flag: str, text: str | None) -> int | None:
    """Tokens of a length flag (``128k``). Raises :class:`UsageError` naming the flag."""
    if text is None:
        return None
    try:
        return parse_length(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from error
