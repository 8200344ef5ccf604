"""Configuration files and ``--set key=value``."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lr2eval.base.reading import parse_toml, read_bytes
from lr2eval.errors import UsageError


def read_toml(file: Path) -> dict[str, Any]:
    """A configuration file, dashes in its keys read as underscores; :class:`UsageError` if there is none to read."""
    values = parse_toml(read_bytes(file, fix="give a file that can be read"), f"--config {file}")
    return {key.replace("-", "_"): value for key, value in values.items()}


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``key`` (``table.key`` in the table) in place; :class:`UsageError` where that is no table."""
    head, dot, tail = key.partition(".")
    if dot:
        inner = values.setdefault(head, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {key}: {head} is not a group of options")
        inner[tail] = value
    else:
        values[head.replace("-", "_")] = value


def read_sets(sets: Sequence[str]) -> list[tuple[str, Any]]:
    """Keys and values of ``--set key=value``, dashes of a key read as underscores; :class:`UsageError` for others."""
    found = []
    for item in sets:
        key, separator, text = item.partition("=")
        if not separator or not key.strip():
            raise UsageError(f"--set {item}: write key=value")
        found.append((key.strip().replace("-", "_"), parse_value(text)))
    return found


def parse_value(text: str) -> Any:
    """The value of ``--set key=text``: JSON where it is such, else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def refuse_unknown(
    keys: Iterable[str], known: Collection[str], *, group: str = "", renamed: Mapping[str, str] | None = None
) -> None:
    """Raise :class:`UsageError` for the first of ``keys`` that is not ``known``, naming the nearest known key.

    ``group`` is the table of the keys (``ruler``). ``renamed`` maps old keys to new ones; the error names the new one.
    """
    import difflib

    for key in keys:
        if key in known:
            continue
        full = f"{group}.{key}" if group else key
        if renamed and key in renamed:
            raise UsageError(f"{full} is now called {renamed[key]}")
        near = difflib.get_close_matches(key, sorted(known), 1)
        if near:
            hint = f"did you mean {f'{group}.' if group else ''}{near[0]}?"
        elif len(known) > 12:
            hint = "--help-all lists all options"
        else:
            hint = f"the options are {', '.join(sorted(known))}" if known else f"{group} has no options"
        raise UsageError(f"{full}: unknown option; {hint}")
