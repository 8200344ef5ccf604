"""``lr2eval.json`` beside a checkpoint's weights: which tasks the model was made for, and at which lengths.

A model that can only do some of a benchmark's tasks says so itself, so that a bare ``--tasks ruler`` runs those. What a
user asks for by name or by flag always wins. Exports keep the file.
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
    """Tasks by benchmark that a bare benchmark name stands for; others run when named."""
    lengths: tuple[int, ...] = ()
    """Tokens, where no lengths are asked for; those beyond the model's window are left out."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options of benchmarks, where they are not given."""

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card of a checkpoint folder, an empty one where there is none. Raises :class:`CheckpointError`."""
        path = folder / FILE
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, ValidationError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise CheckpointError(f"{path}: cannot be read ({reason}); correct or remove it") from error

    def applied(self, config: RunConfig, window: int) -> RunConfig:
        """``config`` with lengths and options filled in where they are not given."""
        asked = {name.partition(":")[0] for name in config.tasks}
        own = {name: value for name, value in self.options.items() if name in asked}
        options = {name: {**own.get(name, {}), **config.options.get(name, {})} for name in own | config.options}
        lengths = config.lengths or tuple(length for length in self.lengths if length <= window) or None
        return config.model_copy(update={"lengths": lengths, "options": options})

    def chosen(self, config: RunConfig, benchmark: str, tasks: list[str]) -> tuple[list[str], list[str]]:
        """Tasks to run and tasks left out, of a benchmark that may have been asked for by its bare name."""
        wanted: Mapping[str, tuple[str, ...]] = self.made_for
        if benchmark not in wanted or benchmark not in config.tasks:
            return tasks, []
        named = {name.partition(":")[2] for name in config.tasks if name.startswith(f"{benchmark}:")}
        kept = [task for task in tasks if task in wanted[benchmark] or task in named]
        return kept, [task for task in tasks if task not in kept]
