"""A search, fully described: what the command line asks for, checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lr2eval.base.units import parse_length
from lr2eval.workers.settings import Kind, Workers

if TYPE_CHECKING:  # the configuration must load without torch and numpy
    from lr2eval.method.rope.scaling import OriginalRope
    from lr2eval.method.search.needles import NeedleSettings
    from lr2eval.method.search.run import Plan
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
            raise ValueError("write pairs separated by commas: 27,29,31") from None

    def needle_settings(self) -> NeedleSettings:
        """What decides the samples. Raises :class:`ValueError` and, for the wording's file, :class:`UsageError`."""
        from lr2eval.base.wording import Wording
        from lr2eval.method.search.needles import NeedleSettings

        return NeedleSettings(
            length=self.target_length,
            depths=self.depths,
            needles=self.needles,
            distractors=self.distractors,
            repeat=self.repeat,
            seed=self.seed,
            wording=Wording() if self.wording is None else Wording.read(self.wording),
        )

    @property
    def where(self) -> Workers:
        """The workers that are asked for."""
        return Workers(self.workers, self.executor, self.gpus_per_worker, self.ray)

    def plan(self) -> Plan:
        """What decides the candidates, beside the spaces. Raises :class:`ValueError`."""
        from lr2eval.method.search.evolution import SearchSettings
        from lr2eval.method.search.run import Plan, Racing

        settings = SearchSettings(
            population=self.population,
            initial=self.initial,
            iterations=self.iterations,
            parents=self.parents,
            mutations=self.mutations,
            crossovers=self.crossovers,
            rate=self.rate,
            shifts=self.shifts,
            patience=self.patience,
            least_gain=self.least_gain,
            seed=self.seed,
        )
        racing = Racing(self.race_rungs, self.race_keep) if self.race else None
        return Plan(settings, self.samples, racing, self.random)

    def spaces(self, rope: OriginalRope) -> list[Space]:
        """One per split. Raises :class:`ValueError` for a target or split that does not fit the model."""
        from lr2eval.method.search.space import Space

        splits = self.splits or default_splits(rope)
        if len(set(splits)) != len(splits):
            raise ValueError(f"splits {', '.join(map(str, splits))} name one twice")
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
