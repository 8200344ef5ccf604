"""Tables on the terminal."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def table(*columns: str, title: str | None = None) -> Table:
    """A table whose cells wrap rather than vanish."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(*columns, title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in made.columns:
        column.overflow = "fold"
    return made


def printed_table(shown: Table, file: IO[str] | None = None) -> None:
    """Print it as wide as the terminal, or 110 columns into a file. Names are text: brackets in them are no markup."""
    from rich.console import Console

    stream = file or sys.stdout
    width = None if stream.isatty() else 110
    Console(file=stream, width=width, highlight=False, markup=False).print(shown)
