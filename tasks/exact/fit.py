"""Exact sizing: the most whole units whose rendered prompt still fits its token budget (design D4).

Sizes are guessed by proportion: from the size of another sample where one is known, else from the smallest sample. A
guess is verified and corrected with counts of the whole prompt, because tokenizers need not be additive. The result is
exact for any tokenizer: the returned size fits, and one unit more does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from lr2eval.errors import TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact.draft import Draft, Draw

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
    """A first guess: the size of another sample of the same task and length, say, and the tokens a unit takes."""

    size: int
    unit_tokens: float


class TooSmallError(Exception):
    """Even the smallest sample exceeds the budget. ``tokens`` is what it takes, without the generation budget."""

    def __init__(self, tokens: int) -> None:
        super().__init__(tokens)
        self.tokens = tokens


def largest_fitting(draw: Draw, tokenizer: PromptTokenizer, budget: int, near: Near | None = None) -> Fit:
    """The draw at the size that fits ``budget`` prompt tokens while one more unit does not.

    Where a larger size may take fewer tokens, which of several right answers is found depends on the first guess.
    Raises :class:`TooSmallError` if nothing fits and :class:`TaskError` if the tokenizer gives units no tokens at all.
    When the draw runs out of units first, the size is ``draw.largest``.
    """
    # A unit costs at least one token with any sane tokenizer, so the search ends even where one does not.
    limit = draw.smallest + budget + 1
    limit = limit if draw.largest is None else min(limit, draw.largest)
    rate, size = (0.0, draw.smallest) if near is None else (near.unit_tokens, near.size)
    before: Fit | None = None
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
        if before is not None and (near is None or abs(before.size - tried.size) > STEADY):
            rate = max((before.tokens - tried.tokens) / (before.size - tried.size), 1.0)
        before = tried
        if step < GUESSES:
            # The smallest sample takes more tokens a unit than the others, so the first guess fits.
            size = tried.size + int((budget - tried.tokens) // (rate or max(tried.tokens / tried.size, 1.0)))
        else:
            size = ((draw.smallest if fits is None else fits.size) + too_big) // 2
    raise AssertionError("halving an interval ends")  # pragma: no cover


def fitting_in_steps(draw: Draw, tokenizer: PromptTokenizer, budget: int, size: int, step: int) -> Fit:
    """The draw at ``size`` units, or ``step`` fewer until it fits ``budget`` prompt tokens: not the most that fit.

    With ``step`` units or fewer that are too many, it is the same as :func:`largest_fitting`.
    """
    while (tried := _measure(draw, tokenizer, max(size, draw.smallest))).tokens > budget:
        if tried.size <= max(step, draw.smallest):
            return largest_fitting(draw, tokenizer, budget)
        size = tried.size - step
    return tried


def _measure(draw: Draw, tokenizer: PromptTokenizer, size: int) -> Fit:
    draft = draw.render(size)
    return Fit(size, tokenizer.count_prompt(draft.prompt, draft.answer_prefix), draft, draw.largest)
