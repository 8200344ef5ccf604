"""``lr2eval.json`` beside a checkpoint's weights: the tasks and lengths that the model was made for.

Some models can do only some tasks of a benchmark. With this file, a bare ``--tasks ruler`` runs only those. Tasks that
the user names, and flags, always win. Exports keep the file.

The file may come from anybody. So it chooses from a closed list, and it never names a path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lr2eval.base.reading import read_json
from lr2eval.base.units import format_length
from lr2eval.errors import CheckpointError
from lr2eval.runs.config import RunConfig

FILE = "lr2eval.json"
LARGEST = 1 << 16
"""Bytes of the file."""
_LONGEST = 1 << 24
_HAYSTACKS = ("essays", "python-docs", "demo-filler")
OPTIONS: Mapping[str, Sequence[Any]] = {
    "ruler.haystack": _HAYSTACKS,
    "ruler.repeat": (True, False),
    "niah.haystack": _HAYSTACKS,
    "niah.repeat": (True, False),
    "niah.wording": ("ruler",),
    "niah.depths": range(2, 102),
    "niah.samples_per_cell": range(1, 1001),
}
"""Every option that the file may set, with its values."""
_WANTED = {
    "made_for": 'must name the tasks of benchmarks, as {"ruler": ["vt", "cwe"]}',
    "lengths": f"must be at most 64 whole numbers from 1 to {_LONGEST:,}",
    "options": 'must name the options of benchmarks, as {"ruler": {"haystack": "essays"}}',
}
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$", strict=True)]
_Length = Annotated[int, Field(ge=1, le=_LONGEST, strict=True)]


class Card(BaseModel):
    """Field names are the keys of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    made_for: dict[_Name, tuple[_Name, ...]] = Field(default_factory=dict)
    """By benchmark, the tasks that its bare name runs; other tasks run if they are named."""
    lengths: tuple[_Length, ...] = Field((), max_length=64)
    """Default lengths in tokens; lengths beyond the model's window are omitted."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Default options of benchmarks: those of :data:`OPTIONS`."""

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card of a checkpoint folder; an empty card if there is no file.

        Raises :class:`CheckpointError` that names the key if the file asks for anything outside the closed list.
        """
        path = folder / FILE
        if not path.exists():
            return cls()
        try:
            card = cls.model_validate(read_json(path, error=CheckpointError, fix="fix or delete it", limit=LARGEST))
        except ValidationError as error:
            key = _shown(error.errors()[0]["loc"][:1])
            wanted = _WANTED.get(key, f"the file may hold {', '.join(_WANTED)}")
            raise CheckpointError(f"{path}: cannot be read ({key}: {wanted}); fix or delete it") from error
        for problem in card._not_allowed():
            raise CheckpointError(f"{path}: {problem}; fix or delete the file, or set the option with --set")
        return card

    def _not_allowed(self) -> Iterator[str]:
        for benchmark, options in self.options.items():
            for name, value in options.items():
                key, allowed = _shown(("options", benchmark, name)), OPTIONS.get(f"{benchmark}.{name}")
                if allowed is None:
                    yield f"{key}: a checkpoint may set only {', '.join(OPTIONS)}"
                elif not any(type(value) is type(each) and value == each for each in allowed):
                    most = ", ".join(map(json.dumps, allowed)) if len(allowed) < 9 else f"{allowed[0]} to {allowed[-1]}"
                    yield f"{key}: a checkpoint may set only {most}"

    def applied(self, config: RunConfig, window: int) -> RunConfig:
        """``config`` with the card's lengths and options as defaults."""
        asked = {name.partition(":")[0] for name in config.tasks}
        own = {name: value for name, value in self.options.items() if name in asked}
        options = {name: {**own.get(name, {}), **config.options.get(name, {})} for name in own | config.options}
        lengths = config.lengths or tuple(length for length in self.lengths if length <= window) or None
        return config.model_copy(update={"lengths": lengths, "options": options})

    def choices(self, config: RunConfig, window: int) -> str:
        """What :meth:`applied` and :meth:`chosen` take from the card, on one line; empty if that is nothing."""
        applied = self.applied(config, window)
        tasks = [f"{name}:{task}" for name in self.made_for if name in config.tasks for task in self.made_for[name]]
        lengths = [] if config.lengths else [format_length(length) for length in applied.lengths or ()]
        options = [
            f"{name}.{key}={value if isinstance(value, str) else json.dumps(value)}"
            for name, values in applied.options.items()
            for key, value in values.items()
            if key not in config.options.get(name, {})
        ]
        parts = [("tasks ", tasks), ("lengths ", lengths), ("", options)]
        return "; ".join(f"{what}{', '.join(values)}" for what, values in parts if values)

    def chosen(self, config: RunConfig, benchmark: str, tasks: list[str]) -> tuple[list[str], list[str]]:
        """(tasks to run, tasks omitted) of a benchmark that the user may have named without tasks."""
        wanted: Mapping[str, tuple[str, ...]] = self.made_for
        if benchmark not in wanted or benchmark not in config.tasks:
            return tasks, []
        named = {name.partition(":")[2] for name in config.tasks if name.startswith(f"{benchmark}:")}
        kept = [task for task in tasks if task in wanted[benchmark] or task in named]
        return kept, [task for task in tasks if task not in kept]


def _shown(keys: Sequence[Any]) -> str:
    """A key of the file. Its names come from anybody, so they are cut and their odd characters escaped."""
    return ".".join(json.dumps(str(key))[1:-1][:60] for key in keys) or "the file"
