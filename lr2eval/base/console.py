"""Everything that is printed. A house test forbids ``print`` elsewhere, so that no name acts on a terminal or a log."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any

from lr2eval.base.visible import line, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def say(*values: object, error: bool = False) -> None:
    """Print one line, on standard error if ``error``. Text from outside is made harmless (``visible.py``)."""
    print(line(" ".join(map(str, values))), file=sys.stderr if error else sys.stdout, flush=error)


def command(text: str) -> None:
    """Print a command of our own for GitHub Actions: ``::error title=...::...``. Nothing else may print one."""
    print(" ".join(visible(text).split()))


class _SafeRecord(logging.LogRecord):
    def getMessage(self) -> str:  # the name is that of logging
        return line(super().getMessage())


def guard_logs() -> None:
    """Make harmless what other libraries log and warn about: it holds names of models and files."""
    logging.setLogRecordFactory(_SafeRecord)
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {line(str(message))}\n"


def table(*columns: str, title: str | None = None, right: slice = slice(0)) -> Table:
    """A table whose cells wrap rather than vanish, and whose title and cells cannot act.

    ``right``: the columns of numbers, aligned to the right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    class SafeTable(Table):
        def add_row(self, *cells: Any, **named: Any) -> None:
            super().add_row(*(line(cell) if isinstance(cell, str) else cell for cell in cells), **named)

    made = SafeTable(
        *map(line, columns), title=title and line(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False
    )
    for column in made.columns:
        column.overflow = "fold"
    for column in made.columns[right]:
        column.justify = "right"
    return made


def printed_table(shown: Table, file: IO[str] | None = None) -> None:
    """Print it as wide as the terminal, or 110 columns wide into a file."""
    stream = file or sys.stdout
    plain_console(stream, None if stream.isatty() else 110).print(shown)


def plain_console(stream: IO[str], width: int | None = None) -> Console:
    """A console of rich to which brackets and colons in names are text, not markup."""
    from rich.console import Console

    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def print_wrapped(text: str, *, first: str = "", rest: str = "") -> None:
    """Print a paragraph as wide as the terminal, at most 110 columns. ``first`` and ``rest`` indent its lines."""
    import shutil
    import textwrap

    width = min(shutil.get_terminal_size((110, 24)).columns, 110) if sys.stdout.isatty() else 110
    made = textwrap.TextWrapper(
        width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
    print(made.fill(line(text)))


def print_json(value: Any) -> None:
    """``value`` as indented JSON on standard output, in ASCII, so that no text in it can act. NaN is refused."""
    import json

    text = json.dumps(value, indent=2, allow_nan=False)
    print(text.replace("\x7f", "\\u007f").replace("##", "#\\u0023"))  # for ## see visible.py


def suggestion(name: str, known: Iterable[str]) -> str:
    """``did you mean 'a' or 'b'?``, or where to find all names if no known name is similar."""
    import difflib

    near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else "`lr2eval tasks` lists all names"
