"""The ``[data]`` table of a training recipe: sources, buckets of lengths, shares and the budget of tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lr2eval.base.settings import refuse_unknown
from lr2eval.base.units import parse_length
from lr2eval.errors import UsageError
from lr2eval.method.data.selection import BucketConfig
from lr2eval.method.data.sources import SourceConfig

SHORT_SHARE = 0.3
"""Of the tokens, as in the paper: 3 of 10 billion from documents of at most Lt tokens."""


class MixtureConfig(BaseModel):
    """The ``[data]`` table of a training recipe; lengths are tokens and may be written ``8k``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    original_window: int
    """Lt: documents up to it are short."""
    target_window: int
    """L: tokens of a row."""
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    tokens: int | None = Field(None, ge=1)
    """Budget of the whole mixture; by default the most that keeps the shares and uses no document twice."""
    buckets: tuple[BucketConfig, ...] | None = None
    """In ascending order, with a border at Lt; by default short documents have 3 and long ones 7 of 10 tokens."""
    min_tokens: int = Field(64, ge=2)
    """Shorter documents are left out."""
    repeat: bool = False
    """Use documents again where there are too few for the budget."""
    bos: bool | None = None
    eos: bool | None = None
    """Put BOS before and EOS behind each document; by default if the tokenizer has them."""
    seed: int = Field(0, ge=0)
    token_cache: Path | None = None
    """Where tokenised documents are kept; by default in the user cache."""

    @field_validator("original_window", "target_window", mode="before")
    @classmethod
    def _length(cls, value: Any) -> Any:
        return parse_length(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _together(self) -> MixtureConfig:
        short, long = self.original_window, self.target_window
        if short < 2:
            raise ValueError(f"original_window {short} is too short; a window needs at least 2 tokens")
        if long <= short:
            raise ValueError(f"target_window {long:,} is not longer than original_window {short:,}; raise it")
        if self.min_tokens > short:
            raise ValueError(f"min_tokens {self.min_tokens:,} is more than original_window {short:,}; lower it")
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError("two sources have the same name; rename one")
        _all_or_none("sources", [source.share for source in self.sources])
        edges = [bucket.up_to for bucket in self.all_buckets]
        if None in edges[:-1] or edges != sorted(set(edges), key=lambda edge: edge or math.inf):
            raise ValueError("buckets: up_to must ascend, and only the last bucket may omit it")
        if short not in edges[:-1]:
            raise ValueError(f"buckets: one needs up_to = {short:,} (original_window), and another must follow it")
        of_buckets = [bucket.share for bucket in self.all_buckets]
        _all_or_none("buckets", of_buckets)
        if of_buckets[-1] is not None and not sum(of_buckets[edges.index(short) + 1 :]):  # type: ignore[arg-type]
            raise ValueError("buckets: those beyond original_window have no share; training needs long documents")
        return self

    @property
    def all_buckets(self) -> tuple[BucketConfig, ...]:
        """The buckets given, or the default ones."""
        return self.buckets or (
            BucketConfig(up_to=self.original_window, share=SHORT_SHARE),
            BucketConfig(share=1 - SHORT_SHARE),
        )

    def settings(self) -> dict[str, Any]:
        """The settings that, with the content of the sources, decide the rows."""
        found: dict[str, Any] = self.model_dump(
            mode="json", exclude={"token_cache": True, "sources": {"__all__": {"path"}}}
        )
        return found


def read_mixture(values: Mapping[str, Any]) -> MixtureConfig:
    """A checked configuration. Raises :class:`UsageError` naming the first key that is wrong."""
    refuse_unknown(values, MixtureConfig.model_fields, group="data")
    for name, table in (("sources", SourceConfig), ("buckets", BucketConfig)):
        rows = values.get(name)
        for row in rows if isinstance(rows, list | tuple) else ():
            if isinstance(row, Mapping):
                refuse_unknown(row, table.model_fields, group=f"data.{name}")
    try:
        return MixtureConfig.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(["data", *(str(step) for step in problem["loc"])])
        raise UsageError(f"{where}: {problem['msg'].removeprefix('Value error, ')}; correct it") from error


def _all_or_none(what: str, given: Sequence[float | None]) -> None:
    if any(share is None for share in given) and any(share is not None for share in given):
        raise ValueError(f"{what}: set share for all of them or for none")
