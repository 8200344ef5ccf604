"""A search, fully described: what the command line asks for, checked before anything is loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lr2eval.base.units import parse_length
from lr2eval.workers.settings import Kind, Workers

if TYPE_CHECKING:  # the configuration must load without torch and numpy
    from lr2eval.method.rope.scaling import OriginalRope
    from lr2eval.method.search.space import Space

_NOT_DECIDING = {"model", "out", "data_dir", "offline", "wording", "workers", "executor", "gpus_per_worker", "ray"}
NEAR_THEORY = (6, 4, 2, 0)
"""Default splits, counted down from ``d_tcd``: the neighbourhood in which the method's authors looked."""


class SearchConfig(BaseModel):
    """Field names are the keys of ``--set``; numbers of a search as published unless given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    target_length: int
    """Tokens."""
    out: Path | None = None
    haystack: str = "essays"
    data_dir: Path | None = None
    offline: bool = False
    repeat: bool = False
    wording: Path | None = None
    samples: int = Field(10, ge=1)
    held_out: int = Field(10, ge=0)
    """Samples for the comparison with the rules, unseen by the search."""
    depths: Literal["start", "grid"] = "start"
    needles: int = Field(1, ge=1)
    distractors: int = Field(0, ge=0)
    objective: Literal["needle", "plain"] = "needle"
    splits: tuple[int, ...] | None = None
    seed: int = 0
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None
    workers: int = Field(1, ge=1)
    """Processes that each keep the model; 1: this process."""
    executor: Kind = "processes"
    gpus_per_worker: float | None = Field(None, ge=0)
    ray: dict[str, Any] = Field(default_factory=dict)
    """``address`` of a cluster."""
    attention_factor: float | None = Field(None, gt=0)
    from_original: bool = False
    random: bool = False
    race: bool = False
    patience: int | None = None

    # Without a flag: --set only.
    population: int = 64
    initial: int = 128
    iterations: int = 40
    parents: int = 32
    mutations: int = 16
    crossovers: int = 16
    rate: float = 0.3
    shifts: float = 0.0
    least_gain: float = 0.001
    grid: float = Field(0.01, gt=0)
    reach: float = Field(2.0, gt=1)
    """Largest factor, as a multiple of s."""
    powers: tuple[float, float] | None = None
    """Least and largest exponent of the left side; ``None`` keeps the paper's 1."""
    race_rungs: tuple[int, ...] = (2, 4)
    race_keep: float = 1 / 3

    @field_validator("model", mode="before")
    @classmethod
    def _name(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value  # outcomes give a checkpoint as a path

    @field_validator("target_length", mode="before")
    @classmethod
    def _length(cls, value: Any) -> Any:
        return parse_length(value) if isinstance(value, str | int) else value

    @field_validator("splits", mode="before")
    @classmethod
    def _splits(cls, value: Any) -> Any:
        if isinstance(value, int):
            return (value,)
        if not isinstance(value, str):
            return value
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            raise ValueError("give pairs separated by commas, for example 27,29,31") from None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        least = {"population": 1, "initial": 1, "parents": 1, "patience": 1, "iterations": 0, "mutations": 0}
        for name, bound in (least | {"crossovers": 0}).items():
            if (value := getattr(self, name)) is not None and value < bound:
                raise ValueError(f"{name} is {value}; give {bound} or more")
        shares = {"rate": 0 < self.rate <= 1, "shifts": 0 <= self.shifts <= 1, "race_keep": 0 < self.race_keep < 1}
        for name, possible in shares.items():
            if not possible:
                raise ValueError(f"{name} is {getattr(self, name):g}; give a share between 0 and 1")
        if self.parents > self.population:
            raise ValueError(f"{self.parents} parents cannot come from a population of {self.population}")
        if self.iterations and not self.children:
            raise ValueError(
                "mutations and crossovers are both 0, so an iteration has no candidates; raise one of them"
            )
        rungs = self.race_rungs
        if not rungs or rungs[0] < 1 or sorted(set(rungs)) != list(rungs):
            raise ValueError(f"race_rungs is {list(rungs)}; give ascending numbers of samples")
        if self.race and rungs[-1] >= self.samples:
            raise ValueError(
                f"racing makes its last choice after {rungs[-1]} samples, so it needs more than the {self.samples} of "
                "--samples"
            )
        return self

    @property
    def where(self) -> Workers:
        """The workers that are asked for."""
        return Workers(self.workers, self.executor, self.gpus_per_worker, self.ray)

    @property
    def children(self) -> int:
        """New candidates of an iteration."""
        return self.mutations + self.crossovers

    def survivors(self, candidates: int) -> int:
        """How many candidates stay after a rung of a race; at least one."""
        return max(1, math.ceil(candidates * self.race_keep))

    def round_cost(self, candidates: int) -> int:
        """Evaluations of a round of ``candidates``."""
        cost, done = 0, 0
        for rung in self.race_rungs if self.race else ():
            cost += candidates * (rung - done)
            candidates, done = self.survivors(candidates), rung
        return cost + candidates * (self.samples - done)

    def split_cost(self) -> int:
        """Evaluations of a split that does not stop early."""
        return self.round_cost(self.initial) + self.iterations * self.round_cost(self.children)

    def spaces(self, rope: OriginalRope) -> list[Space]:
        """One per split. Raises :class:`ValueError` for a target or split that does not fit the model."""
        from lr2eval.method.search.space import Space

        splits = self.splits or default_splits(rope)
        if len(set(splits)) != len(splits):
            raise ValueError(f"--splits {','.join(map(str, splits))}: a pair is given twice")
        return [
            Space(rope, self.target_length, split, self.grid, self.powers, self.attention_factor, self.reach)
            for split in splits
        ]

    def settings(self) -> dict[str, Any]:
        """The keys that decide the result; a folder belongs to exactly one such set."""
        dumped: dict[str, Any] = self.model_dump(mode="json", exclude=_NOT_DECIDING)
        return dumped


def default_splits(rope: OriginalRope) -> tuple[int, ...]:
    """Near ``d_tcd``, not below ``d10_tcd``, where the paper's range begins."""
    lowest, highest = max(1, rope.d10_tcd), min(rope.d_tcd, rope.pairs - 1)
    found = sorted({min(max(highest - back, lowest), highest) for back in NEAR_THEORY})
    return tuple(split for split in found if split >= 1)
