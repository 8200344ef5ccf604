"""A thousand invented facts: the home town and the favourite food of 500 people who do not exist.

A model can only know them from training, so they measure what an extension does to knowledge learnt before it. The
table is a function of a fixed seed; names and towns are made of syllables.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

from lr2eval.tasks.exact.draft import distinct

PEOPLE = 500
OBJECTS = 40
CHOICES = 4
_SEED = 9
_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gr", "kr", "st", "tr")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("n", "r", "l", "s", "x", "")
_FOODS = (
    *("apples", "bacon", "beans", "bread", "butter", "cake", "carrots", "cheese", "cherries", "corn"),
    *("dates", "eggs", "figs", "fish", "garlic", "grapes", "ham", "honey", "jam", "lemons"),
    *("lentils", "melons", "milk", "mushrooms", "noodles", "nuts", "olives", "onions", "pasta", "peaches"),
    *("pears", "peas", "pepper", "plums", "potatoes", "rice", "soup", "spinach", "tomatoes", "yogurt"),
)


@dataclass(frozen=True)
class Fact:
    """``The {relation} of {subject} is {object}.``; ``objects`` are all that the relation has."""

    relation: str
    subject: str
    object: str
    objects: tuple[str, ...]

    @property
    def stem(self) -> str:
        """The sentence up to the object."""
        return f"The {self.relation} of {self.subject} is"

    def choices(self, rng: Random) -> tuple[str, ...]:
        """The object among three others of its relation, in random order."""
        found = [*rng.sample([other for other in self.objects if other != self.object], CHOICES - 1), self.object]
        rng.shuffle(found)
        return tuple(found)


@cache
def facts() -> tuple[Fact, ...]:
    """All 1,000, people in a fixed order, two for each."""
    rng = Random(_SEED)
    people = distinct(PEOPLE, lambda: f"{_word(rng)} {_word(rng)}")
    relations = {"home town": tuple(distinct(OBJECTS, lambda: _word(rng))), "favorite food": _FOODS}
    return tuple(
        Fact(relation, person, rng.choice(objects), objects)
        for person in people
        for relation, objects in relations.items()
    )


def _word(rng: Random) -> str:
    syllables = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(2))
    return syllables.capitalize() + rng.choice(_CODAS)
