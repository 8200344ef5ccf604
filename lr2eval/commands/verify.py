"""``lr2eval verify``: are these folders as lr2eval wrote them?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lr2eval.base.console import say
from lr2eval.errors import NotComparableError


def verify(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs, searches, trainings, comparisons or bundles, or baseline files."),
    ],
) -> None:
    """Check checksums, databases and whether all files agree. Exit code 4 if something is damaged."""
    from lr2eval.workflows.verify import verify as check

    found = [finding for outcome in [check(folder) for folder in folders] for finding in outcome.findings]
    for each in found:
        say(f"damaged: {each.text}" if each.damaged else f"{each.place}: {each.text}")
    if any(each.damaged for each in found):
        raise typer.Exit(NotComparableError.exit_code)
