"""``search.json``: what a search found, for reports. Stored numbers only and no timing, so equal searches give equal
files. ``lr2eval.method.search.result`` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, model_validator

from lr2eval.base.ids import digest
from lr2eval.errors import StoreError
from lr2eval.record.base import Record, Sealed, read_record

FILE = "search.json"
FACTORS_FILE = "factors.json"
FOUND = "searched"
"""Name of the found factors among the rules they are compared with."""
SEED = "seed"
"""Name of the best unsearched starting vector among them."""


class RoundFacts(Record):
    """One round of one split; the first is the initial population."""

    split: int
    iteration: int
    asked: int = Field(description="New candidates")
    given_up: int = Field(description="Candidates that racing stopped before their last sample")
    discarded: int = Field(description="Candidates whose perplexity was not a finite number")
    evaluations: int = Field(description="Candidates times samples")
    best_nll: float = Field(description="Best of this split so far; nats per scored token, mean over samples")
    round_nll: float | None = Field(description="Best of this round; null if no candidate has a finite score")


class SplitFacts(Record):
    """The search at one split. Its counts are sums over its rounds."""

    split: int
    best_nll: float
    seed_nll: float | None = Field(description="Best of the unsearched starting vectors")
    power: float = Field(description="Exponent of the left side; the paper's is 1")
    factors: list[PositiveFloat]
    evaluations: int
    given_up: int
    discarded: int
    stopped: Literal["iterations", "patience", "exhausted"] = Field(
        description="iterations: all done; patience: too many without a gain; exhausted: no new candidate is left"
    )
    rounds: list[RoundFacts] = Field(min_length=1)


class NllDifference(Record):
    """Nats per scored token of a rule minus those of the found factors, on the same samples. Above 0 the found factors
    are better."""

    mean: float
    low: float | None = Field(description="Ends of the paired t interval; null for a single sample")
    high: float | None
    confidence: float
    n: int = Field(description="Pairs")


class RuleFacts(Record):
    """Factors of a rule, of the best unsearched starting vector, or of the search, scored on the same samples."""

    name: str
    made_by: str
    factors: list[PositiveFloat]
    attention_factor: float
    search_nll: list[float | None] = Field(description="For each sample of the search; null if not a finite number")
    held_out_nll: list[float | None] = Field(description="For each sample that the search has not seen")
    search_perplexity: float | None
    held_out_perplexity: float | None
    search_difference: NllDifference | None = Field(
        description="Null for the found factors themselves, and if a score of either is not a finite number"
    )
    held_out_difference: NllDifference | None


REPAIR = "run the same `lr2eval search` command again to rewrite it"


class SearchResult(Sealed):
    """The whole file."""

    sealed_from: ClassVar[int] = 3

    version: Literal[2, 3] = 3
    digest: str = Field(
        description="sha256 over all other keys except data, sha256 and version; equal results have equal digests"
    )
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
    split: int = Field(description="Split of the best factors")
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

    def content_digest(self) -> str:
        """What ``digest`` must be."""
        content = self.model_dump(mode="json", exclude={"digest", "data", "sha256"})
        return digest(content | {"version": 2})  # as it was when the digest was introduced: equal results stay equal

    @classmethod
    def read(cls, folder: Path) -> SearchResult:
        """The result of a search folder. Raises :class:`lr2eval.errors.StoreError` if it cannot be read or if its
        checksum or digest is wrong."""
        path = folder / FILE
        missing = "give the folder of a finished search"
        found = read_record(path, cls, missing=missing, repair=REPAIR, version_key="version")
        if (made := found.content_digest()) != found.digest:
            raise StoreError(f"{path}: its digest is {found.digest[:12]}, but its numbers give {made[:12]}; {REPAIR}")
        return found
