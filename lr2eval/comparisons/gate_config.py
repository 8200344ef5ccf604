"""The configuration of the gate, from flags and ``gate.toml``. Loads without numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from lr2eval.base.config import Config, Names, Rare, Table, merged

DEFAULT_RETENTION = 0.985


class LossLimits(Table):
    """What may be lost: points of score, a share of the original's score, or (both given) neither more than either."""

    min_retention: float | None = Field(None, gt=0, lt=1)
    """The smallest extended / original score that passes. Default: 0.985, if there is no margin."""
    margin: float | None = Field(None, gt=0, lt=100)
    """The largest loss in points that passes."""


class GateConfig(LossLimits, Config):
    """A gate, fully described; the field names are the keys of ``gate.toml``."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    """The confidence of the verdict (one-sided)."""
    tasks: Names | None = None
    """What to check, separated by commas: mmlu, ruler:vt, ruler@8k. Default: every benchmark within the
    original's window. Only a name with a length reaches beyond it."""
    baseline: Rare[Path | None] = None
    """The original: a run folder or a baseline file, relative to the file that names it."""
    baseline_digest: Rare[str | None] = Field(None, min_length=8)
    """What the original must have: the digest of a run, the checksum of a baseline file, or 8 or more digits of it."""
    baseline_model: Rare[str | None] = Field(None, min_length=8)
    """The fingerprint that the original model must have, or its first 8 or more digits."""
    same_model: bool = False
    """Allow two runs of one model. This checks noise or a serving configuration, not an extension."""
    # Limits of single checks. A check that ``tasks`` does not name is made too.
    checks: dict[str, LossLimits] = Field(default_factory=dict)
    # benchmark -> task -> weight in the benchmark's mean; a task that is not named weighs 1.
    weights: dict[str, dict[str, float]] = Field(default_factory=dict)

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

    @classmethod
    def load(cls, given: Mapping[str, Any], file: Path | None = None, sets: Sequence[str] = ()) -> Self:
        """``gate.toml`` with flags over it; a path in the file is relative to the file.

        A limit that is given as a flag replaces both limits of the file: half of each would be a limit that nobody
        wrote down.
        """
        values = merged({}, file, sets)
        if file and isinstance(values.get("baseline"), str):
            values["baseline"] = file.parent / values["baseline"]
        flags = merged(given)
        if {"margin", "min_retention"} & flags.keys():
            values.pop("margin", None)
            values.pop("min_retention", None)
        return cls(**values | flags)
