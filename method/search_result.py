"""``search.json``: what a search found, for reports. Stored numbers only and no timing, so equal searches give equal
files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lr2eval._errors import StoreError
from lr2eval._ids import digest
from lr2eval.method.perplexity import perplexity
from lr2eval.method.rope import RopeScaling
from lr2eval.method.search_run import SplitDone

FILE = "search.json"
FACTORS_FILE = "factors.json"
VERSION = 1


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
    """One split, searched."""

    split: int
    best_nll: float
    seed_nll: float | None = Field(description="Best of the unsearched starting vectors")
    power: float = Field(description="Exponent of the left side; the paper's is 1")
    factors: list[float]
    rounds: list[RoundFacts]


class RuleFacts(_Model):
    """Factors of a rule, of the best unsearched seed, or of the search, scored on the same samples."""

    name: str
    made_by: str
    factors: list[float]
    attention_factor: float
    search_nll: list[float | None] = Field(description="Per sample of the search; null where it was no finite number")
    held_out_nll: list[float | None] = Field(description="Per sample that the search has not seen")
    search_perplexity: float | None
    held_out_perplexity: float | None


class SearchResult(_Model):
    """The whole file."""

    version: int = VERSION
    digest: str = Field(description="sha256 over everything below it but the data facts; equal iff the result is")
    model: str
    fingerprint: str
    original_window: int
    target_length: int
    theta: float
    rotary_dim: int
    d_tcd: int
    d10_tcd: int
    d_rcd: int | None = Field(description="First pair whose searched factor reaches s")
    objective: str
    samples: int
    held_out: int
    split: int = Field(description="Of the best factors")
    power: float
    factors: list[float]
    attention_factor: float
    best_nll: float
    evaluations: int = Field(description="Candidates times samples, in all splits")
    discarded: int
    given_up: int
    splits: list[SplitFacts]
    rules: list[RuleFacts]
    data: dict[str, Any] = Field(description="Haystack, samples and how they were made")

    @classmethod
    def read(cls, folder: Path) -> SearchResult:
        """The result of a search folder; raises :class:`StoreError` if it is missing or damaged."""
        path = folder / FILE
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}; is {folder} the folder of a finished search?") from error
        except ValidationError as error:
            raise StoreError(f"{path}: not a search result of this version ({error.error_count()} problems)") from error


def split_facts(done: SplitDone) -> SplitFacts:
    """One split for the file."""
    return SplitFacts(
        split=done.split,
        best_nll=done.best.score,
        seed_nll=None if done.seed is None else done.seed.score,
        power=done.best.candidate.power / 100,
        factors=list(done.scaling.long_factor),
        rounds=[RoundFacts(**vars(each)) for each in done.rounds],
    )


def rule_facts(name: str, scaling: RopeScaling, search: Sequence[float], held_out: Sequence[float]) -> RuleFacts:
    """One vector of factors with its scores for the file."""
    return RuleFacts(
        name=name,
        made_by=scaling.provenance,
        factors=list(scaling.long_factor),
        attention_factor=scaling.long_attention_factor,
        search_nll=[_finite(nll) for nll in search],
        held_out_nll=[_finite(nll) for nll in held_out],
        search_perplexity=_finite(perplexity(search)),
        held_out_perplexity=_finite(perplexity(held_out)) if held_out else None,
    )


def sealed(**facts: Any) -> SearchResult:
    """The result with its digest."""
    draft = SearchResult(digest="", **facts)
    return draft.model_copy(update={"digest": digest(draft.model_dump(mode="json", exclude={"digest", "data"}))})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
