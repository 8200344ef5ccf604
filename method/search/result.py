"""Makes ``search.json`` from the result of a search. :mod:`lr2eval.record.search` describes its fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.method.search.perplexity import perplexity
from lr2eval.method.search.run import SplitDone
from lr2eval.record.search import NllDifference, RuleFacts, SearchResult, SplitFacts
from lr2eval.stats.scores import t_interval

CONFIDENCE = 0.95
"""Coverage of the intervals of differences."""


def split_facts(done: SplitDone) -> SplitFacts:
    """One split, as a record."""
    return SplitFacts(
        split=done.split,
        start=done.start,
        best_nll=done.best_nll,
        seed_nll=None if done.seed is None else done.seed[0],
        power=done.power,
        factors=list(done.scaling.long_factor),
        evaluations=sum(each.evaluations for each in done.rounds),
        given_up=sum(each.given_up for each in done.rounds),
        discarded=sum(each.discarded for each in done.rounds),
        stopped=done.stopped,
        rounds=list(done.rounds),
    )


def rule_facts(
    name: str,
    scaling: RopeScaling,
    search: Sequence[float],
    held_out: Sequence[float],
    found: tuple[Sequence[float], Sequence[float]] | None = None,
) -> RuleFacts:
    """One vector of factors with its scores, as a record. ``found`` are the scores of the found factors."""
    return RuleFacts(
        name=name,
        made_by=scaling.provenance,
        factors=list(scaling.long_factor),
        attention_factor=scaling.long_attention_factor,
        search_nll=[_finite(nll) for nll in search],
        held_out_nll=[_finite(nll) for nll in held_out],
        search_perplexity=_finite(perplexity(search)) if search else None,
        held_out_perplexity=_finite(perplexity(held_out)) if held_out else None,
        search_difference=difference(search, found[0]) if search and found else None,
        held_out_difference=None if found is None else difference(held_out, found[1]),
    )


def difference(nlls: Sequence[float], found: Sequence[float]) -> NllDifference | None:
    """Mean of ``nlls - found`` over the same samples; ``None`` unless all are finite numbers."""
    values = [one - other for one, other in zip(nlls, found, strict=True)]
    if not values or not all(map(math.isfinite, values)):
        return None
    low, high = t_interval(values, CONFIDENCE) if len(values) > 1 else (None, None)
    return NllDifference(mean=math.fsum(values) / len(values), low=low, high=high, confidence=CONFIDENCE, n=len(values))


def search_result(**facts: Any) -> SearchResult:
    """The result with its digest."""
    draft = SearchResult(digest="", **facts)
    return draft.model_copy(update={"digest": draft.content_digest()})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
