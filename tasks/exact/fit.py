"""Exact sizing: the most whole units whose rendered prompt still fits its token budget (design D4).

Units are tokenised once and summed, which gives a very good guess; the guess is then verified and corrected with
counts of the whole prompt, because tokenizers need not be additive. The result is exact for any tokenizer: the
returned size fits, and one unit more does not. Where counting is cheap (:mod:`lr2eval.tasks.exact.counting`) and the
size of another sample is known, that size is the guess and no unit is looked at.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field

from lr2eval.errors import TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact.draft import Draft, Draw

MEMO_LIMIT = 100_000
"""Distinct pieces of text whose token counts are remembered (a few megabytes)."""
GUESSES = 8
"""Guesses by proportion before the search falls back to halving the interval."""
STEADY = 16
"""Units between two sizes from where on their difference tells what a unit takes."""


@dataclass(frozen=True)
class Fit:
    """A sized sample. ``tokens`` counts all the model sees, without the generation budget.

    ``available`` is the draw's ``largest``; a size that equals it was limited by text, not by tokens.
    """

    size: int
    tokens: int
    draft: Draft
    available: int | None


@dataclass(frozen=True)
class Near:
    """What another sample of the same task and length tells: its size, and the tokens a unit takes there."""

    size: int
    unit_tokens: float

    def largest_fitting(self, draw: Draw, tokenizer: PromptTokenizer, budget: int) -> Fit:
        """The same as :func:`largest_fitting` from a guess: for tokenizers that count whole prompts cheaply.

        Where a larger size may take fewer tokens, which of several right answers is found depends on the guess.
        """
        before: Fit | None = None
        rate = self.unit_tokens

        def guess(tried: Fit) -> int:
            nonlocal before, rate
            if before is not None and abs(before.size - tried.size) > STEADY:
                rate = max((before.tokens - tried.tokens) / (before.size - tried.size), 1.0)
            before = tried
            return tried.size + int((budget - tried.tokens) // rate)

        return _search(draw, tokenizer, budget, self.size, guess)


class TooSmallError(Exception):
    """Even the smallest sample exceeds the budget. ``tokens`` is what it takes, without the generation budget."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.tokens = tokens


@dataclass
class UnitCosts:
    """Prefix sums over the token counts of a draw's units, extended only as far as they are asked for."""

    draw: Draw
    tokenizer: PromptTokenizer
    memo: MutableMapping[str, int]
    limit: int
    sums: list[int] = field(default_factory=lambda: [0])

    def upto(self, size: int) -> int:
        """Estimated tokens of the first ``size`` units."""
        self._extend(size)
        return self.sums[size]

    def fitting(self, tokens: float) -> int:
        """The most units whose estimate is at most ``tokens`` (never more than the limit)."""
        while self.sums[-1] <= tokens and len(self.sums) <= self.limit:
            done = len(self.sums) - 1
            mean = max(self.sums[-1] / done, 1.0) if done else 16.0
            self._extend(min(self.limit, done + 8 + int((tokens - self.sums[-1]) / mean)))
        return bisect_right(self.sums, tokens) - 1

    def _extend(self, size: int) -> None:
        start = len(self.sums) - 1
        if size <= start:
            return
        units = self.draw.units(start, size)
        new = sorted({piece for unit in units for piece in unit if piece not in self.memo})
        counts = dict(zip(new, self.tokenizer.counts(new), strict=True))
        if len(self.memo) + len(counts) <= MEMO_LIMIT:
            self.memo.update(counts)
        for unit in units:
            cost = sum(counts[piece] if piece in counts else self.memo[piece] for piece in unit)
            self.sums.append(self.sums[-1] + cost)


def largest_fitting(
    draw: Draw, tokenizer: PromptTokenizer, budget: int, memo: MutableMapping[str, int] | None = None
) -> Fit:
    """The draw at the size that fits ``budget`` prompt tokens while one more unit does not.

    ``memo`` keeps token counts of repeated pieces between samples; it never changes a result. Raises
    :class:`TooSmallError` if nothing fits and :class:`TaskError` if the tokenizer gives units no tokens at all. When
    the draw runs out of units first, the size is ``draw.largest``.
    """
    costs = UnitCosts(draw, tokenizer, memo if memo is not None else {}, _limit(draw, budget))
    tokens: list[int] = []  # of the smallest sample

    def guess(tried: Fit) -> int:
        tokens.extend([] if tokens else [tried.tokens])
        offset = costs.upto(draw.smallest)
        # Real tokens per estimated token.
        rate = max(tried.tokens - tokens[0], 1) / max(costs.upto(tried.size) - offset, 1)
        return costs.fitting(offset + (budget - tokens[0]) / rate)

    return _search(draw, tokenizer, budget, draw.smallest, guess)


def fitting_in_steps(draw: Draw, tokenizer: PromptTokenizer, budget: int, size: int, step: int) -> Fit:
    """The draw at ``size`` units, or ``step`` fewer until it fits ``budget`` prompt tokens: not the most that fit.

    With ``step`` units or fewer that are too many, it is the same as :func:`largest_fitting`.
    """
    while (tried := _measure(draw, tokenizer, max(size, draw.smallest))).tokens > budget:
        if tried.size <= max(step, draw.smallest):
            return largest_fitting(draw, tokenizer, budget)
        size = tried.size - step
    return tried


def _search(draw: Draw, tokenizer: PromptTokenizer, budget: int, size: int, guess: Callable[[Fit], int]) -> Fit:
    """Try ``size``, then sizes that ``guess`` derives from the last one, then halve the interval."""
    limit = _limit(draw, budget)
    fits: Fit | None = None
    too_big = max(limit, draw.smallest) + 1
    for step in range(2 * limit.bit_length() + GUESSES + 1):
        size = min(max(size, draw.smallest if fits is None else fits.size + 1), too_big - 1)
        tried = _measure(draw, tokenizer, size)
        if tried.tokens <= budget:
            fits = tried
        elif size == draw.smallest:
            raise TooSmallError(tried.tokens)
        else:
            too_big = size
        if fits is not None and too_big - fits.size == 1:
            if fits.size == limit and limit != fits.available:
                raise TaskError(
                    f"{tokenizer.name}: {limit} units of text stay under {budget} tokens, so the tokenizer drops text "
                    "and lengths cannot be measured; put the model's real tokenizer files beside its weights"
                )
            return fits
        size = guess(tried) if step < GUESSES else ((draw.smallest if fits is None else fits.size) + too_big) // 2
    raise AssertionError("halving an interval ends")  # pragma: no cover


def _limit(draw: Draw, budget: int) -> int:
    """A unit costs at least one token with any sane tokenizer, so the search ends even where one does not."""
    limit = draw.smallest + budget + 1
    return limit if draw.largest is None else min(limit, draw.largest)


def _measure(draw: Draw, tokenizer: PromptTokenizer, size: int) -> Fit:
    draft = draw.render(size)
    return Fit(size, tokenizer.count_prompt(draft.prompt, draft.answer_prefix), draft, draw.largest)
