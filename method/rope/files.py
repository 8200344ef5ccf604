"""Factors in files: a CSV with one number a line, or JSON."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lr2eval.base.files import write_atomic
from lr2eval.errors import UsageError
from lr2eval.method.rope.scaling import RopeScaling


@dataclass(frozen=True)
class FactorsFile:
    """What a file of factors holds. Everything but the long factors may be missing."""

    path: Path
    sha256: str
    factors: tuple[float, ...]
    scaling: RopeScaling | None = None
    """The whole value, where the file holds one (:meth:`RopeScaling.to_json`)."""
    temperature: float | None = None
    target: int | None = None
    origin: str | None = None
    """How the factors were made, in the file's words."""
    search: Mapping[str, Any] | None = None
    """What the search that made them noted: ``digest``, ``needle_perplexity`` and more."""


def write_csv(path: Path, factors: Sequence[float]) -> None:
    """One factor a line, as the published code has them; every digit, so that :func:`read_factors` gives them back."""
    write_atomic(path, "".join(f"{factor!r}\n" for factor in map(float, factors)))


def read_factors(path: Path) -> FactorsFile:
    """Read a file of factors.

    * Text: numbers separated by commas, spaces or line ends; a first line of words is a heading.
    * JSON: a list of numbers; the fields of :class:`RopeScaling`; or ``factors`` (and ``temperature``,
      ``target_length``, ``made_by``) as ``lr2eval rope --json`` prints them. ``search`` is kept.

    Raises :class:`UsageError` for a file that holds no such thing.
    """
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not a text file"
        raise UsageError(f"{path}: {reason}; give a CSV or JSON file of factors") from error
    sha256 = hashlib.sha256(raw).hexdigest()
    if not text.lstrip().startswith(("{", "[")):
        return FactorsFile(path, sha256, _from_csv(path, text))
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path}: not readable as JSON ({error}); write the file again") from error
    return _from_object(path, sha256, {"factors": value} if isinstance(value, list) else value)


def _from_object(path: Path, sha256: str, value: Mapping[str, Any]) -> FactorsFile:
    search = value.get("search")
    search = search if isinstance(search, Mapping) else None
    if "long_factor" in value and "theta" in value:
        try:
            scaling = RopeScaling.from_json(value)
        except ValueError as error:
            raise UsageError(f"{path}: {error}; write the file again") from error
        return FactorsFile(path, sha256, scaling.long_factor, scaling, scaling.long_attention_factor,
                           scaling.target_window, scaling.provenance, search)  # fmt: skip
    key = "factors" if "factors" in value else "long_factor"
    if key not in value:
        raise UsageError(f"{path}: holds neither factors nor long_factor; write a list of numbers under one of them")
    numbers = value[key]
    if not isinstance(numbers, list):
        raise UsageError(f"{path}: {key} is no list; write a list of numbers")
    temperature, target = value.get("temperature"), value.get("target_length")
    origin = value.get("made_by") or value.get("rule")
    return FactorsFile(
        path,
        sha256,
        _checked(path, numbers),
        temperature=_checked(path, [temperature])[0] if temperature is not None else None,
        target=int(_checked(path, [target])[0]) if target is not None else None,
        origin=str(origin) if origin else None,
        search=search,
    )


def _from_csv(path: Path, text: str) -> tuple[float, ...]:
    rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]
    if len(rows) > 1 and any(len(row) > 1 for row in rows):
        raise UsageError(f"{path}: has several columns; write one factor a line")
    return _checked(path, [cell for row in rows for part in row for cell in part.split()])


def _is_number(text: str) -> bool:
    try:
        float(text.split(maxsplit=1)[0])
    except (ValueError, IndexError):
        return False
    return True


def _checked(path: Path, values: Sequence[Any]) -> tuple[float, ...]:
    if not values:
        raise UsageError(f"{path}: holds no factors; write one a line")
    found = []
    for number, value in enumerate(values):
        try:
            factor = float(value) if not isinstance(value, bool) else float("nan")
        except (TypeError, ValueError):
            factor = float("nan")
        if not 0 < factor < float("inf"):
            raise UsageError(f"{path}: {value!r} at place {number} is no positive number; correct it")
        found.append(factor)
    return tuple(found)
