"""What a search's report says in words: the verdict and the caveats. Every number in them is a stored one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from lr2eval.record.search import FOUND, SEED, NllDifference, RuleFacts, SearchResult
from lr2eval.reports import formats
from lr2eval.reports.caveats import FEW, Caveat
from lr2eval.reports.comparison.tables import SIGNS
from lr2eval.reports.search.figures import compared, ends, interval, nats, perplexity

Kind = Literal["pass", "regression", "inconclusive"]


@dataclass(frozen=True)
class SearchVerdict:
    """What to make of it, in a few words and a few sentences."""

    kind: Kind
    words: str
    sentences: tuple[str, ...]

    @property
    def sign(self) -> str:
        return SIGNS[self.kind]


def found(result: SearchResult) -> RuleFacts:
    """The found factors among the rules."""
    return next(rule for rule in result.rules if rule.name == FOUND)


def judged(result: SearchResult, rule: RuleFacts) -> float | None:
    """The needle perplexity to judge by: on unseen samples where there are any, else on those of the search."""
    if result.held_out:
        return rule.held_out_perplexity
    return rule.search_perplexity if result.objective == "needle" else None


def rank(result: SearchResult) -> list[RuleFacts]:
    """The rules that were scored, best first; those without a finite perplexity last."""
    scored = [rule for rule in result.rules if rule.held_out_nll or rule.search_nll]
    return sorted(scored, key=lambda rule: (judged(result, rule) is None, judged(result, rule) or 0.0))


def verdict(result: SearchResult) -> SearchVerdict:
    """The found factors against the best rule on the same samples."""
    again = f"Search again into another folder with unseen samples (--held-out {FEW} or more; the default is 10)."
    if not result.held_out and result.objective == "plain":
        first = "The search used plain perplexity and had no unseen samples, so needle perplexity was not measured."
        return SearchVerdict("inconclusive", "Not tested on needles", (first, again))
    rules = [rule for rule in rank(result) if rule.name not in (FOUND, SEED) and judged(result, rule) is not None]
    ours, n = judged(result, found(result)), result.held_out or result.samples
    samples = f"{n} sample{'s' * (n != 1)}"
    where = f"On {samples} that the search has not seen" if result.held_out else f"On the search's own {samples}"
    if ours is None:
        text = f"{where}, the found factors have no finite needle perplexity. Do not use them."
        return SearchVerdict("regression", "No finite perplexity", (text,))
    if not rules:
        text = f"{where}, the found factors have needle perplexity {perplexity(ours)}. No rule has a finite one."
        return SearchVerdict("inconclusive", "No rule to compare with", (text,))
    best = rules[0]
    gap, theirs = compared(result, best), perplexity(judged(result, best))
    first = (
        f"{where}, the found factors have needle perplexity {perplexity(ours)}. The best rule, "
        f"{formats.clip(best.name, 60)}, has {theirs}{_gap(gap)}."
    )
    kind, words, advice = _judge(gap, held_out=bool(result.held_out))
    return SearchVerdict(kind, words, (first, *advice, *_over_start(result), *[again] * (not result.held_out)))


def _judge(gap: NllDifference | None, *, held_out: bool) -> tuple[Kind, str, tuple[str, ...]]:
    if gap is not None and gap.high is not None and gap.high < 0:
        words = "A rule is better" if held_out else "A rule is better, even on the search's own samples"
        return "regression", words, ("Use the rule, or search again with more samples, splits or iterations.",)
    if not held_out:
        advice = "The search chose its factors on these samples, so they look better here than they are."
        return "inconclusive", "Not tested on unseen samples", (advice,)
    if gap is not None and gap.low is not None and gap.low > 0:
        return "pass", "Better than every rule", ()
    if gap is not None and gap.low is None:
        return "inconclusive", "One sample cannot show a difference", ()
    advice = "The difference may be due to chance: these samples do not show which is better."
    return "inconclusive", "Not shown to be better than the best rule", (advice,)


def _gap(gap: NllDifference | None) -> str:
    """Who is lower and by how much; a stored difference is the rule's score minus that of the found factors."""
    if gap is None:
        return ""
    who = "found factors are" if gap.mean >= 0 else "rule is"
    if gap.mean < 0:
        low, high = (None if end is None else -end for end in (gap.high, gap.low))
        gap = gap.model_copy(update={"mean": -gap.mean, "low": low, "high": high})
    sure = f"{formats.level(gap.confidence)} interval {ends(gap)}, paired, n = {gap.n}"
    shown = f"n = {gap.n}, so no interval" if gap.low is None else sure
    return f": the {who} {nats(gap).removeprefix('+')} nats per answer token lower ({shown})"


def _over_start(result: SearchResult) -> tuple[str, ...]:
    seed = next((rule for rule in result.rules if rule.name == SEED), None)
    if seed is None or judged(result, seed) is None:
        return ()
    if seed.factors == found(result).factors:
        return ("The search found nothing better than its best start: these are the factors of that start.",)
    gap = compared(result, seed)
    if gap is None or gap.low is None or gap.high is None:
        return ()
    shown = f"{perplexity(judged(result, seed))}, {interval(gap)} nats against the found factors"
    effect = "no improvement by the search is shown"
    if gap.low > 0:
        effect = "the search improved it"
    elif gap.high < 0:
        effect = "the search made it worse on these samples"
    return (f"The best start, before any searching, has {shown}: {effect}.",)


def caveats(result: SearchResult) -> Iterator[Caveat]:
    """Everything to know beside the verdict, the grave things first."""
    if result.d_rcd is None:
        text = "No found factor reaches s, so pairs with periods beyond Lt still leave the trained range."
        yield Caveat("No factor reaches s", text, True)
    if 0 < result.held_out < FEW:  # none at all is a matter of the verdict
        text = f"There are {result.held_out} unseen samples. Below {FEW}, an interval is wide and only approximate."
        yield Caveat("Few unseen samples", text, False)
    splits = sorted(each.split for each in result.splits if each.split is not None)
    if len(splits) > 1 and result.split in (splits[0], splits[-1]):
        text = f"The best split, {result.split}, is at an end of those searched. One beyond may be better (--splits)."
        yield Caveat("Best split at the edge", text, False)
    late = result.best
    more = {"iterations": "--iterations", "steps": "--set steps"}.get(late.stopped)
    if more and len(late.rounds) > 1 and late.rounds[-1].best_nll < late.rounds[-2].best_nll:
        text = f"The search {late.label} still improved at its end. More may find better factors ({more})."
        yield Caveat("Still improving", text, False)
    if late.stopped == "not finite":
        text = "The last steps had no finite loss, so the search ended early, with the best factors so far."
        yield Caveat("Ended early", text, True)
    yield from _pressed(result)
    usual = math.sqrt(1 + math.log(result.scale) / math.log(result.original_window))
    if result.attention_factor > 1.01 * usual:
        text = (
            f"The temperature is {result.attention_factor:.3g}; LongRoPE's is {usual:.3g}. It acts inside the window "
            f"too, where the search does not look. Compare short inputs, or search with --attention-factor {usual:.4g}."
        )
        yield Caveat("High temperature", text, False)
    needles = result.data.get("needles")
    if isinstance(needles, Mapping) and (needles.get("needles"), needles.get("distractors")) == (1, 0):
        text = (
            "Each sample has one needle, as in the paper. Several needles at all depths are closer to use: "
            "--depths grid --set needles=4 --set distractors=4."
        )
        yield Caveat("One needle a sample", text, False)
    if result.data.get("repeated") is True:
        text = "The haystack is shorter than a sample. It was repeated to fill each sample, so samples are similar."
        yield Caveat("Repeated haystack", text, False)


def _pressed(result: SearchResult) -> Iterator[Caveat]:
    """Signs that the search wanted something that it could not have, or that it fits its own samples."""
    if result.split is not None:
        low, high = result.scale, result.reach * result.scale
        ends = [(name, sum(math.isclose(factor, end, rel_tol=2e-3) for factor in result.factors[result.split :]))
                for name, end in (("s", low), (f"{result.reach:g}s", high))]  # fmt: skip
        for name, count in ends:
            if count > 1:
                text = (
                    f"{count} factors are at the bound {name}. Better ones may lie beyond it (--set reach, --splits)."
                )
                yield Caveat("Factors at a bound", text, False)
    rule = next((each for each in rank(result) if each.name not in (FOUND, SEED) and each.search_difference), None)
    if result.objective == "needle" and rule and rule.search_difference and rule.held_out_difference:
        own, unseen = rule.search_difference, rule.held_out_difference
        if own.low is not None and own.low > 0 and unseen.mean < own.low:
            text = (
                f"On the search's own samples, the found factors lead {formats.clip(rule.name, 60)} by {interval(own)} "
                f"nats, on unseen ones by {interval(unseen)}. Use more samples (--samples)."
            )
            yield Caveat("Own and unseen loss differ", text, False)
