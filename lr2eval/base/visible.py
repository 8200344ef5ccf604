"""Names are data. Text from outside (models, folders, files) must not act on a terminal, a page or a CI log.

Pages show :func:`visible` text, terminals and logs :func:`line`. ``console.py`` prints nothing else.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

_UNSEEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline
    "\u180e\u3164\uffa0"  # letters and vowel marks that show nothing
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # direction marks, invisible separators
    "\u2028\u2029\ufff9-\ufffb\ufffe\uffff"  # line separators, annotations, non-characters
    "\ud800-\udfff"  # lone surrogates
    "\U000e0000-\U000e007f"  # tag characters
    "]"
)
_MARKS = "".join(chr(point) for point in range(0x300, 0x10000) if unicodedata.category(chr(point)) in ("Mn", "Me"))
_FLOOD = re.compile(f"[{_MARKS}]{{9,}}")
"""More marks on one letter than any script has: they would be drawn over the lines around, and never wrap."""
_COMMANDS = re.compile(
    r"##(?=\w*\[)"  # Azure Pipelines, TeamCity, and the older form of GitHub: anywhere in a line
    r"|::(?=\s*(?:error|warning|notice|debug|group|endgroup|add-mask|add-matcher|remove-matcher|echo|set-output|"
    r"save-state|set-env|add-path|stop-commands|internal-\w+)\b)",
    re.IGNORECASE,
)
"""Beginnings of commands that a CI obeys if they stand in its log."""


def visible(text: str) -> str:
    """``text`` with a visible sign for each character that acts unseen, and a count for a flood of marks."""
    counted = _FLOOD.sub(lambda match: f"⟨{len(match[0])} combining marks⟩", text)
    # A name rather than a control picture, which many fonts lack.
    return _UNSEEN.sub(lambda match: f"⟨U+{ord(match[0]):04X}⟩", counted)


def line(text: str) -> str:
    """``text`` as one line of a terminal or a log: visible, without commands for a CI."""
    one = " ".join(re.split(r"[\t\n]+", text)) if "\n" in text or "\t" in text else text
    return _COMMANDS.sub(lambda match: f"⟨{match[0]}⟩", visible(one))


def short(text: str, columns: int = 80) -> str:
    """``text``, visible and at most ``columns`` wide (a CJK character takes two), the cut marked."""
    text = visible(text)
    return text if cell_len(text) <= columns else set_cell_size(text, columns - 1).rstrip() + "…"


def labels(models: Sequence[str], folders: Sequence[str]) -> list[str]:
    """A label for each run: the name of its model; if two are equal, with the folder's name, or with a number.

    Long names are cut, so that no table or page is as wide as a name.
    """
    names = [short(model) for model in models]
    named = [n if names.count(n) == 1 else f"{n} ({short(f)})" for n, f in zip(names, folders, strict=True)]
    return [n if named.count(n) == 1 else f"{n} #{i}" for i, n in enumerate(named, 1)]
