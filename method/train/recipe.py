"""A training recipe: every number of a mixed-window training (LongRoPE2, section 4), from a TOML file."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lr2eval.base.config import Config, Length, Table
from lr2eval.base.reading import parse_toml, read_bytes
from lr2eval.base.settings import put
from lr2eval.errors import UsageError
from lr2eval.model.shape import Shape

DOCUMENTS = "documents"
"""Our attention over packed rows, document by document (:mod:`lr2eval.method.train.attention`)."""
FLASH, FLEX = "flash_attention_2", "flex_attention"
SQUARE = ("sdpa", "eager")
"""These take a mask of all pairs of tokens for a packed row."""


class Optimizer(Table):
    """AdamW with a cosine schedule to zero. Where the paper is silent, the numbers are those of its public code."""

    learning_rate: float = Field(2e-5, gt=0)
    """The highest learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """The decay rates of the two moments."""
    epsilon: float = Field(1e-8, gt=0)
    """The term that keeps the denominator above zero."""
    weight_decay: float = Field(0.0, ge=0)
    """The weight decay."""
    warmup_steps: int = Field(40, ge=0)
    """The number of steps over which the learning rate rises."""
    clip: float = Field(1.0, gt=0)
    """The largest norm of the whole gradient."""


class Evaluation(Table):
    """What is measured while training."""

    every: int = Field(0, ge=0)
    """Measure every N steps; 0 measures only at the end."""
    needles: int = Field(0, ge=0)
    """The number of needle samples of the target length."""
    haystack: str = "essays"
    """The text around the needles, as for `lr2eval search`."""
    repeat: bool = False
    """Repeat the haystack if it is shorter than the target length."""
    wording: Path | None = None
    """A JSON file with the words around a needle. Default: the built-in words."""


class Saving(Table):
    """Checkpoints."""

    every: int = Field(0, ge=0)
    """Save every N steps; 0 saves only the last."""
    keep: int = Field(2, ge=1)
    """The number of checkpoints to keep."""


class Hardware(Table):
    """What the time estimate of a dry run is based on; nothing else reads it."""

    gpus: int = Field(1, ge=1)
    """The number of GPUs."""
    tflops: float | None = Field(None, gt=0)
    """The peak of one GPU in the training precision, dense, in 10^12 operations per second."""
    utilisation: float = Field(0.4, gt=0, le=1)
    """The share of the peak that training reaches, without recomputation."""
    memory_gib: float | None = Field(None, gt=0)
    """The memory of one GPU in GiB."""


class Recipe(Config):
    """Field names are the keys of the TOML file and, with dots, of ``--set``. Lengths and budgets are tokens."""

    HAS_FLAGS = False

    name: str
    """The name of the recipe."""
    original_window: Annotated[Length, Field(ge=2)]
    """The original window Lt."""
    target_window: Annotated[Length, Field(ge=3)]
    """The target window L; each row has this many tokens."""
    short_tokens: int = Field(ge=0)
    """The planned tokens in packed short documents, for estimates; the data decides what is trained on."""
    long_tokens: int = Field(ge=0)
    """The planned tokens in long documents, for estimates."""
    global_batch: int = Field(ge=1)
    """The number of rows per step, over all processes."""
    micro_batch: int = Field(1, ge=1)
    """The number of rows in one forward and backward pass; all are short or all are long."""
    epochs: int = Field(1, ge=1)
    """The number of passes over the data."""
    steps: int | None = Field(None, ge=1)
    """Stop after this many steps. Default: every row of the data, once per epoch."""
    long_only: bool = False
    """Train on long rows only, all with the long RoPE factors: the paper's ablation."""
    short_rope: Literal["original", "rescaled"] = "original"
    """The RoPE of short rows."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """The number type of the arithmetic; weights stay in float32. auto: bfloat16 on a GPU, float32 on a CPU."""
    attention: str | None = None
    """documents (packed rows document by document), or an attention of transformers. Default: flash or flex attention
    on a GPU, documents on a CPU."""
    gradient_checkpointing: bool = False
    """Recompute activations instead of keeping them. It saves memory and takes longer."""
    loss: Literal["chunked", "liger"] = "chunked"
    """How the loss is computed; liger is a fused GPU kernel for rows without weights."""
    loss_chunk: int = Field(1024, ge=1)
    """The number of positions whose logits are in memory at a time."""
    context_parallel: int = Field(1, ge=1)
    """The number of processes that share one long row."""
    seed: int = 0
    """The seed of the order of rows."""
    optimizer: Optimizer = Optimizer()
    evaluation: Evaluation = Evaluation()
    saving: Saving = Saving()
    data: dict[str, Any] = Field(default_factory=dict)
    """What rows are made of, for `lr2eval data mix` and `lr2eval extend`; training takes finished rows."""
    shape: Shape | None = None
    """The sizes of the model, for estimates without one."""
    hardware: Hardware = Hardware()

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
        if self.micro_batch > 1 and not self.long_only and self.attention not in (None, DOCUMENTS, FLEX, *SQUARE):
            raise ValueError(f"attention {self.attention} may separate documents only within one row; set micro_batch "
                             "to 1")  # fmt: skip
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
        others = {"name", "data", "shape", "hardware", "saving", "short_tokens", "long_tokens"}
        return self.model_dump(mode="json", exclude=others)

    def learning_rate(self, step: int, steps: int) -> float:
        """Of step ``step`` (from 0) of ``steps``: linear warm-up to the full rate, then half a cosine down to zero.

        The rate reaches zero one step after the last, so no step is wasted.
        """
        warm = min(self.optimizer.warmup_steps, steps - 1)
        if step < warm:
            return self.optimizer.learning_rate * (step + 1) / (warm + 1)
        done = (step - warm) / max(1, steps - warm)
        return self.optimizer.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def automatic_attention(device: str, able: Collection[str], micro_batch: int, half: bool) -> str | None:
    """The attention for a recipe that names none: the first of flash, flex, documents that is in ``able`` and suits.

    ``half``: the arithmetic is bfloat16. ``None``: there is none, and the model's own must do.
    """
    on_gpu = device.startswith("cuda")
    suits = {FLASH: on_gpu and half and micro_batch == 1, FLEX: on_gpu, DOCUMENTS: True}
    return next((name for name, does in suits.items() if does and name in able), None)


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
        return Recipe(**values)
    except UsageError as error:
        raise UsageError(f"--recipe {source}: {error}" if source else str(error)) from error


def _values(source: str | Path) -> dict[str, Any]:
    if not isinstance(source, str | Path) or not str(source):
        raise UsageError(f"recipe {source!r:.60}: not a name; give a TOML file or one of {', '.join(names())}")
    path = Path(source)
    if path.suffix != ".toml" and str(source) in names():
        path = Path(str(resources.files("lr2eval.method") / "recipes" / f"{source}.toml"))
    data = read_bytes(path, fix=f"give a TOML file or one of {', '.join(names())}")
    return parse_toml(data, f"--recipe {source}")
