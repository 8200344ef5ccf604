"""``lr2eval report``: render finished runs or a finished search again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lr2eval.errors import UsageError


def report(
    runs: Annotated[list[Path], typer.Argument(help="One run folder, several to show side by side, or a search's.")],
    out: Annotated[Path | None, typer.Option(help="HTML file. [default: report.html in the first folder]")] = None,
) -> None:
    """Render finished runs, or a finished search, again as one HTML file."""
    from lr2eval.reports import is_search, render, render_search

    home = out or runs[0] / "report.html"
    searches = [folder for folder in runs if is_search(folder)]
    if searches and len(runs) > 1:
        raise UsageError(f"{searches[0]}: a search has a report of its own; give this folder alone")
    print(render_search(searches[0], home) if searches else render(runs, home))
