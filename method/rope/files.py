"""Factors in files: a CSV file with one number per line, or JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lr2eval.base.reading import decoded, parse_csv, parse_json, read_bytes
from lr2eval.errors import UsageError
from lr2eval.method.rope.rules import longrope
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.record.base import check_seal

_LARGEST = 64 << 20
"""Bytes; a file of factors has a few thousand."""


@dataclass(frozen=True)
class FactorsFile:
    """The contents of a file of factors. Everything except the long factors may be missing."""

    path: Path
    sha256: str
    factors: tuple[float, ...]
    scaling: RopeScaling | None = None
    """The whole value, if the file has one (:meth:`RopeScaling.to_json`)."""
    temperature: float | None = None
    target: int | None = None
    origin: str | None = None
    """How the factors were made, as the file says."""
    search: Mapping[str, Any] | None = None
    """Notes of the search that made them: ``digest``, ``needle_perplexity`` and more."""


def read_factors(path: Path) -> FactorsFile:
    """Read a file of factors.

    * Text: numbers separated by commas, spaces or line ends; a first line of words is a heading.
    * JSON: a list of numbers; the fields of :class:`RopeScaling`; or ``factors`` (and ``temperature``,
      ``target_length``, ``made_by``) as ``lr2eval rope --json`` prints them. ``search`` is kept, ``sha256`` checked.

    Raises :class:`UsageError` for any other file.
    """
    fix = "give a CSV or JSON file of factors"
    raw = read_bytes(path, fix=fix, limit=_LARGEST)
    text = decoded(raw, str(path), fix=fix)
    sha256 = hashlib.sha256(raw).hexdigest()
    if not text.lstrip().startswith(("{", "[")):
        return FactorsFile(path, sha256, _from_csv(path, raw))
    value = parse_json(text, str(path), fix="write the file again")
    return _from_object(path, sha256, {"factors": value} if isinstance(value, list) else value)


def scaling_of_file(found: FactorsFile, original: OriginalRope, target: int | None) -> RopeScaling:
    """The factors of a file as a scaling of this model. Raises :class:`UsageError` if they do not fit it."""
    path, made = found.path, found.scaling
    if len(found.factors) != original.pairs:
        raise UsageError(
            f"{path}: has {len(found.factors)} factors, but the model has {original.pairs} rotary pairs; use factors "
            "made for this model"
        )
    if target is not None and found.target is not None and target != found.target:
        raise UsageError(
            f"{path}: was made for {found.target:,} tokens, but --target-length is {target:,}; omit the flag"
        )
    target = target or found.target
    if target is None:
        raise UsageError("--target-length is missing; give the window that the factors are for, for example 128k")
    if made is not None and made.original != original:
        raise UsageError(
            f"{path}: was made for base {made.theta:g} and a window of {made.original_window:,}, but the model has "
            f"base {original.theta:g} and a window of {original.window:,}; use factors made for this model"
        )
    try:
        plain = longrope(original, target, factors=found.factors, attention_factor=found.temperature)
    except ValueError as error:
        raise UsageError(f"--target-length: {error}; give a longer one") from error
    return made or replace(plain, provenance=found.origin or "given")


def _from_object(path: Path, sha256: str, value: Mapping[str, Any]) -> FactorsFile:
    check_seal(value, path, "restore it from a copy or write it again", error=UsageError)
    search = value.get("search")
    search = search if isinstance(search, Mapping) else None
    if "long_factor" in value and "theta" in value:
        try:
            scaling = RopeScaling.from_json(value)
        except ValueError as error:
            raise UsageError(f"{path}: {error}; write the file again") from error
        temperature, target = scaling.long_attention_factor, scaling.target_window
        return FactorsFile(path, sha256, scaling.long_factor, scaling, temperature, target, scaling.provenance, search)
    key = "factors" if "factors" in value else "long_factor"
    if key not in value:
        raise UsageError(f"{path}: has neither `factors` nor `long_factor`; add a list of numbers under one of them")
    numbers = value[key]
    if not isinstance(numbers, list):
        raise UsageError(f"{path}: {key} is not a list; give a list of numbers")
    given = {name: value.get(name) for name in ("temperature", "target_length")}
    stated, length = (None if each is None else _number(path, name, each) for name, each in given.items())
    window = None if length is None else int(length)
    origin = str(value.get("made_by") or value.get("rule") or "") or None
    return FactorsFile(path, sha256, _checked(path, numbers), None, stated, window, origin, search)


def _from_csv(path: Path, raw: bytes) -> tuple[float, ...]:
    rows = [row for row in parse_csv(raw, str(path)) if any(cell.strip() for cell in row)]
    if rows and not _is_number(rows[0][0]):
        rows = rows[1:]
    if len(rows) > 1 and any(len(row) > 1 for row in rows):
        raise UsageError(f"{path}: has several columns; write one factor per line")
    return _checked(path, [cell for row in rows for part in row for cell in part.split()])


def _is_number(text: str) -> bool:
    try:
        float(text.split(maxsplit=1)[0])
    except (ValueError, IndexError):
        return False
    return True


def _checked(path: Path, values: Sequence[Any]) -> tuple[float, ...]:
    if not values:
        raise UsageError(f"{path}: contains no factors; write one per line")
    return tuple(_number(path, f"line or item {place}", value) for place, value in enumerate(values, 1))


def _number(path: Path, name: str, value: Any) -> float:
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not 0 < number < float("inf"):
        raise UsageError(f"{path}: {name} is {value!r:.60}, not a positive number; correct it")
    return number
