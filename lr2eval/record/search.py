"""``search.json``: what a search found, for reports. Stored numbers only and no timing, so equal searches give equal
files. What makes one stands in ``lr2eval.method.search.result``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, model_validator

from lr2eval.errors import StoreError

FILE = "search.json"
FACTORS_FILE = "factors.json"
VERSION: Literal[2] = 2
FOUND = "searched"
"""Name of the found factors among the rules they are compared with."""
SEED = "seed"
"""Name of the best unsearched starting vector among them."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RoundFacts(_Model):
    """One round of one split; the first is the initial population."""

    split: int
    iteration: int
    asked: int = Field(description="New candidates")
    given_up: int = Field(description="By racing, before their last sample")
    discarded: int = Field(description="Perplexity was no finite number")
    evaluations: int = Field(description="Candidates times samples")
    best_nll: float = Field(description="Of this split so far; nats per scored token, mean over samples")
    round_nll: float | None = Field(description="Best of this round; null if none got a finite score")


class SplitFacts(_Model):
    """One split, searched. The counts are those of its rounds together."""

    split: int
    best_nll: float
    seed_nll: float | None = Field(description="Best of the unsearched starting vectors")
    power: float = Field(description="Exponent of the left side; the paper's is 1")
    factors: list[PositiveFloat]
    evaluations: int
    given_up: int
    discarded: int
    stopped: Literal["iterations", "patience", "exhausted"] = Field(
        description="All iterations done; no gain for as many iterations as patience allows; no unseen candidate left"
    )
    rounds: list[RoundFacts] = Field(min_length=1)


class Difference(_Model):
    """Nats per scored token minus those of the found factors on the same samples; above 0 the found ones are better."""

    mean: float
    low: float | None = Field(description="Of the paired t interval; null for a single sample")
    high: float | None
    confidence: float
    n: int = Field(description="Pairs")


class RuleFacts(_Model):
    """Factors of a rule, of the best unsearched seed, or of the search, scored on the same samples."""

    name: str
    made_by: str
    factors: list[PositiveFloat]
    attention_factor: float
    search_nll: list[float | None] = Field(description="Per sample of the search; null where it was no finite number")
    held_out_nll: list[float | None] = Field(description="Per sample that the search has not seen")
    search_perplexity: float | None
    held_out_perplexity: float | None
    search_difference: Difference | None = Field(
        description="Null for the found factors themselves, and where a score of either was no finite number"
    )
    held_out_difference: Difference | None


class SearchResult(_Model):
    """The whole file."""

    version: Literal[2] = VERSION
    digest: str = Field(description="sha256 over everything below it but the data facts; equal iff the result is")
    model: str
    fingerprint: str
    original_window: int
    target_length: int
    scale: float = Field(gt=1, description="s, target length / original window")
    theta: float
    rotary_dim: int
    periods: list[PositiveFloat] = Field(min_length=1, description="Tokens per turn of each pair before rescaling")
    d_tcd: int
    d10_tcd: int
    d_rcd: int | None = Field(description="First pair whose searched factor reaches s")
    objective: Literal["needle", "plain"]
    samples: int
    held_out: int
    reach: float = Field(gt=1, description="Largest factor the search may choose, as a multiple of s; the paper's is 2")
    split: int = Field(description="Of the best factors")
    power: float
    factors: list[PositiveFloat]
    attention_factor: float
    best_nll: float
    evaluations: int = Field(description="Candidates times samples, in all splits")
    discarded: int
    given_up: int
    splits: list[SplitFacts] = Field(min_length=1)
    rules: list[RuleFacts]
    data: dict[str, Any] = Field(description="Haystack, samples and how they were made, tokens read")

    @model_validator(mode="after")
    def _whole(self) -> SearchResult:
        for name, factors in [("factors", self.factors), *((rule.name, rule.factors) for rule in self.rules)]:
            if len(factors) != len(self.periods):
                raise ValueError(f"{name!r} has {len(factors)} factors for {len(self.periods)} pairs")
        if [rule.name for rule in self.rules].count(FOUND) != 1:
            raise ValueError(f"the found factors ({FOUND}) are not among the rules exactly once")
        if self.split not in [each.split for each in self.splits]:
            raise ValueError(f"split {self.split} is not among those searched")
        return self

    @classmethod
    def read(cls, folder: Path) -> SearchResult:
        """The result of a search folder; raises :class:`StoreError` if it is missing, damaged or of another version."""
        path = folder / FILE
        try:
            text = path.read_bytes()
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; is {folder} the folder of a finished search?") from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise StoreError(
                f"{path}: {_problem(error, text)}; run the same `lr2eval search` command again to rewrite it"
            ) from error


def _problem(error: ValidationError, text: bytes) -> str:
    """What is wrong with the file, in words: of another version, or damaged and where."""
    try:
        version = json.loads(text).get("version", VERSION)
    except (ValueError, AttributeError):
        version = VERSION
    if version != VERSION:
        return f"has version {version!r}, this lr2eval reads {VERSION}"
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "file"
    return f"not a search result, or damaged, at {where} ({first['msg']})"
