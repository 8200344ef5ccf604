"""The configuration of the gate, from flags and ``gate.toml``. Loads without numpy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lr2eval.base.settings import read_toml, refuse_unknown
from lr2eval.errors import UsageError

DEFAULT_RETENTION = 0.985


class LossLimits(BaseModel):
    """The acceptable loss, in points or as a share of the original's score. If both are given, both must hold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    margin: float | None = Field(None, gt=0, lt=100, description="largest acceptable loss in points")
    min_retention: float | None = Field(None, gt=0, lt=1, description="smallest acceptable extended / original")


class GateConfig(LossLimits):
    """The whole configuration; the field names are the keys of ``gate.toml``."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    tasks: tuple[str, ...] | None = None
    """What is checked: ``mmlu``, ``ruler:vt``, ``ruler@8k``. Default: each benchmark that both runs have."""
    baseline: Path | None = None
    """The original: a run folder or a baseline file. A relative path starts at the folder of ``gate.toml``."""
    baseline_digest: str | None = Field(None, min_length=8)
    """The digest that the original must have, or at least its first 8 digits."""
    checks: dict[str, LossLimits] = Field(default_factory=dict)
    """Limits of single checks. A name that is not in ``tasks`` is checked too."""
    weights: dict[str, dict[str, float]] = Field(default_factory=dict)
    """benchmark -> task -> weight in the benchmark's mean. The default weight is 1."""

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

    def limits(self, name: str) -> LossLimits:
        """The limits of a check: its own, else those of the gate, else a retention of 0.985."""
        for each in (self.checks.get(name), self):
            if each and (each.margin is not None or each.min_retention is not None):
                return each
        return LossLimits(margin=None, min_retention=DEFAULT_RETENTION)


def load_gate(flags: Mapping[str, Any], file: Path | None) -> GateConfig:
    """``gate.toml`` with the given flags over it. Raises :class:`UsageError` naming the key that is wrong."""
    values = read_toml(file) if file else {}
    if file and isinstance(values.get("baseline"), str):
        values["baseline"] = file.parent / values["baseline"]
    given = {key: value for key, value in flags.items() if value is not None}
    if {"margin", "min_retention"} & given.keys():
        # A flag replaces both limits of the file: a mixture would be limits that nobody wrote.
        values.pop("margin", None)
        values.pop("min_retention", None)
    try:
        return GateConfig.model_validate(values | given)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            table, _, key = where.rpartition(".")
            refuse_unknown([key], (LossLimits if table else GateConfig).model_fields, group=table)
        message = problem["msg"].removeprefix("Value error, ")
        shown = "" if isinstance(problem.get("input"), GateConfig | dict) else f" {problem.get('input')!r}"
        raise UsageError(f"gate: {where}{shown}: {message}" if where else f"gate: {message}") from error
