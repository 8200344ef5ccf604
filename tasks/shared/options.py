"""Options that several benchmarks share: ``--set BENCHMARK.key=value``."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from lr2eval.base.config import Config


class DataOptions(Config):
    """The options of a benchmark that makes its own data around a haystack."""

    HAS_FLAGS: ClassVar[bool] = False

    haystack: str = "essays"
    """The text around the needles: essays, python-docs, demo-filler, or a text file or folder."""
    repeat: Annotated[bool, Field(strict=True)] = True
    """Repeat a haystack that is shorter than a prompt."""
    samples: dict[str, Any] = Field(default_factory=dict)
    """The number of samples at single lengths: {"4k": 500}. Default: the same at every length."""
    workers: int | None = Field(None, ge=1, strict=True)
    """The number of processes that make the data. Default: one per core if there is much to make."""
