"""The one way in for files that others wrote. Damage becomes one line that names the file; nothing else is raised.

Each function takes ``error``, the class to raise (:class:`UsageError` by default), and ``fix``, what the user can do.
A house test forbids other readers. Files are read with limits, so that a small archive cannot fill the memory.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import lzma
import math
import os
import re
import stat
import sys
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from lr2eval.errors import Lr2EvalError, UsageError, first_line

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

LARGEST = 4 << 30
"""Bytes of a file that is read whole."""
UNPACKED = 64 << 20
"""Bytes that any compressed file may unpack to."""
RATIO = 20
"""Larger files may unpack to this many times their size. Text in natural language unpacks to 3 to 8 times."""
DEPTH = 200
"""Lists and objects inside each other in a JSON value."""

_DAMAGE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError, RuntimeError, NotImplementedError,
    KeyError, ValueError, IndexError, OverflowError,
)  # fmt: skip
"""What Python's decompressors raise for damaged, encrypted and unknown archives."""
Error = type[Lr2EvalError]
M = TypeVar("M", bound="BaseModel")


def read_bytes(path: Path, *, error: Error = UsageError, fix: str = "make it readable", limit: int = LARGEST) -> bytes:
    """The content of a regular file of at most ``limit`` bytes."""
    with opened(path, error=error, fix=fix) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise error(f"{path}: has {_size(size)}, more than the limit of {_size(limit)}; give a smaller file")
        return file.read()


@contextmanager
def opened(path: Path, *, error: Error = UsageError, fix: str = "make it readable") -> Iterator[io.BufferedReader]:
    """A regular file, open for reading. An :class:`OSError` inside the block is reported as one of this file."""
    try:
        try:
            mode = path.stat().st_mode
        except ValueError as problem:  # a zero byte, or half of a character
            raise error(f"{str(path)!r}: not a file name; {fix}") from problem
        if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
            raise error(f"{path}: not a regular file; {fix}")
        with path.open("rb") as file:
            yield file
    except OSError as problem:
        raise error(f"{path}: {problem.strerror or first_line(problem)}; {fix}") from problem


def decoded(data: bytes, place: str, *, error: Error = UsageError, fix: str = "save the file as UTF-8") -> str:
    """UTF-8 text, with or without a byte order mark."""
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{place}: not UTF-8 (byte {problem.start + 1}); {fix}") from problem


def read_text(path: Path, *, error: Error = UsageError, fix: str = "copy it again") -> str:
    """The text of a UTF-8 file."""
    return decoded(read_bytes(path, error=error, fix=fix), str(path), error=error, fix=fix)


def parse_json(
    data: bytes | str, place: str, *, error: Error = UsageError, fix: str = "copy it again", ours: bool = False
) -> Any:
    """A JSON value. NaN, infinity, very deep nesting and lone surrogates are refused.

    ``place`` is what the message begins with: the file, or the file and the line. ``ours``: Python wrote the value for
    us alone, so NaN, infinity and lone surrogates of a model's answers are right.
    """
    text = decoded(data, place, error=error, fix=fix) if isinstance(data, bytes) else data
    try:
        value = json.loads(text) if ours else json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if text.count("[") + text.count("{") > DEPTH:
            _check_depth(value)
        if not ours and ("\\ud" in text or "\\uD" in text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise error(f"{place}: JSON nested more than {DEPTH} deep; {fix}") from None
    except UnicodeEncodeError:
        raise error(f"{place}: not valid JSON (half of a character, \\ud...); {fix}") from None
    except ValueError as problem:
        raise error(f"{place}: not valid JSON ({first_line(problem)}); {fix}") from problem
    return value


def read_json(path: Path, *, error: Error = UsageError, fix: str = "copy it again", limit: int = LARGEST) -> Any:
    """The JSON value in a file."""
    return parse_json(read_bytes(path, error=error, fix=fix, limit=limit), str(path), error=error, fix=fix)


def read_object(path: Path, *, error: Error = UsageError, fix: str = "copy it again") -> dict[str, Any]:
    """The JSON object in a file."""
    value = read_json(path, error=error, fix=fix)
    if not isinstance(value, dict):
        raise error(f"{path}: not a JSON object; {fix}")
    return value


def parse_toml(data: bytes, place: str, *, error: Error = UsageError, fix: str = "correct it") -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        return tomllib.loads(decoded(data, place, error=error))
    except (tomllib.TOMLDecodeError, ValueError) as problem:  # ValueError: a number of too many digits
        raise error(f"{place}: not valid TOML ({first_line(problem)}); {fix}") from problem
    except RecursionError:
        raise error(f"{place}: TOML nested too deep; {fix}") from None


def parse_csv(data: bytes, place: str, *, error: Error = UsageError, fix: str = "correct it") -> list[list[str]]:
    """The rows of a CSV file of at most :data:`UNPACKED` bytes, with cells of any length."""
    if len(data) > UNPACKED:
        raise error(f"{place}: has {_size(len(data))}, more than the limit of {_size(UNPACKED)} for CSV; {fix}")
    text = decoded(data, place, error=error)
    limit = csv.field_size_limit(sys.maxsize)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as problem:
        raise error(f"{place}: not a CSV file ({first_line(problem)}); {fix}") from problem
    finally:
        csv.field_size_limit(limit)


def checked(model: type[M], value: Any, place: str, *, error: Error = UsageError, fix: str = "copy it again") -> M:
    """``value`` as the pydantic ``model``. The message names the first wrong key and says what is wrong with it."""
    from pydantic import ValidationError

    try:
        return model.model_validate(value)
    except ValidationError as problem:
        raise error(f"{place}: {problem_of(problem)}; {fix}") from problem
    except RecursionError:
        raise error(f"{place}: nested too deep; {fix}") from None


def problem_of(error: ValidationError) -> str:
    """``damaged at shards.0.n (must be a valid integer)``: the first problem, in our words."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"])) or "the top level"
    return f"damaged at {where[:120]} ({plain(first['msg'])})"


def plain(message: str) -> str:
    """A message of pydantic in our words."""
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    return re.sub(_NOISE, "", message)


_NOISE = r"^\w+ (?=must )| or instance of \w+| for <class.*| after validation|, (unable|exceeded) .*"
_WORDS: Mapping[str, str] = {
    "Value error, ": "",
    "Assertion failed, ": "",
    "Input should be": "must be",
    "Input should": "must",
    "Input is not": "must be",
    "Unable to parse input string as": "must be",
    "Keys should be strings": "must have text as keys",
    "valid tuple": "list",
    "valid list": "list",
    "Field required": "is missing",
    "Extra inputs are not permitted": "unknown key",
    "valid dictionary": "table",
    "Invalid JSON: ": "not valid JSON: ",
    " should ": " must ",
}


def unpacked(path: Path, *, error: Error = UsageError, fix: str = "copy it again") -> bytes:
    """The content of a file, decompressed if it is gzip. See :data:`UNPACKED` for the limit."""
    with opened(path, error=error, fix=fix) as file:
        if file.read(2) != b"\x1f\x8b":
            return read_bytes(path, error=error, fix=fix)
        file.seek(0)
        limit = unpack_limit(path)
        with _damage(path, "gzip", error, fix), gzip.GzipFile(fileobj=file) as packed:
            return within(packed, limit, path, error)


def unpack_limit(path: Path) -> int:
    """Bytes that a compressed file may unpack to."""
    return max(UNPACKED, RATIO * path.stat().st_size)


def zip_members(
    path: Path, wanted: Callable[[str], bool], *, error: Error = UsageError, fix: str = "copy it again"
) -> list[tuple[str, bytes]]:
    """(name, content) of the wanted members of a zip file, sorted by name."""
    with opened(path, error=error, fix=fix) as file, _damage(path, "zip", error, fix), zipfile.ZipFile(file) as archive:
        left, found = unpack_limit(path), []
        for name in sorted(set(filter(wanted, archive.namelist()))):
            with archive.open(name) as member:
                content = within(member, left, path, error)
            left -= len(content)
            found.append((name, content))
        return found


def within(packed: IO[bytes] | gzip.GzipFile, limit: int, path: Path, error: Error = UsageError) -> bytes:
    """What is left of a decompressed file, at most ``limit`` bytes."""
    parts: list[bytes] = []
    left = limit
    while part := packed.read(1 << 20):
        left -= len(part)
        if left < 0:
            raise error(
                f"{path}: unpacks to more than the limit of {_size(unpack_limit(path))}; unpack it yourself if you "
                "trust it"
            )
        parts.append(part)
    return b"".join(parts)


@contextmanager
def _damage(path: Path, kind: str, error: Error, fix: str) -> Iterator[None]:
    try:
        yield
    except Lr2EvalError:
        raise
    except _DAMAGE as problem:
        raise error(f"{path}: not a readable {kind} file ({first_line(problem)}); {fix}") from problem


def _size(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it contains {name}, which is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text:.40} is too large")
    return value


def _check_depth(value: Any) -> None:
    level: Sequence[Any] = [value] if isinstance(value, dict | list) else []
    for _ in range(DEPTH):
        if not level:
            return
        inner = (each for outer in level for each in (outer.values() if isinstance(outer, dict) else outer))
        level = [each for each in inner if isinstance(each, dict | list)]
    raise RecursionError
