"""Needles in running text: facts about keys stand between the sentences of an essay, one or more are asked for.

After ``scripts/data/synthetic/niah.py`` of NVIDIA/RULER with its essay haystack: the first so many words of the text
(again from its start after its end) are split into sentences, each needle goes to one of 40 depths that are rounded
percentages of the sentences, no two to the same depth, and everything is joined by spaces. Upstream shuffles the
needles alike in every sample; here the order is the sample's own, unless ``fixed_order`` is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from lr2eval.errors import TaskError
from lr2eval.tasks.exact.draft import Draft, distinct
from lr2eval.tasks.exact.stream import fixed_shuffle
from lr2eval.tasks.haystacks import Haystack, split
from lr2eval.tasks.ruler.niah import RANDOM, Kind
from lr2eval.tasks.shared import upstream

DEPTHS = tuple(round(100 * step / 39) for step in range(40))
"""Percentages, as upstream rounds them."""
LOOKED_AT = 4096
"""Words of a text in which there must be places for the needles."""


@dataclass(frozen=True)
class EssayRecipe:
    """``keys`` different keys with ``values`` values of ``kind`` each; ``queries`` of the keys are asked for."""

    haystack: Haystack
    kind: Kind
    keys: int = 1
    values: int = 1
    queries: int = 1
    fixed_order: bool = False

    def __post_init__(self) -> None:
        """Raises :class:`TaskError` for a text without sentences to put the needles between."""
        text = " ".join(self.haystack.take(0, min(LOOKED_AT, self.haystack.available or LOOKED_AT)))
        sentences, needles = len(split(text)), self.keys * self.values
        if sentences + 1 < needles:
            raise TaskError(
                f"ruler: {needles} needles are more than the places between the sentences of {self.haystack.name} "
                f"({sentences} in its first {LOOKED_AT} words); give a text of sentences with --set ruler.haystack=PATH"
            )

    def draw(self, rng: Random, index: int = 0) -> EssayDraw:
        """Keys and values, the order of their needles, their depths and what is asked."""
        # Upstream draws with repetition; a key or value drawn twice would make the question ambiguous.
        keys = distinct(self.keys, lambda: RANDOM["words"](rng))
        drawn = distinct(self.keys * self.values, lambda: RANDOM[self.kind](rng))
        facts = {key: tuple(drawn[at * self.values : (at + 1) * self.values]) for at, key in enumerate(keys)}
        needles = [(key, value) for key, values in facts.items() for value in values]
        if self.fixed_order:
            needles = fixed_shuffle(needles)
        else:
            rng.shuffle(needles)
        depths = sorted(rng.sample(DEPTHS, len(needles)))
        return EssayDraw(self, facts, tuple(needles), tuple(depths), tuple(rng.sample(keys, self.queries)))


@dataclass(frozen=True)
class EssayDraw:
    """One sample; a unit is one word of the essays. ``needles`` are (key, value) pairs; ``asked`` are keys."""

    recipe: EssayRecipe
    facts: Mapping[str, tuple[str, ...]]
    needles: tuple[tuple[str, str], ...]
    depths: tuple[int, ...]
    asked: tuple[str, ...]

    @property
    def smallest(self) -> int:
        """One word for each needle."""
        return len(self.needles)

    @property
    def largest(self) -> int | None:
        """The words of the text."""
        return self.recipe.haystack.available

    def render(self, size: int) -> Draft:
        """The sample with the first ``size`` words of the essays."""
        texts = upstream.niah_texts()
        template, prefix, kind = texts.template, texts.answer_prefix, str(self.recipe.kind)
        answers = tuple(value for key in self.asked for value in self.facts[key])
        if len(answers) == 1:
            template, prefix = upstream.single_answer(template), upstream.single_answer(prefix)
            kind = kind.removesuffix("s")
        needles = [texts.needle.format(type_needle_v=self.recipe.kind, key=k, value=v) for k, v in self.needles]
        stretch = self.recipe.haystack.first(size)
        places = [int(len(stretch) * (depth / 100)) for depth in self.depths]
        parts = []
        for begin, end, needle in zip([0, *places], places, needles, strict=False):
            parts += [" ".join(stretch[begin:end]), needle]
        parts.append(" ".join(stretch[places[-1] :]))
        asked = [at for at, (key, _) in enumerate(self.needles) if key in self.asked]
        query = enumeration(self.asked)
        return Draft(
            prompt=template.format(type_needle_v=kind, context=" ".join(parts), query=query),
            answer_prefix=prefix.format(type_needle_v=kind, query=query),
            answers=answers,
            depth=places[asked[0]] / len(stretch) if len(asked) == 1 else None,
            marks=tuple(needles[at] for at in asked),
        )


def enumeration(queries: Sequence[str]) -> str:
    """``a``, or ``a, and b``, or ``a, b, and c``: upstream's way to name what is asked for."""
    *most, last = queries
    return f"{', '.join(most)}, and {last}" if most else last
