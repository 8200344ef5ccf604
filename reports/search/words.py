"""What a search's report says in words: the verdict, and what to mind. Every number in them is a stored one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lr2eval.record.search import FOUND, SEED, NllDifference, RuleFacts, SearchResult
from lr2eval.reports import formats
from lr2eval.reports.run.notices import FEW
from lr2eval.reports.search.figures import ends, interval, nats, perplexity

Kind = Literal["pass", "regression", "inconclusive"]


@dataclass(frozen=True)
class Verdict:
    """What to make of it, in a few words and a few sentences."""

    kind: Kind
    sign: str
    words: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Notice:
    """One thing to mind; grave ones change what the numbers mean."""

    title: str
    text: str
    grave: bool


def found(result: SearchResult) -> RuleFacts:
    """The found factors among the rules."""
    return next(rule for rule in result.rules if rule.name == FOUND)


def judged(result: SearchResult, rule: RuleFacts) -> float | None:
    """The needle perplexity to judge by: on unseen samples where there are any, else on those of the search."""
    if result.held_out:
        return rule.held_out_perplexity
    return rule.search_perplexity if result.objective == "needle" else None


def rank(result: SearchResult) -> list[RuleFacts]:
    """Best first; those without a finite perplexity last."""

    def place(rule: RuleFacts) -> tuple[bool, float]:
        value = judged(result, rule)
        return value is None, value or 0.0

    return sorted(result.rules, key=place)


def verdict(result: SearchResult) -> Verdict:
    """The found factors against the best rule on the same samples."""
    if not result.held_out and result.objective == "plain":
        said = (
            "The search looked at plain perplexity and held no samples out, so no needle perplexity was measured.",
            _again(result),
        )
        return Verdict("inconclusive", "?", "Not tested on needles", said)
    rules = [rule for rule in rank(result) if rule.name not in (FOUND, SEED) and judged(result, rule) is not None]
    ours, n = judged(result, found(result)), result.held_out or result.samples
    where = (
        f"On {n} sample{'' if n == 1 else 's'} that the search has not seen"
        if result.held_out
        else f"On the {n} sample{'' if n == 1 else 's'} that the search itself went by"
    )
    if ours is None:
        text = f"{where}, the found factors have no finite needle perplexity: do not use them."
        return Verdict("regression", "✗", "No finite perplexity", (text,))
    if not rules:
        words = f"{where}, the found factors have needle perplexity {perplexity(ours)}; no rule has one."
        return Verdict("inconclusive", "?", "No rule to compare with", (words,))
    best = rules[0]
    gap = best.held_out_difference if result.held_out else best.search_difference
    theirs = perplexity(judged(result, best))
    first = (
        f"{where}, the found factors have needle perplexity {perplexity(ours)} and the best rule, "
        f"{formats.clip(best.name, 60)}, has {theirs}{_gap(gap)}."
    )
    kind, sign, words, advice = _judge(gap, held_out=bool(result.held_out))
    tail = [] if result.held_out else [_again(result)]
    return Verdict(kind, sign, words, (first, *advice, *_over_start(result), *tail))


def _judge(gap: NllDifference | None, *, held_out: bool) -> tuple[Kind, str, str, tuple[str, ...]]:
    flattered = "These samples flatter the found factors: they were chosen by them."
    if gap is not None and gap.high is not None and gap.high < 0:
        words = "A rule is better" if held_out else "A rule is better, even on the search's own samples"
        return "regression", "✗", words, ("Take the rule, or search again with more samples, splits or iterations.",)
    if not held_out:
        return "inconclusive", "?", "Not tested on unseen samples", (f"{flattered} They cannot show a gain.",)
    if gap is not None and gap.low is not None and gap.low > 0:
        return "pass", "✓", "Better than every rule", ()
    if gap is not None and gap.low is None:
        return "inconclusive", "?", "One sample shows nothing", ()
    advice = "Chance alone may make such a difference, so these samples do not tell which is better."
    return "inconclusive", "?", "No difference to the best rule shown", (advice,)


def _gap(gap: NllDifference | None) -> str:
    """Who is lower and by how much; a stored difference is the rule's score minus that of the found factors."""
    if gap is None:
        return ""
    who = "found factors are" if gap.mean >= 0 else "rule is"
    if gap.mean < 0:
        low, high = (None if end is None else -end for end in (gap.high, gap.low))
        gap = gap.model_copy(update={"mean": -gap.mean, "low": low, "high": high})
    shown = nats(gap).removeprefix("+")
    if gap.low is None:
        return f": the {who} {shown} nats per answer token lower (n = {gap.n}, so no interval)"
    return (
        f": the {who} {shown} nats per answer token lower "
        f"({formats.level(gap.confidence)} interval {ends(gap)}, paired, n = {gap.n})"
    )


def _over_start(result: SearchResult) -> tuple[str, ...]:
    seed = next((rule for rule in result.rules if rule.name == SEED), None)
    if seed is None or judged(result, seed) is None:
        return ()
    gap = seed.held_out_difference if result.held_out else seed.search_difference
    if seed.factors == found(result).factors:
        return ("The search found nothing better than the best of its own starting vectors: these are its factors.",)
    if gap is None or gap.low is None or gap.high is None:
        return ()
    value = perplexity(judged(result, seed))
    shown = f"{value}, {interval(gap)} nats against the found factors"
    if gap.low > 0:
        return (f"The best of its unsearched starting vectors has {shown}: searching gained something.",)
    if gap.high < 0:
        return (f"The best of its unsearched starting vectors has {shown}: searching lost something on these samples.",)
    return (f"The best of its unsearched starting vectors has {shown}: no gain by searching is shown.",)


def _again(result: SearchResult) -> str:
    return (
        f"To know, search again into another folder with unseen samples (--held-out {FEW} or more); the default is 10."
    )


def notices(result: SearchResult) -> list[Notice]:
    """Everything to mind beside the verdict."""
    found_ = []
    if 0 < result.held_out < FEW:  # none at all is a matter of the verdict
        text = f"{result.held_out} unseen samples: an interval from fewer than {FEW} is wide and only roughly right."
        found_.append(Notice("Few unseen samples", text, False))
    splits = sorted(each.split for each in result.splits)
    if len(splits) > 1 and result.split in (splits[0], splits[-1]):
        beyond, which = ("smaller", "smallest") if result.split == splits[0] else ("larger", "largest")
        text = f"The best split, {result.split}, is the {which} one searched; a {beyond} one may be better (--splits)."
        found_.append(Notice("Best split at the edge", text, False))
    late = next(each for each in result.splits if each.split == result.split)
    if late.stopped == "iterations" and len(late.rounds) > 1 and late.rounds[-1].best_nll < late.rounds[-2].best_nll:
        text = f"Split {late.split} still improved in its last iteration; more may find better factors (--iterations)."
        found_.append(Notice("Not at rest", text, False))
    if result.d_rcd is None:
        found_.append(
            Notice("No factor reaches s", "Pairs with periods beyond Lt stay out of the trained range.", True)
        )
    if result.data.get("repeated") is True:
        text = "The haystack was shorter than a sample and stands in it several times, so samples resemble each other."
        found_.append(Notice("Repeated haystack", text, False))
    return sorted(found_, key=lambda notice: not notice.grave)
