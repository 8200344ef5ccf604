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
    """One round of one split; the first is the initial population. In a gradient search: one check of one start, from
    where it begins."""

    split: int | None
    iteration: int = Field(description="In a gradient search: steps so far")
    asked: int = Field(description="New candidates")
    given_up: int = Field(description="Candidates that racing stopped before their last sample")
    discarded: int = Field(description="Candidates, or gradient steps, whose perplexity was not a finite number")
    evaluations: int = Field(description="Candidates times samples, samples of gradient steps included")
    best_nll: float = Field(description="Best of this split so far; nats per scored token, mean over samples")
    round_nll: float | None = Field(description="Best of this round; null if no candidate has a finite score")
    step_nll: list[float | None] = Field(
        default_factory=list, description="Mean loss of the new samples of each gradient step since the last check"
    )
    factors: list[PositiveFloat] = Field(default_factory=list, description="Checked factors of a gradient search")
    temperature: float | None = Field(default=None, description="Their attention factor")


class SplitFacts(Record):
    """The search at one split, or a gradient search from one start. Its counts are sums over its rounds."""

    split: int | None = Field(description="Null for a start of a gradient search")
    start: str | None = Field(default=None, description="The rule where a gradient search starts")
    best_nll: float
    seed_nll: float | None = Field(description="Best of the unsearched starting vectors")
    power: float | None = Field(description="Exponent of the left side; the paper's is 1. Null for a gradient search")
    factors: list[PositiveFloat]
    evaluations: int
    given_up: int
    discarded: int
    stopped: Literal["iterations", "patience", "exhausted", "steps", "behind", "not finite"] = Field(
        description="iterations, steps: all done; patience: too many without a gain; exhausted: no new candidate is "
        "left; behind: another start did better; not finite: several steps in a row had no finite loss"
    )
    rounds: list[RoundFacts] = Field(min_length=1)

    @property
    def label(self) -> str:
        """What to call it."""
        return f"split {self.split}" if self.start is None else f"from {self.start}"


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
    search_nll: list[float | None] = Field(
        description="For each sample of the search; null if not a finite number; empty if it was not scored on these"
    )
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

    version: Literal[2, 3, 4] = 4
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
    strategy: Literal["evolution", "gradient", "random"] = "evolution"
    objective: Literal["needle", "plain"]
    samples: int = Field(description="Samples that choose the factors")
    held_out: int
    reach: float = Field(gt=1, description="Largest factor the search may choose, as a multiple of s; the paper's is 2")
    split: int | None = Field(description="Split of the best factors; null for a gradient search")
    power: float | None
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

    @property
    def best(self) -> SplitFacts:
        """The split, or the start, that gave the found factors."""
        return min(self.splits, key=lambda each: each.best_nll)

    def content_digest(self) -> str:
        """What ``digest`` must be."""
        later: dict[str, Any] = {}
        if self.version < 4:
            rounds = {"rounds": {"__all__": {"step_nll", "factors", "temperature"}}, "start": True}
            later = {"strategy": True, "splits": {"__all__": rounds}}
        content = self.model_dump(mode="json", exclude={"digest": True, "data": True, "sha256": True, **later})
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
