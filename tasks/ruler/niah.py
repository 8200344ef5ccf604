"""Needle in a haystack: one sentence states a value for a key, the question asks for the value.

After ``scripts/data/synthetic/niah.py`` of NVIDIA/RULER. The haystack is a repeated noise sentence, or other needles
(then every line looks like the asked one). Lines are joined by newlines; the needle goes before a haystack line drawn
uniformly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from lr2eval.tasks.exact.draft import Draft, places
from lr2eval.tasks.ruler import words
from lr2eval.tasks.shared import upstream

Kind = Literal["words", "numbers", "uuids"]
RANDOM: dict[str, Callable[[Random], str]] = {"words": words.word, "numbers": words.number, "uuids": words.uuid4}


@dataclass(frozen=True)
class NiahRecipe:
    """``haystack`` is ``noise`` or ``needles``; ``keys`` and ``values`` say what stands in a needle."""

    haystack: Literal["noise", "needles"]
    keys: Kind
    values: Kind

    def draw(self, rng: Random, index: int = 0) -> NiahDraw:
        """Key, value and place first; the haystack has a generator of its own and is drawn as far as needed."""
        key, value, place = RANDOM[self.keys](rng), RANDOM[self.values](rng), rng.random()
        return NiahDraw(self, key, value, place, Random(rng.getrandbits(64)))

    def needle(self, key: str, value: str) -> str:
        """The sentence that states ``value`` for ``key``."""
        return upstream.niah_texts().needle.format(type_needle_v=self.values, key=key, value=value)


class NiahDraw:
    """One sample; a unit is one haystack line."""

    smallest = 1
    largest = None

    def __init__(self, recipe: NiahRecipe, key: str, value: str, place: float, rng: Random) -> None:
        self._recipe = recipe
        self._key = key
        self._value = value
        self._place = place
        self._rng = rng
        self._keys = {key}
        self._lines: list[str] = []

    def render(self, size: int) -> Draft:
        """The sample with ``size`` haystack lines and the needle."""
        texts = upstream.niah_texts()
        lines = self._haystack(size)[:size]
        (place,) = places([self._place], size)
        needle = self._recipe.needle(self._key, self._value)
        lines.insert(place, needle)
        kind = self._recipe.values.removesuffix("s")
        template = upstream.single_answer(texts.template)
        prefix = upstream.single_answer(texts.answer_prefix)
        return Draft(
            prompt=template.format(type_needle_v=kind, context="\n".join(lines), query=self._key),
            answer_prefix=prefix.format(type_needle_v=kind, query=self._key),
            answers=(self._value,),
            depth=place / size,
            marks=(needle,),
        )

    def _haystack(self, size: int) -> list[str]:
        if self._recipe.haystack == "noise":
            return [upstream.niah_texts().noise] * size
        new_key, new_value, rng = RANDOM[self._recipe.keys], RANDOM[self._recipe.values], self._rng
        before, between, after = self._recipe.needle("\0", "\0").split("\0")
        while len(self._lines) < size:
            key, value = new_key(rng), new_value(rng)
            line = f"{before}{key}{between}{value}{after}"
            # Upstream lets a haystack line repeat the asked key or value by chance; then two answers would be right.
            if key not in self._keys and self._value not in line:
                self._keys.add(key)
                self._lines.append(line)
        return self._lines
