"""What all JSON records share: a frozen base class, and a reader that says in one line what is wrong with a file."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from lr2eval.base.reading import plain, problem_of, read_bytes
from lr2eval.errors import StoreError


class Record(BaseModel):
    """A value that goes into a file: frozen, without unknown keys, and every number finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


R = TypeVar("R", bound=Record)


def read_record(path: Path, model: type[R], *, missing: str, repair: str, version_key: str = "schema_version") -> R:
    """The record in ``path``.

    Raises :class:`StoreError` if the file cannot be read (``missing`` then says what to give), if it is not JSON, has
    another schema version or is damaged (``repair`` then says what to do).
    """
    text = read_bytes(path, error=StoreError, fix=missing)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False)
        first = next((each for each in errors if each["loc"] == (version_key,)), errors[0])
        if first["loc"] == (version_key,):
            problem = other_version(first["input"], model.model_fields[version_key].default)
        elif first["type"] == "json_invalid":
            problem = plain(first["msg"])
        else:
            problem = problem_of(error)
        raise StoreError(f"{path}: {problem}; {repair}") from error


def other_version(found: object, known: object) -> str:
    """What to say about a file of another schema version."""
    return f"has schema version {found!r}, but this lr2eval reads version {known}"
