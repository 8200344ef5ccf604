"""Values that a default evaluation of the needle tasks asks for: whoever trains a model must leave them out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random

from lr2eval.base import ids
from lr2eval.tasks.haystacks import Haystack, filler
from lr2eval.tasks.ruler.essay import EssayRecipe
from lr2eval.tasks.ruler.generate import full_name
from lr2eval.tasks.ruler.niah import NiahRecipe
from lr2eval.tasks.ruler.suite import VERSION

SEED = 0
"""The one that runs have unless another is given."""
LENGTHS = (512, 1024, 2048, 4096, 8192)
SAMPLES = 500


@cache
def values() -> frozenset[str]:
    """Answers of the tasks with numbers, for the first 500 samples at 512 to 8192 tokens."""
    return frozenset(_drawn())


def _drawn() -> Iterator[str]:
    # What is drawn depends on the task and not on the text in which it is hidden.
    text = Haystack(filler.NAME, False, filler.pieces())
    tasks: dict[str, NiahRecipe | EssayRecipe] = {
        "niah_single_1": NiahRecipe("noise", "words", "numbers"),
        "niah_single_2": EssayRecipe(text, "numbers"),
        "niah_multikey_1": EssayRecipe(text, "numbers", keys=4),
        "niah_multikey_2": NiahRecipe("needles", "words", "numbers"),
        "niah_multivalue": EssayRecipe(text, "numbers", values=4),
        "niah_multiquery": EssayRecipe(text, "numbers", keys=4, queries=4),
    }
    for task, recipe in tasks.items():
        for length in LENGTHS:
            for index in range(SAMPLES):
                draw = recipe.draw(Random(ids.sample_seed(VERSION, full_name(task), length, index, SEED)))
                yield from draw.render(draw.smallest).answers
