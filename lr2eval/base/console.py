"""Tables on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

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
    """Print it as wide as the terminal, or 110 columns wide into a file. Brackets in names are text, not markup."""
    from rich.console import Console

    stream = file or sys.stdout
    width = None if stream.isatty() else 110
    Console(file=stream, width=width, highlight=False, markup=False).print(shown)


def print_wrapped(text: str, *, first: str = "", rest: str = "") -> None:
    """Print a paragraph as wide as the terminal, at most 110 columns. ``first`` and ``rest`` indent its lines."""
    import shutil
    import textwrap

    width = min(shutil.get_terminal_size((110, 24)).columns, 110) if sys.stdout.isatty() else 110
    print(
        textwrap.fill(
            text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )
    )


def print_json(value: Any) -> None:
    """``value`` as indented JSON on standard output. NaN is refused."""
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def suggestion(name: str, known: Iterable[str]) -> str:
    """``did you mean 'a' or 'b'?``, or where to find all names if no known name is similar."""
    import difflib

    near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else "`lr2eval tasks` lists all names"
