"""What all JSON records share: a frozen base class, a checksum, and a reader that says in one line what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field

from lr2eval.base.files import write_json
from lr2eval.base.ids import digest
from lr2eval.base.reading import checked, parse_json, read_bytes
from lr2eval.errors import Lr2EvalError, StoreError

SEAL = "sha256"
"""The key of a file's checksum, which is over all other keys as canonical JSON."""


class Record(BaseModel):
    """A value that goes into a file: frozen, without unknown keys, and every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Sealed(Record):
    """A record whose file has a checksum. In memory ``sha256`` is ``None``: it belongs to the file."""

    sealed_from: ClassVar[int]
    """The first schema version whose files have a checksum."""

    sha256: str | None = Field(
        default=None, description="over all other keys, as canonical JSON; missing in files of older versions"
    )


R = TypeVar("R", bound=Record)


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """``value`` with its checksum as the last key."""
    rest = {key: item for key, item in value.items() if key != SEAL}
    return {**rest, SEAL: digest(rest)}


def check_seal(
    value: Mapping[str, Any], path: Path, repair: str, *, must: bool = False, error: type[Lr2EvalError] = StoreError
) -> bool:
    """Whether the content of ``path`` has a checksum. Raises ``error`` if it is wrong, or missing although it ``must``
    be there."""
    stated = value.get(SEAL)
    if SEAL not in value and not must:
        return False
    try:
        right = stated == sealed(value)[SEAL]
    except (ValueError, RecursionError):  # what no writer of ours writes
        right = False
    if not right:
        what = "has no checksum" if stated is None else "the checksum differs"
        raise error(f"{path}: was changed after it was written ({what}); {repair}")
    return True


def write_record(path: Path, record: Sealed) -> None:
    """Write a record with its checksum, atomically."""
    write_json(path, as_file(record))


def as_file(record: Sealed) -> dict[str, Any]:
    """What the file of a record holds."""
    return sealed(record.model_dump(mode="json"))


def read_record(path: Path, model: type[R], *, missing: str, repair: str, version_key: str = "schema_version") -> R:
    """The record in ``path``.

    Raises :class:`StoreError` if the file cannot be read (``missing`` then says what to give), if it is not JSON, has
    another schema version, is damaged or has a wrong checksum (``repair`` then says what to do).
    """
    text = read_bytes(path, error=StoreError, fix=missing)
    value = parse_json(text, str(path), error=StoreError, fix=repair)
    if isinstance(value, dict):
        field = model.model_fields[version_key]
        known, found = get_args(field.annotation), value.get(version_key, field.default)
        if found not in known or isinstance(found, bool):
            raise StoreError(f"{path}: {other_version(found, *known)}; {repair}")
    record = checked(model, value, str(path), error=StoreError, fix=repair)
    if issubclass(model, Sealed):
        check_seal(value, path, repair, must=found >= model.sealed_from)
        return record.model_copy(update={SEAL: None})
    return record


def other_version(found: object, *known: object) -> str:
    """What to say about a file of another schema version."""
    *first, last = map(str, known)
    versions = f"versions {', '.join(first)} and {last}" if first else f"version {last}"
    return f"has schema version {found!r}, but this lr2eval reads {versions}"
