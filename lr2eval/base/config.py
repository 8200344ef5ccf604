"""Configuration models. Each option is declared once, as a field: its type, default and help (the text below it).

The flags of a command, ``--set`` keys, TOML files, ``--help-all`` and the checks of the Python API all come from there.
Neither torch nor numpy is imported.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from lr2eval.base.reading import plain
from lr2eval.base.settings import put, read_sets, read_toml, refuse_unknown, unusable
from lr2eval.base.units import format_length, parse_length, parse_lengths
from lr2eval.errors import UsageError


@dataclass(frozen=True)
class Kind:
    """How help names the type of an option, where the Python type says too little."""

    name: str


class _Rare:
    pass


T = TypeVar("T")
Rare = Annotated[T, _Rare()]
"""An option without a flag: ``--set`` and ``--config`` only."""


def _length(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be a length; write 4096 or 4k")
    return parse_length(value)


def _lengths(value: Any) -> tuple[int, ...]:
    found = parse_lengths(value) if isinstance(value, str) else map(_length, _list(value))
    return tuple(sorted(set(found)))


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else _list(value)
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a name or a list of names")
    names = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not names:
        raise ValueError("give at least one name")
    return names


def _device(value: str) -> str:
    if not re.fullmatch(r"(cpu|cuda|mps|xpu|npu|hpu)(:\d+)?", value):
        raise ValueError("is not a device; write cpu, cuda, cuda:0 or mps")
    return value


ModelName = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
"""A checkpoint folder or the name of a known model. Outcomes give a checkpoint as a path."""
Length = Annotated[int, BeforeValidator(_length), Kind("length")]
"""Tokens, written 4096 or 4k."""
Lengths = Annotated[tuple[int, ...], BeforeValidator(_lengths), Kind("lengths")]
Names = Annotated[tuple[str, ...], BeforeValidator(_names), Kind("names")]
Device = Annotated[str, AfterValidator(_device), Kind("device")]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Table(BaseModel):
    """A group of options inside a configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Config(Table):
    """The options of one command or file. Wrong values raise :class:`UsageError` that names the option."""

    HAS_FLAGS: ClassVar[bool] = True
    """Whether options are flags, or keys of a file only."""
    PREFIX: ClassVar[str] = ""
    """Table that a file keeps these options in; messages name it."""
    RENAMED: ClassVar[Mapping[str, str]] = {}
    """Old keys and their new names."""

    def __init__(self, **values: Any) -> None:
        kind = type(self)
        values = kind.arrange(values)
        refuse_unknown(values, kind.model_fields, group=kind.PREFIX, renamed=kind.RENAMED)
        self._check(values)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UsageError(_problem(kind, error)) from error
        self._check(vars(self))  # text may have become a number

    @classmethod
    def _check(cls, values: Mapping[str, Any]) -> None:
        if found := unusable(values):
            raise UsageError(f"{_name(cls, found[0])}: {found[1]}")

    @classmethod
    def arrange(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The values as fields; a configuration with shorter ways to write them overrides this."""
        return values

    @classmethod
    def load(cls, given: Mapping[str, Any], file: Path | None = None, sets: Sequence[str] = ()) -> Self:
        """Merge the TOML ``file``, ``--set`` over it and ``given`` over both (``None`` = not given).

        Raises :class:`UsageError` naming the option that is wrong.
        """
        return cls(**merged(given, file, sets))


def merged(given: Mapping[str, Any], file: Path | None = None, sets: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a TOML ``file``, ``--set`` and ``given``; the later wins. A ``given`` key may be ``table.key``."""
    values = read_toml(file) if file else {}
    for key, value in read_sets(sets):
        put(values, key, value)
    for key, value in given.items():
        if value is not None:
            if isinstance(values.get(key), dict) and not isinstance(value, dict):
                raise UsageError(f"{key} is not a group of options; omit {key}.{next(iter(values[key]), '')}")
            put(values, key, value)
    return values


def _problem(model: type[Config], error: ValidationError) -> str:
    """One line that names the option and says what is wrong with it."""
    problem = error.errors()[0]
    location = list(problem["loc"])
    table: type[BaseModel] = model
    messages = [problem["msg"]]
    for place, step in enumerate(location[:-1]):
        if isinstance(step, str) and step in table.model_fields:
            annotation = table.model_fields[step].annotation
            if len(list(_parts(annotation))) > 1:  # each alternative has its own error
                del location[place + 1 :]
                messages = [each["msg"] for each in error.errors() if list(each["loc"][: place + 1]) == location]
                break
            table = _table(annotation) or table
    message = " or ".join(dict.fromkeys(map(plain, messages))).replace(" or must be", " or")
    name = _name(model, location)
    if problem["type"] == "extra_forbidden":
        group, _, key = name.rpartition(".")
        refuse_unknown([key], table.model_fields, group=group)
    if problem["type"] == "missing":
        return f"{name} is missing"
    given = problem.get("input")
    if not name:
        return message
    if not isinstance(given, str | int | float) or len(str(given)) > 100 or f"'{given}'" in message:
        return f"{name}: {message}"
    return f"{name} {given!r}: {message}"


def _name(model: type[Config], location: Sequence[str | int]) -> str:
    """How messages call an option: by its flag if it has one, else by its key."""
    name = ".".join(map(str, ([model.PREFIX] if model.PREFIX else []) + list(location)))
    flag = model.HAS_FLAGS and len(location) == 1 and not _is_rare(model.model_fields[name])
    return _flag(name) if flag else name


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _parts(annotation: Any) -> Iterator[Any]:
    """The alternatives of a union, ``None`` left out."""
    if get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            if part is not type(None):
                yield from _parts(part)
    else:
        yield annotation


def _table(annotation: Any) -> type[BaseModel] | None:
    """The model of a table, of an optional table or of a list of tables."""
    for part in _parts(annotation):
        inner = get_args(part)[0] if get_origin(part) is tuple else part
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            return inner
    return None


def _is_rare(field: FieldInfo) -> bool:
    return any(isinstance(each, _Rare) for each in field.metadata)


@dataclass(frozen=True)
class Option:
    """One option as help shows it."""

    key: str
    """With its table: ``optimizer.clip``."""
    type: type
    """What a flag parses: bool, int, float, Path or str."""
    kind: str
    default: str
    """``""`` where the option must be given or is off."""
    help: str
    rare: bool

    @property
    def flag(self) -> str:
        return _flag(self.key)


def options(model: type[BaseModel], prefix: str = "") -> list[Option]:
    """All options of a model in their order, those of its tables included."""
    found = []
    for key, field in model.model_fields.items():
        inner = _table(field.annotation)
        if inner is not None and _kind(field)[1] == "text":
            found += options(inner, f"{prefix}{key}.")
        elif not (get_origin(field.annotation) is dict and field.description is None):
            found.append(_option(prefix + key, field))
    return found


def _option(key: str, field: FieldInfo) -> Option:
    text = " ".join((field.description or "").split())
    said, found, default = text.partition(" Default: ")
    value = field.get_default(call_default_factory=True)
    if found:
        default = default.rstrip(".")
    elif not field.is_required() and value is not False and value not in (None, {}, ()):
        default = _shown(value, field)
    base, kind = _kind(field)
    return Option(key, base, kind, default, said, _is_rare(field))


def _shown(value: Any, field: FieldInfo) -> str:
    if _kind(field)[1].startswith("length"):
        return ",".join(map(format_length, value)) if isinstance(value, tuple) else format_length(value)
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _kind(field: FieldInfo) -> tuple[type, str]:
    """What a flag parses, and how help names it."""
    parts = list(_parts(field.annotation))
    named = [each for part in parts for each in getattr(part, "__metadata__", ())] + list(field.metadata)
    for each in named:
        if isinstance(each, Kind):
            return str, each.name
    kinds = []
    for part in parts:
        bare = get_args(part)[0] if get_origin(part) is Annotated else part
        choices = get_origin(bare) is Literal
        kinds.append("|".join(get_args(bare)) if choices else _NAMES.get(get_origin(bare) or bare, "text"))
    base = parts[0] if len(parts) == 1 and parts[0] in (bool, int, float, Path) else str
    return base, "|".join(kinds)


_NAMES = {bool: "true|false", int: "integer", float: "number", Path: "path", dict: "table", tuple: "list"}
