"""A search, fully described: what the command line asks for, checked before anything is loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from lr2eval.base.config import Config, Device, Dtype, Kind, Length, ModelName, Rare
from lr2eval.workers.settings import ExecutorKind, Workers

if TYPE_CHECKING:  # the configuration must load without torch and numpy
    from lr2eval.method.rope.scaling import OriginalRope
    from lr2eval.method.search.space import Space

_NOT_DECIDING = {"model", "out", "data_dir", "offline", "wording", "workers", "executor", "gpus_per_worker", "ray"}
_ALONG = ("starts", "check_every", "steps", "batch", "learning_rate", "turns")
"""Settings of a gradient search."""
_EVOLVING = (
    "splits", "race", "iterations", "patience", "least_gain", "population", "initial", "parents", "mutations",
    "crossovers", "rate", "grid", "reach", "powers", "temperatures", "race_rungs", "race_keep",
)  # fmt: skip
"""Settings of the other searches."""
_LATER = ("strategy", "temperatures", "screen")
"""Settings that folders of earlier versions do not have."""
NEAR_THEORY = (6, 4, 2, 0)
"""Default splits, counted down from ``d_tcd``: the neighbourhood in which the method's authors looked."""


def _splits(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if not isinstance(value, str):
        return value
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise ValueError("give pairs separated by commas, for example 27,29,31") from None


class SearchConfig(Config):
    """Field names are the keys of ``--set``; the defaults are the numbers of the paper."""

    model: ModelName
    """The original model: a checkpoint folder, or a name from `lr2eval models list`."""
    target_length: Length
    """The window to reach, in tokens: 128k."""
    out: Path | None = None
    """The folder of the search. Default: runs/search-MODEL-CONFIG."""
    haystack: str = "essays"
    """The text around the needles: essays, python-docs, or a text file or folder of books."""
    data_dir: Path | None = None
    """Read the essays from this folder instead of the hub."""
    offline: bool = False
    """Never use the network."""
    repeat: bool = False
    """Repeat the haystack if it is shorter than the target length."""
    wording: Path | None = None
    """A JSON file with the words around a needle. Default: the built-in words."""
    samples: int = Field(10, ge=1)
    """The number of samples that score a candidate. Default with gradient: 24; they choose the start and the step."""
    held_out: int = Field(10, ge=0)
    """The number of unseen samples on which the factors are compared with the rules."""
    depths: Literal["start", "grid"] = "start"
    """Where the needles are: at the start, as in the paper, or spread evenly over the length (grid)."""
    needles: Rare[int] = Field(1, ge=1)
    """The number of needles that each sample asks for."""
    distractors: Rare[int] = Field(0, ge=0)
    """The number of further needles in a sample that it does not ask for."""
    splits: Annotated[tuple[int, ...] | None, BeforeValidator(_splits), Kind("pairs")] = None
    """The RoPE pairs to split the factors at: 27,29,31. Default: d_tcd and 2, 4 and 6 below it."""
    seed: int = 0
    """The seed of the samples and of the search."""
    dtype: Dtype = "auto"
    """The number type of weights and arithmetic. auto: the model's own, or float32 on a CPU that is faster with it."""
    device: Device | None = None
    """Where the model runs: cpu, cuda, cuda:0 or mps. Default: the best available."""
    workers: int = Field(1, ge=1)
    """The number of workers; each loads its own copy of the model."""
    executor: ExecutorKind = "processes"
    """Where workers run: as processes on this machine, or on a Ray cluster."""
    gpus_per_worker: float | None = Field(None, ge=0)
    """The number of GPUs to reserve for each Ray worker. Default: 1 with --device cuda, else 0."""
    ray: Rare[dict[str, Any]] = Field(default_factory=dict)
    """The options of Ray: ray.address names the cluster."""
    attention_factor: Annotated[float | str | None, Kind("number|su|yarn")] = None
    """The attention temperature. Default: su, which is LongRoPE's; the gradient search learns its own."""
    from_original: bool = False
    """Start from the window that the model had before its own rescaling."""
    strategy: Literal["evolution", "gradient", "random"] = "evolution"
    """How to search: the paper's evolution, along the gradient of the needle loss, or random candidates."""
    race: bool = False
    """Drop a candidate that does badly on its first samples."""
    iterations: int = Field(40, ge=0)
    """The number of iterations at each split."""
    patience: Rare[int | None] = Field(None, ge=1)
    """End a split after this many iterations without a gain. Default: never."""
    least_gain: Rare[float] = 0.001
    """The smallest fall of the best score that counts as a gain, as a share of it."""
    population: Rare[int] = Field(64, ge=1)
    """The number of best candidates that are kept."""
    initial: Rare[int] = Field(128, ge=1)
    """The number of candidates in the first round."""
    parents: Rare[int] = Field(32, ge=1)
    """The number of best candidates that new ones are made from."""
    mutations: Rare[int] = Field(16, ge=0)
    """The number of mutated candidates per iteration."""
    crossovers: Rare[int] = Field(16, ge=0)
    """The number of crossed candidates per iteration."""
    rate: Rare[float] = Field(0.3, gt=0, le=1)
    """The probability that a mutation or a crossover changes a factor."""
    grid: Rare[float] = Field(0.01, gt=0)
    """The step between two values of a factor."""
    reach: Rare[float] = Field(2.0, gt=1)
    """The largest factor, as a multiple of s."""
    powers: Rare[tuple[float, float] | None] = None
    """The smallest and largest exponent of the factors below the split. Default: 1, as in the paper."""
    temperatures: Rare[tuple[float, float] | None] = None
    """The smallest and largest attention temperature that the evolution tries. Default: it stays as it is."""
    steps: Rare[int] = Field(40, ge=1)
    """The number of gradient steps from a start."""
    batch: Rare[int] = Field(4, ge=1)
    """The number of new samples in a gradient step."""
    learning_rate: Rare[float] = Field(0.16, gt=0)
    """The largest change of the logarithm of a factor in a step; over the steps it falls to 0 along a cosine."""
    starts: Rare[int] = Field(2, ge=1)
    """The number of rules from which a gradient search starts."""
    screen: Rare[int] = Field(2, ge=1)
    """The number of samples on which rules are tried at several temperatures; thrice as many for the best quarter."""
    check_every: Rare[int] = Field(10, ge=1)
    """The number of gradient steps between two checks on the samples of the search."""
    turns: Rare[float] = Field(1.5, gt=0)
    """Pairs that turn more often than this in the original window keep the factors of the start."""
    race_rungs: Rare[tuple[int, ...]] = (2, 4)
    """The numbers of samples after which --race drops candidates."""
    race_keep: Rare[float] = Field(1 / 3, gt=0, lt=1)
    """The share of candidates that --race keeps each time."""

    @classmethod
    def arrange(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A gradient search has samples enough to choose a step by; they cost little beside those of its steps."""
        return {"samples": 24, **values} if values.get("strategy") == "gradient" else values

    @model_validator(mode="after")
    def _possible(self) -> Self:
        idle = [key for key in (_EVOLVING if self.strategy == "gradient" else _ALONG) if key in self.model_fields_set]
        if idle:
            raise ValueError(
                f"--strategy {self.strategy} does not use {', '.join(idle)}; omit this or change --strategy"
            )
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

    @property
    def fresh(self) -> int:
        """Samples that the steps of a gradient search use."""
        return self.steps * self.batch if self.strategy == "gradient" else 0

    def split_cost(self) -> int:
        """Evaluations of a split that does not stop early."""
        return self.round_cost(self.initial) + self.iterations * self.round_cost(self.children)

    def spaces(self, rope: OriginalRope) -> list[Space]:
        """One per split. Raises :class:`ValueError` for a target or split that does not fit the model."""
        from lr2eval.method.rope.rules import attention_factor
        from lr2eval.method.search.space import Space

        splits = self.splits or default_splits(rope)
        if len(set(splits)) != len(splits):
            raise ValueError(f"--splits {','.join(map(str, splits))}: a pair is given twice")
        heat = attention_factor(self.attention_factor, rope, self.target_length)
        given = self.grid, self.powers, heat, self.reach, self.temperatures
        return [Space(rope, self.target_length, split, *given) for split in splits]

    def settings(self) -> dict[str, Any]:
        """The keys that decide the result; a folder belongs to exactly one such set."""
        kept = self.model_dump(mode="json", exclude=_NOT_DECIDING)
        later = [key for key in _LATER if getattr(self, key) == type(self).model_fields[key].default]
        for key in [*later, *(_ALONG if self.strategy != "gradient" else ())]:
            kept.pop(key, None)
        earlier = {"random": self.strategy == "random", "shifts": 0.0, "objective": "needle"}
        return kept | earlier  # as in folders of earlier versions


def default_splits(rope: OriginalRope) -> tuple[int, ...]:
    """Near ``d_tcd``, not below ``d10_tcd``, where the paper's range begins."""
    lowest, highest = max(1, rope.d10_tcd), min(rope.d_tcd, rope.pairs - 1)
    found = sorted({min(max(highest - back, lowest), highest) for back in NEAR_THEORY})
    return tuple(split for split in found if split >= 1)
