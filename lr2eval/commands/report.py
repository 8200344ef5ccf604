"""``lr2eval report``: render finished runs or a finished search again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lr2eval.base.console import say
from lr2eval.errors import UsageError


def report(
    runs: Annotated[list[Path], typer.Argument(help="One or more run folders, or the folder of a search.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file. [default: report.html in the first folder]")] = None,
) -> None:
    """Write the report of runs or of a search again."""
    from lr2eval.reports import is_search, render, render_search

    home = out or runs[0] / "report.html"
    searches = [folder for folder in runs if is_search(folder)]
    if searches and len(runs) > 1:
        raise UsageError(f"{searches[0]}: a search has its own report; give only this folder")
    say(render_search(searches[0], home) if searches else render(runs, home))
