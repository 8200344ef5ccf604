"""Samples of the grid: what is hidden, what is asked, and where it stands in a haystack of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from lr2eval.base.wording import Wording
from lr2eval.tasks.exact.draft import Draft
from lr2eval.tasks.niah.background import FIRST, Background
from lr2eval.tasks.niah.options import NiahOptions
from lr2eval.tasks.ruler import words

Variant = Literal["single", "multi", "distractor"]
SMALLEST = 50
"""Words of the shortest haystack."""

NEEDLE = "The access code of {key} is {value}."
PROMPT = "The text below holds access codes. You will be asked for {what} after it.\n\n{context}\n\n{question}"
ONE = ("What is the access code of {keys}? Answer with the number alone.", " The access code of {keys} is")
SEVERAL = ("What are the access codes of {keys}? Answer with the numbers alone.", " The access codes of {keys} are")


@dataclass(frozen=True)
class Needle:
    """A key and its value at an asked depth."""

    key: str
    value: str
    depth: float
    wording: Wording | None = None

    @property
    def text(self) -> str:
        given = NEEDLE if self.wording is None else self.wording.needle.strip()
        return given.format(key=self.key, value=self.value)


@dataclass(frozen=True)
class NeedleDraw:
    """One sample of open size (:class:`lr2eval.tasks.exact.draft.Draw`); a unit is one word of the haystack."""

    background: Background
    asked: tuple[Needle, ...]
    others: tuple[Needle, ...] = ()
    wording: Wording | None = None
    """For one asked needle; ``None``: ours."""

    @property
    def smallest(self) -> int:
        available = self.background.available
        return SMALLEST if available is None else min(SMALLEST, available)

    @property
    def largest(self) -> int | None:
        return self.background.available

    @property
    def needles(self) -> int:
        return len(self.asked) + len(self.others)

    def has_places(self, size: int) -> bool:
        """Whether ``size`` words have a place for every asked needle, and the text one for every needle at all.

        Others may share a place where the sample is short, but not because the text has no sentences.
        """
        looked_at = min(max(size, FIRST), self.background.available or FIRST)
        return self.background.places(size) >= len(self.asked) and self.background.places(looked_at) >= self.needles

    def render(self, size: int) -> Draft:
        """The sample with ``size`` words of haystack."""
        prompt, prefix = self._words(self._context(size))
        return Draft(
            prompt=prompt,
            answer_prefix=prefix,
            answers=tuple(needle.value for needle in self.asked),
            depth=self.asked[0].depth,
            marks=tuple(needle.text for needle in self.asked),
        )

    def _words(self, context: str) -> tuple[str, str]:
        """The prompt, and how the answer begins."""
        keys = _listed([needle.key for needle in self.asked])
        if self.wording is not None:
            given = self.wording
            return given.instruction + context + given.question.format(key=keys), given.stem.format(key=keys)
        question, prefix = ONE if len(self.asked) == 1 else SEVERAL
        what = "one of them" if len(self.asked) == 1 else "some of them"
        return PROMPT.format(what=what, context=context, question=question.format(keys=keys)), prefix.format(keys=keys)

    def token_depth(self, size: int) -> float:
        """Where the (first) asked needle really stands: the share of the haystack's tokens before it."""
        return self.background.depth(size, self.background.place(size, self.asked[0].depth))

    def _context(self, size: int) -> str:
        text = self.background.text(size)
        placed = sorted(
            ((self.background.place(size, needle.depth), needle.text) for needle in (*self.asked, *self.others)),
            key=lambda pair: pair[0],
        )
        parts, done = [], 0
        for char, needle in placed:
            parts += [text[done:char].strip(), needle]
            done = char
        return " ".join(part for part in (*parts, text[done:].strip()) if part)


def draw(variant: Variant, grid: NiahOptions, depth: float, background: Background, rng: Random) -> NeedleDraw:
    """Every random choice of one sample, made in a fixed order."""
    if grid.words is not None:
        return _draw_worded(grid.words, grid.distractors if variant == "distractor" else 0, depth, background, rng)
    keys, values = [words.word(rng)], [words.number(rng)]
    more = {"single": 0, "multi": grid.needles - 1, "distractor": grid.distractors}[variant]
    while len(keys) <= more:
        key, value = words.word(rng), words.number(rng)
        if variant == "distractor":
            key = _similar(keys[0], key, len(keys))
        if key not in keys and value not in values:
            keys.append(key)
            values.append(value)
    if variant == "distractor":
        asked = Needle(keys[0], values[0], depth)
        others = [Needle(key, value, rng.random()) for key, value in zip(keys[1:], values[1:], strict=True)]
        return NeedleDraw(background, (asked,), tuple(others))
    # As gkamradt's multi-needle test: the first at the asked depth, the others evenly on the way to the end.
    step = (1 - depth) / len(keys)
    places = [depth + number * step for number in range(len(keys))]
    return NeedleDraw(background, tuple(Needle(*each) for each in zip(keys, values, places, strict=True)))


def _draw_worded(wording: Wording, others: int, depth: float, background: Background, rng: Random) -> NeedleDraw:
    keys = rng.sample(wording.keys, others + 1)
    values = rng.sample(wording.values, others + 1) if wording.values else [words.number(rng) for _ in keys]
    places = [depth, *(rng.random() for _ in range(others))]
    first, *rest = (Needle(*each, wording) for each in zip(keys, values, places, strict=True))
    return NeedleDraw(background, (first,), tuple(rest), wording)


def _similar(key: str, other: str, number: int) -> str:
    """Half of ``key`` and half of ``other``: the first half of every second one, the last half of the rest."""
    first, _, last = key.partition("-")
    return f"{first}-{other.partition('-')[2]}" if number % 2 else f"{other.partition('-')[0]}-{last}"


def _listed(keys: Sequence[str]) -> str:
    return keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])} and {keys[-1]}"
