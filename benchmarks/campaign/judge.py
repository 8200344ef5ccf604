"""What a command may do when something is wrong: a documented exit code, one line for a person, and nothing hidden."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

from .process import Done, TookTooLong

DOCUMENTED = (0, 2, 4, 5)
"""Codes that damage may lead to: it goes on, or refuses. 1 and 3 are verdicts, 70 is an internal error."""
_PHRASES = re.compile(r"Input should be|validation error|type=[a-z_]+|errors\.pydantic|Traceback|Exception ignored")
_SAVED = re.compile(r"(/\S+traceback-[\w.-]+\.txt)")
"""Where lr2eval keeps the traceback of an internal error."""
_FRAME = re.compile(r'File "(?:.*/)?((?:lr2eval|tasks|method|reports)/[^"]+)", line \d+, in (\w+)')


def hidden(text: str) -> str | None:
    """The first character that a terminal would obey or not show, as ``U+001B``; a line end and a tab are none."""
    for each in text:
        if each not in "\n\t" and (unicodedata.category(each) in ("Cc", "Cs") or each in BIDI or each in UNSEEN):
            return f"U+{ord(each):04X}"
    return None


BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
UNSEEN = frozenset("\u200b\u2028\u2029\u2060\ufeff\u180e\ufff9\ufffa\ufffb") | {
    chr(code) for code in range(0xE0000, 0xE0080)
}
"""Characters without a width of their own, that break lines, or that hide text."""


def wrong(done: Done, codes: Collection[int] = DOCUMENTED, *, silent: Collection[int] = (0,)) -> str | None:
    """What is wrong with the end of a command, in a few words that are the same for the same cause; else ``None``.

    A code outside ``silent`` needs exactly one line that begins with ``error: ``, and it comes last.
    """
    said = done.out + "\n" + done.err
    if late(done):
        return "does not end"
    if "Traceback (most recent call last)" in said:
        return f"traceback: {_cause(said)}"
    if (saved := _SAVED.search(done.err)) and done.code not in codes and Path(saved[1]).is_file():
        return f"exit code {done.code}: {_cause(Path(saved[1]).read_text(encoding='utf-8', errors='replace'))}"
    if done.code not in codes:
        return f"exit code {done.code}: {_shape(done.err)}"
    lines = [line for line in done.err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if done.code not in silent and len(errors) != 1:
        return f"exit code {done.code} with {len(errors)} error lines"
    if errors and lines[-1] != errors[0]:
        return "the error line is not the last line"
    if found := _PHRASES.search(said):
        return f"words of a library: {found[0]}"
    if found := hidden(said):
        return f"prints {found}"
    return None


def late(done: Done) -> bool:
    """Whether the campaign had to stop it. lr2eval itself may have caught what the campaign raised."""
    return done.code in (-14, -9) or "killed after" in done.err[-60:] or TookTooLong.__name__ in done.err


def _cause(said: str) -> str:
    frames = _FRAME.findall(said)
    last = next((line for line in reversed(said.splitlines()) if re.match(r"[A-Za-z_][\w.]*(:|$)", line)), "?")
    where = f" in {frames[-1][0]}:{frames[-1][1]}" if frames else ""
    return f"{last.partition(':')[0]}{where}"


def _shape(text: str) -> str:
    """The last line, without names and numbers, to group failures of one cause."""
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return re.sub(r"\d+", "N", re.sub(r"\S*/\S*", "PATH", last))[:90]
