"""What the gate asks: flags and a committed ``gate.toml`` in one checked value. Loads without numpy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lr2eval.base.settings import read_toml
from lr2eval.errors import UsageError

DEFAULT_RETENTION = 0.985


class Limits(BaseModel):
    """What may be lost: points of score, a share of the original's score, or (both given) neither more than either."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    margin: float | None = Field(None, gt=0, lt=100, description="largest acceptable loss, points")
    min_retention: float | None = Field(None, gt=0, lt=1, description="least acceptable extended / original")


class GateConfig(Limits):
    """A gate, fully described; the field names are the keys of ``gate.toml``."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    tasks: tuple[str, ...] | None = None
    """What is checked: ``mmlu``, ``ruler:vt``, ``ruler@8k``; every benchmark of the original when not given."""
    baseline: Path | None = None
    """The original: a run folder or a baseline file, relative to the file that names it."""
    baseline_digest: str | None = Field(None, min_length=8)
    """The digest (or its first 8 digits and more) the original must have."""
    checks: dict[str, Limits] = Field(default_factory=dict)
    """Limits of single checks; a name that ``tasks`` lacks is checked as well."""
    weights: dict[str, dict[str, float]] = Field(default_factory=dict)
    """benchmark -> task -> weight in the benchmark's mean; tasks that are not named weigh 1."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _tasks(cls, value: Any) -> Any:
        parts = value.split(",") if isinstance(value, str) else value
        return None if parts is None else tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))

    @model_validator(mode="after")
    def _weights(self) -> GateConfig:
        for benchmark, tasks in self.weights.items():
            if any(not weight > 0 or weight == float("inf") for weight in tasks.values()):
                raise ValueError(f"weights.{benchmark}: every weight must be a positive number")
        return self

    def limits(self, name: str) -> Limits:
        """The limits of one check: its own, else the gate's, else a retention of 0.985."""
        own = self.checks.get(name, self)
        if own.margin is None and own.min_retention is None:
            own = self
        if own.margin is None and own.min_retention is None:
            return Limits(margin=None, min_retention=DEFAULT_RETENTION)
        return own


def load_gate(flags: Mapping[str, Any], file: Path | None) -> GateConfig:
    """``gate.toml`` overlaid with the flags that were given; :class:`UsageError` names the key that is wrong."""
    values = read_toml(file) if file else {}
    if file and isinstance(values.get("baseline"), str):
        values["baseline"] = file.parent / values["baseline"]
    given = {key: value for key, value in flags.items() if value is not None}
    if {"margin", "min_retention"} & given.keys():
        # A flag replaces the file's limits as a whole: half of each would be a limit nobody wrote down.
        values.pop("margin", None)
        values.pop("min_retention", None)
    try:
        return GateConfig.model_validate(values | given)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "gate"
        if problem["type"] == "extra_forbidden":
            raise UsageError(f"unknown key {where!r} in the gate's configuration; docs/ci.md lists the keys") from error
        message = problem["msg"].removeprefix("Value error, ")
        shown = "" if isinstance(problem.get("input"), GateConfig | dict) else f" {problem.get('input')!r}"
        raise UsageError(f"gate: {where}{shown}: {message}") from error
