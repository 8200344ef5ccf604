"""The haystack that needs no download: the prose of Python's own reference, from ``pydoc_data.topics``.

Its text belongs to the Python version, which is part of its name.
"""

from __future__ import annotations

import platform
import re
from importlib import import_module

PREFIX = "python-docs"
FEWEST_WORDS = 8


def name() -> str:
    """``python-docs-3.11``."""
    return f"{PREFIX}-{'.'.join(platform.python_version_tuple()[:2])}"


def pieces() -> tuple[str, ...]:
    """One text per topic, in alphabetical order: its paragraphs of prose that no topic before it has."""
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    seen: set[str] = set()
    found = []
    for topic in sorted(topics):
        prose = [paragraph for paragraph in map(_prose, re.split(r"\n\s*\n", topics[topic])) if paragraph]
        new = [paragraph for paragraph in dict.fromkeys(prose) if paragraph not in seen]
        seen.update(new)
        if new:
            found.append("\n\n".join(new))
    return tuple(found)


def _prose(block: str) -> str:
    """The block as one line if it is a paragraph or a list entry of whole sentences, else an empty text.

    Code and grammar are indented and end in no full stop, headings are underlined, tables are ruled.
    """
    text = " ".join(block.split()).removeprefix("* ")
    ruled = re.search(r"::=|>>>|[=*+|^-]{4}|\\\\", text)
    if ruled or not text.endswith((".", ":", "?", "!")) or len(text.split()) < FEWEST_WORDS or not text[0].isalpha():
        return ""
    return text
