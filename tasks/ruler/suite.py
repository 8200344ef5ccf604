"""What a RULER task is, the tasks that need no outside text, and the version of the suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lr2eval.benchmark import Scalar
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact.draft import TaskRecipe
from lr2eval.tasks.ruler.cwe import BEYOND, CweRecipe
from lr2eval.tasks.ruler.fwe import FweRecipe
from lr2eval.tasks.ruler.niah import NiahRecipe
from lr2eval.tasks.ruler.vt import VtRecipe
from lr2eval.tasks.shared import upstream

VERSION = "1"
"""Part of every sample's identity and seed: raise it when the same identity would give another text."""
FIXED_ORDER = ("niah_multikey_1", "niah_multivalue", "niah_multiquery", "cwe", "fwe", "qa_1", "qa_2")
"""Tasks that NVIDIA/RULER shuffles by one seed. The others have nothing to shuffle."""


@dataclass(frozen=True)
class RulerTask:
    """One task of the suite. ``recipe`` makes it for a tokenizer, a length (tokens) and a seed.

    ``facts`` describe its text in manifest and report. ``available`` is the number of its samples, ``None`` if there
    is no end. ``version`` is part of the identity of its samples, :data:`VERSION` of their seeds.
    """

    name: str
    description: str
    haystack: str
    min_length: int
    recipe: Callable[[PromptTokenizer, int, int], TaskRecipe]
    metric: str = "string_match_all"
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    available: int | None = None
    version: str = VERSION

    @property
    def max_new_tokens(self) -> int:
        """Tokens to generate."""
        return upstream.texts_of(self.name).max_new_tokens

    def as_nvidia(self) -> RulerTask:
        """The task with the fixed order of NVIDIA/RULER."""
        if self.name not in FIXED_ORDER:
            return self

        def recipe(*given: Any) -> Any:
            made: Any = self.recipe(*given)
            return replace(made, fixed_order=True)

        facts = {**self.facts, "order": "nvidia"}
        return replace(self, recipe=recipe, facts=facts, version=f"{self.version}+nvidia")


TASKS: dict[str, RulerTask] = {
    task.name: task
    for task in (
        RulerTask(
            "niah_single_1",
            "one word -> number needle in a repeated noise sentence",
            "noise",
            512,
            lambda tokenizer, length, seed: NiahRecipe("noise", "words", "numbers"),
        ),
        RulerTask(
            "niah_multikey_2",
            "one word -> number needle; the whole text is similar needles",
            "needles",
            512,
            lambda tokenizer, length, seed: NiahRecipe("needles", "words", "numbers"),
        ),
        RulerTask(
            "niah_multikey_3",
            "one UUID -> UUID needle; the whole text is similar needles",
            "needles",
            1024,
            lambda tokenizer, length, seed: NiahRecipe("needles", "uuids", "uuids"),
        ),
        RulerTask(
            "vt",
            "follow a value through five variable assignments hidden in noise",
            "noise",
            1024,
            lambda tokenizer, length, seed: VtRecipe.make(tokenizer, VERSION, seed),
        ),
        RulerTask(
            "cwe",
            "name the ten most common words of a numbered list",
            "words",
            1024,
            lambda tokenizer, length, seed: CweRecipe.make(length),
            facts={"word_list": BEYOND},
        ),
        RulerTask(
            "fwe",
            "name the three most frequent coded words",
            "coded words",
            512,
            lambda tokenizer, length, seed: FweRecipe.make(length),
        ),
    )
}
