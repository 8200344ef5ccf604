"""The ``[data]`` table of a training recipe: sources, buckets of lengths, shares and the budget of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from lr2eval.base.config import Config, Length
from lr2eval.method.data.selection import BucketConfig
from lr2eval.method.data.sources import SourceConfig

SHORT_SHARE = 0.3
"""Of the tokens, as in the paper: 3 of 10 billion from documents of at most Lt tokens."""


class MixtureConfig(Config):
    """The ``[data]`` table of a training recipe; lengths are tokens and may be written ``8k``."""

    HAS_FLAGS = False
    PREFIX = "data"

    original_window: Length
    """The original window Lt: documents of up to Lt tokens are short."""
    target_window: Length
    """The target window L: the number of tokens in a row."""
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    """The data sets and files that documents come from."""
    tokens: int | None = Field(None, ge=1)
    """The number of tokens in the mixture. Default: the most that keeps the shares and repeats no document."""
    buckets: tuple[BucketConfig, ...] | None = None
    """Ranges of document lengths, in ascending order, with a border at Lt. Default: 0.3 short, 0.7 long."""
    min_tokens: int = Field(64, ge=2)
    """Leave out documents with fewer tokens."""
    repeat: bool = False
    """Use documents more than once if there are too few tokens."""
    bos: bool | None = None
    """Put the BOS token before each document. Default: if the tokenizer has one."""
    eos: bool | None = None
    """Put the EOS token after each document. Default: if the tokenizer has one."""
    seed: int = Field(0, ge=0)
    """The seed of the selection and the order."""
    token_cache: Path | None = None
    """The folder of tokenised documents. Default: in the user cache."""

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
        return self.model_dump(mode="json", exclude={"token_cache": True, "sources": {"__all__": {"path"}}})


def _all_or_none(what: str, given: Sequence[float | None]) -> None:
    if any(share is None for share in given) and any(share is not None for share in given):
        raise ValueError(f"{what}: set share for all of them or for none")
