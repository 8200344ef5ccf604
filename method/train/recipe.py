"""A training recipe: every number of a mixed-window training (LongRoPE2, section 4), from a TOML file."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lr2eval.base.settings import put, refuse_unknown
from lr2eval.base.units import parse_length
from lr2eval.errors import UsageError
from lr2eval.model.shape import Shape


class Optimizer(BaseModel):
    """AdamW under a cosine that ends at zero. Where the paper is silent the numbers are those of its public code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learning_rate: float = Field(2e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(40, ge=0)
    clip: float = Field(1.0, gt=0)
    """Largest norm of the whole gradient."""


class Evaluation(BaseModel):
    """What is measured while training: every so many steps (0: only at the end)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(0, ge=0)
    needles: int = Field(0, ge=0)
    """Needle samples of the target length."""
    haystack: str = "essays"
    """Of the needle samples: as ``--haystack`` of a search."""
    repeat: bool = False
    """Repeat a haystack that is too short."""
    wording: Path | None = None
    """JSON file with the words around a needle."""


class Saving(BaseModel):
    """Checkpoints: every so many steps (0: only the last), and how many are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    every: int = Field(0, ge=0)
    keep: int = Field(2, ge=1)


class Hardware(BaseModel):
    """What the time estimate of a dry run stands on; nothing else reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: int = Field(1, ge=1)
    tflops: float | None = Field(None, gt=0)
    """Peak of one GPU in the training precision, dense, in 10^12 operations a second."""
    utilisation: float = Field(0.4, gt=0, le=1)
    """Share of the peak that is reached, counted without recomputation."""
    memory_gib: float | None = Field(None, gt=0)


class Recipe(BaseModel):
    """Field names are the keys of the TOML file and, with dots, of ``--set``. Lengths and budgets are tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    original_window: int = Field(ge=2)
    target_window: int = Field(ge=3)
    short_tokens: int = Field(ge=0)
    """Budget of packed short documents; the data decides what is really trained on."""
    long_tokens: int = Field(ge=0)
    global_batch: int = Field(ge=1)
    """Rows of ``target_window`` tokens in one step, over all ranks."""
    micro_batch: int = Field(1, ge=1)
    """Rows in one forward and backward; all of one kind."""
    epochs: int = Field(1, ge=1)
    steps: int | None = Field(None, ge=1)
    """Stop after so many steps; the default is every row of the data, ``epochs`` times."""
    long_only: bool = False
    """The paper's ablation: only long rows, and everything under the rescaled RoPE."""
    short_rope: Literal["original", "rescaled"] = "original"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the arithmetic; weights and optimizer are kept in float32. ``auto``: bfloat16 on a GPU, float32 on a CPU."""
    attention: str | None = None
    """An attention implementation of transformers; the model's own choice by default."""
    gradient_checkpointing: bool = False
    loss: Literal["chunked", "liger"] = "chunked"
    """``liger``: its fused kernel, on a GPU, for rows without weights."""
    loss_chunk: int = Field(1024, ge=1)
    """Places whose logits exist at a time."""
    context_parallel: int = Field(1, ge=1)
    """Ranks that share one long row."""
    seed: int = 0
    optimizer: Optimizer = Optimizer()
    evaluation: Evaluation = Evaluation()
    saving: Saving = Saving()
    data: dict[str, Any] = Field(default_factory=dict)
    """What rows are made of (`lr2eval data mix`, `lr2eval extend`); training itself takes rows as they are."""
    shape: Shape | None = None
    """Of the model the recipe is for; only estimates read it, and only where no model is given."""
    hardware: Hardware = Hardware()

    @field_validator("original_window", "target_window", mode="before")
    @classmethod
    def _length(cls, value: Any) -> Any:
        return parse_length(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.target_window <= self.original_window:
            raise ValueError(
                f"target_window {self.target_window:,} is not longer than original_window {self.original_window:,}; "
                "raise it"
            )
        if self.long_only and self.long_tokens == 0:
            raise ValueError("long_only with long_tokens = 0 trains on nothing; raise long_tokens")
        if self.context_parallel > 1 and self.micro_batch > 1:
            raise ValueError("context_parallel splits single rows; set micro_batch to 1")
        if "flash" in (self.attention or "") and self.micro_batch > 1 and not self.long_only:
            raise ValueError("flash attention separates documents only within one row; set micro_batch to 1")
        return self

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a full step, padding included."""
        return self.global_batch * self.target_window

    @property
    def rescaled_only(self) -> bool:
        """Whether short rows also use the rescaled RoPE."""
        return self.long_only or self.short_rope == "rescaled"

    def planned_rows(self) -> tuple[int, int]:
        """(short, long): whole rows that fit the budgets."""
        short = 0 if self.long_only else self.short_tokens // self.target_window
        return short, self.long_tokens // self.target_window

    def planned_steps(self, rows: int | None = None) -> int:
        """Steps for ``rows`` rows (default: those of the budgets); the last step may have fewer rows."""
        rows = sum(self.planned_rows()) if rows is None else rows
        steps = math.ceil(rows * self.epochs / self.global_batch)
        return steps if self.steps is None else min(steps, self.steps)

    def deciding(self) -> dict[str, Any]:
        """The keys that decide the trained weights. A folder belongs to one set of their values."""
        dumped: dict[str, Any] = self.model_dump(
            mode="json", exclude={"name", "data", "shape", "hardware", "saving", "short_tokens", "long_tokens"}
        )
        return dumped

    def learning_rate(self, step: int, steps: int) -> float:
        """Of step ``step`` (from 0) of ``steps``: linear warm-up to the full rate, then half a cosine down to zero.

        The rate reaches zero one step after the last, so no step is wasted.
        """
        warm = min(self.optimizer.warmup_steps, steps - 1)
        if step < warm:
            return self.optimizer.learning_rate * (step + 1) / (warm + 1)
        done = (step - warm) / max(1, steps - warm)
        return self.optimizer.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


TABLES: dict[str, type[BaseModel]] = {
    "": Recipe, "optimizer": Optimizer, "evaluation": Evaluation, "saving": Saving, "shape": Shape, "hardware": Hardware
}  # fmt: skip


def names() -> list[str]:
    """The recipes in the package."""
    folder = resources.files("lr2eval.method") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_recipe(source: str | Path | None, changes: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe from a TOML file or by the name of one in the package, with ``changes`` (dotted keys) over it.

    ``None``: only the changes. Raises :class:`UsageError` naming the key that is wrong.
    """
    values = {} if source is None else _values(source)
    for key, value in (changes or {}).items():
        put(values, key, value)
    try:
        for group, table in TABLES.items():
            if isinstance(found := values.get(group) if group else values, Mapping):
                refuse_unknown(found, table.model_fields, group=group)
        return Recipe.model_validate(values)
    except (UsageError, ValidationError) as error:
        problem = _problem(error) if isinstance(error, ValidationError) else str(error)
        raise UsageError(f"--recipe {source}: {problem}" if source else problem) from error


def _values(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if path.suffix != ".toml" and str(source) in names():
        text = (resources.files("lr2eval.method") / "recipes" / f"{source}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "is not a text file"
            raise UsageError(f"--recipe {source}: {reason}; give a TOML file or one of {', '.join(names())}") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"--recipe {source}: not valid TOML ({error}); correct it") from error


def _problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"]) or "recipe"
    if problem["type"] == "missing":
        return f"{key} is missing"
    return f"{key}: {problem['msg'].removeprefix('Value error, ')}"
