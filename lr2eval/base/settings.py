"""Configuration files and ``--set key=value``."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lr2eval.base.reading import parse_json, parse_toml, read_bytes
from lr2eval.errors import UsageError

_DEPTH = 20
"""Tables and lists inside each other; no option needs more than three."""


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
        return parse_json(text, "")
    except UsageError:
        return text


Place = tuple[str | int, ...]


def unusable(value: Any, at: Place = ()) -> tuple[Place, str] | None:
    """Where and why a value can be no option: text that fits into no file, an endless number, deep nesting."""
    problem = _problem(value)
    inner: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping) or hasattr(type(value), "model_fields"):
        value = value if isinstance(value, Mapping) else vars(value)
        inner = value.items()
        problem = next(("has a key that is not text" for key in value if not isinstance(key, str) or _problem(key)), "")
    elif isinstance(value, list | tuple | set | frozenset):
        inner = enumerate(value)
    if inner and len(at) > _DEPTH:
        at, problem = at[:2], "is nested too deep"
    if problem:
        return at, problem
    return next(filter(None, (unusable(each, (*at, key)) for key, each in inner)), None)


def _problem(value: Any) -> str:
    if isinstance(value, str | Path):
        try:
            str(value).encode("utf-8")
        except UnicodeEncodeError:
            return "is not UTF-8 text"
        return "has a zero byte" if "\0" in str(value) else ""
    if isinstance(value, int):
        return "" if -(2**63) <= value < 2**63 else "has too many digits"
    return "" if not isinstance(value, float) or math.isfinite(value) else "must be a finite number"


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
