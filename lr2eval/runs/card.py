"""``lr2eval.json`` beside a checkpoint's weights: the tasks and lengths that the model was made for.

Some models can do only some tasks of a benchmark. With this file, a bare ``--tasks ruler`` runs only those. Tasks that
the user names, and flags, always win. Exports keep the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lr2eval.errors import CheckpointError

if TYPE_CHECKING:
    from lr2eval.runs.config import RunConfig


FILE = "lr2eval.json"


class Card(BaseModel):
    """Field names are the keys of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    made_for: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """By benchmark, the tasks that its bare name runs; other tasks run if they are named."""
    lengths: tuple[int, ...] = ()
    """Default lengths in tokens; lengths beyond the model's window are omitted."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Default options of benchmarks."""

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card of a checkpoint folder; an empty card if there is no file. Raises :class:`CheckpointError`."""
        path = folder / FILE
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise CheckpointError(f"{path}: cannot be read ({reason}); fix or delete it") from error

    def applied(self, config: RunConfig, window: int) -> RunConfig:
        """``config`` with the card's lengths and options as defaults."""
        asked = {name.partition(":")[0] for name in config.tasks}
        own = {name: value for name, value in self.options.items() if name in asked}
        options = {name: {**own.get(name, {}), **config.options.get(name, {})} for name in own | config.options}
        lengths = config.lengths or tuple(length for length in self.lengths if length <= window) or None
        return config.model_copy(update={"lengths": lengths, "options": options})

    def chosen(self, config: RunConfig, benchmark: str, tasks: list[str]) -> tuple[list[str], list[str]]:
        """(tasks to run, tasks omitted) of a benchmark that the user may have named without tasks."""
        wanted: Mapping[str, tuple[str, ...]] = self.made_for
        if benchmark not in wanted or benchmark not in config.tasks:
            return tasks, []
        named = {name.partition(":")[2] for name in config.tasks if name.startswith(f"{benchmark}:")}
        kept = [task for task in tasks if task in wanted[benchmark] or task in named]
        return kept, [task for task in tasks if task not in kept]
