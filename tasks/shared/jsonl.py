"""Files of JSON objects, one on each line or all in a list, plain or gzipped. Errors name file, line and field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lr2eval.base.reading import decoded, parse_json, unpacked
from lr2eval.errors import UsageError

ENDINGS = (".jsonl", ".jsonl.gz")
_FIX = "correct it or download it again"
Row = Mapping[str, Any]


def find(folder: Path) -> dict[str, Path]:
    """The JSON Lines files of ``folder`` by name without ending, sorted; no name may occur twice."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((end for end in ENDINGS if path.name.endswith(end)), None)
        if ending is None or path.name.startswith("."):
            continue
        name = path.name.removesuffix(ending)
        if name in found:
            raise UsageError(f"{folder}: holds {found[name].name} and {path.name}; keep only one of them")
        found[name] = path
    return found


def read(path: Path, id_fields: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
    """(place, object) of every line that is not blank, or of every item of one JSON list if the name has no ``.jsonl``.

    ``place`` is "FILE, line N" or "FILE, item N". ``id_fields`` identify an object: no value (except null) may occur
    twice. Raises :class:`UsageError` for files that cannot be read, are not UTF-8, hold anything but objects, or are
    empty.
    """
    lines = ".jsonl" in path.suffixes
    seen: dict[tuple[str, str], int] = {}
    number = 0
    for number, row in _lines(path) if lines else _items(path):
        what = "line" if lines else "item"
        place = f"{path}, {what} {number}"
        if not isinstance(row, dict):
            raise UsageError(f"{place}: not a JSON object; correct the {'line' if lines else 'file'}")
        for key in id_fields:
            value = row.get(key)
            first = number if value is None else seen.setdefault((key, json.dumps(value)), number)
            if first != number:
                raise UsageError(f"{place}, field {key}: {what} {first} has {value!r} too; remove one of them")
        yield place, row
    if not number:
        raise UsageError(f"{path}: is empty; remove it or write it again")


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    # Split at newlines alone: str.splitlines would also split inside strings, at U+2028 for instance.
    for number, line in enumerate(unpacked(path).split(b"\n"), 1):
        place = f"{path}, line {number}"
        if text := decoded(line, place).strip():
            yield number, parse_json(text, place, fix=_FIX)


def _items(path: Path) -> Iterator[tuple[int, Any]]:
    rows = read_value(path)
    if not isinstance(rows, list):
        raise UsageError(f"{path}: not a list of objects; download it again")
    return enumerate(rows, 1)


def read_value(path: Path) -> Any:
    """The one JSON value of a file. Raises :class:`UsageError` as :func:`read` does."""
    return parse_json(unpacked(path), str(path), fix=_FIX)


def text(row: Row, name: str) -> str:
    """A field that holds text. Raises :class:`UsageError` that names the field; the caller adds the place."""
    value = row.get(name)
    if not isinstance(value, str):
        raise UsageError(f"field {name}: {_found(row, name)}, must be text")
    return value


def texts(row: Row, name: str) -> list[str]:
    """A field that holds a list of at least one text."""
    value = row.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise UsageError(f"field {name}: {_found(row, name)}, must be a list of texts, at least one")
    return value


def whole_number(row: Row, name: str) -> int:
    """A field that holds a whole number, not negative."""
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"field {name}: {_found(row, name)}, must be a whole number")
    return value


def _found(row: Row, name: str) -> str:
    if name not in row:
        return "is missing"
    shown = json.dumps(row[name], ensure_ascii=False)
    return f"is {shown if len(shown) <= 40 else shown[:37] + '...'}"
