"""Files of JSON objects, one a line or in a list, plain or gzipped; errors name file, line and field."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lr2eval.errors import UsageError

ENDINGS = (".jsonl", ".jsonl.gz")
Row = Mapping[str, Any]


def find(folder: Path) -> dict[str, Path]:
    """The JSON Lines files of ``folder`` by name without ending, sorted; :class:`UsageError` if one is there twice."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((end for end in ENDINGS if path.name.endswith(end)), None)
        if ending is None or path.name.startswith("."):
            continue
        name = path.name.removesuffix(ending)
        if name in found:
            raise UsageError(f"{folder}: holds {found[name].name} and {path.name}; remove one of them")
        found[name] = path
    return found


def read(path: Path, id_fields: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
    """(place, object) of every line that is not blank; ``place`` is "FILE, line N" for errors.

    ``id_fields`` may hold an identity: a value (not null) met twice is an error. Raises :class:`UsageError` for files
    that cannot be read, are not UTF-8, or hold anything but objects, and for files without any.
    """
    repeated = _Ids(id_fields, "line")
    empty = True
    # Split at newlines alone: str.splitlines would also split inside strings, at U+2028 for instance.
    for number, line in enumerate(_bytes(path).split(b"\n"), 1):
        place = f"{path}, line {number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{place}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8") from error
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{place}: not valid JSON ({error}); mend the line") from error
        if not isinstance(row, dict):
            raise UsageError(f"{place}: holds no JSON object; mend the line")
        repeated.check(place, number, row)
        empty = False
        yield place, row
    if empty:
        raise UsageError(f"{path}: is empty; remove it or write it again")


def read_list(path: Path, id_fields: Sequence[str] = ()) -> Iterator[tuple[str, Row]]:
    """The same for one JSON list of objects; ``place`` is "FILE, item N"."""
    try:
        rows = json.loads(_bytes(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8") from error
    except ValueError as error:
        raise UsageError(f"{path}: not valid JSON ({error}); mend it or download it again") from error
    if not isinstance(rows, list) or not rows:
        raise UsageError(f"{path}: holds no list of objects; download it again")
    repeated = _Ids(id_fields, "item")
    for number, row in enumerate(rows, 1):
        place = f"{path}, item {number}"
        if not isinstance(row, dict):
            raise UsageError(f"{place}: holds no JSON object; mend the file")
        repeated.check(place, number, row)
        yield place, row


class _Ids:
    """What identities were met, and where first. ``what``: line or item."""

    def __init__(self, fields: Sequence[str], what: str) -> None:
        self._fields, self._what = fields, what
        self._seen: dict[tuple[str, str], int] = {}

    def check(self, place: str, number: int, row: Row) -> None:
        """:class:`UsageError` for a value that is not null and was there before."""
        for key in self._fields:
            if (value := row.get(key)) is not None:
                first = self._seen.setdefault((key, json.dumps(value)), number)
                if first != number:
                    raise UsageError(
                        f"{place}, field {key}: {value!r} is also that of {self._what} {first}; remove one of them"
                    )


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: not a whole gzip file ({error}); copy it again") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}; make it readable") from error


def text(row: Row, name: str) -> str:
    """A field that holds text. :class:`UsageError` names the field; whoever knows the place puts it in front."""
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
