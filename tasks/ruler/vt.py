"""Variable tracking: five assignments, each passing on the value of the one before, hidden in noise.

After ``scripts/data/synthetic/variable_tracking.py`` of NVIDIA/RULER with its defaults (one chain, four hops). A
solved example of at most 500 tokens stands in front. Upstream builds the example once and gives it new names and a new
value for every sample; so do we: its noise and its places are fixed by seed and tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random
from string import ascii_uppercase

from lr2eval.base import ids
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact.draft import Draft, places
from lr2eval.tasks.exact.fit import TooSmallError, largest_fitting
from lr2eval.tasks.shared import upstream

HOPS = 4
EXAMPLE_TOKENS = 500
NAME_LETTERS, EXAMPLE_NAME_LETTERS = 5, 3


@dataclass(frozen=True)
class Chain:
    """Variable names in the order of assignment, the value of the first, and where the assignments stand."""

    names: tuple[str, ...]
    value: str
    fractions: tuple[float, ...]

    def statements(self) -> list[str]:
        """The assignments. Upstream leaves a space at the end of all but the first."""
        copies = [f"VAR {new} = VAR {old} " for old, new in pairwise(self.names)]
        return [f"VAR {self.names[0]} = {self.value}", *copies]

    def context(self, size: int) -> str:
        """``size`` noise lines with the assignments between them, in order."""
        lines = [upstream.niah_texts().noise] * size
        for shift, (place, text) in enumerate(zip(places(self.fractions, size), self.statements(), strict=True)):
            lines.insert(place + shift, text)
        return "\n".join(lines)

    def draft(self, size: int, before: str = "") -> Draft:
        """Question over this chain in ``size`` noise lines; ``before`` precedes it in the prompt."""
        texts = upstream.task_texts("vt")
        return Draft(
            prompt=before + texts.template.format(context=self.context(size), query=self.value),
            answer_prefix=texts.answer_prefix.format(num_v=len(self.names), query=self.value),
            answers=self.names,
            marks=tuple(text.strip() for text in self.statements()),
        )


@dataclass(frozen=True)
class VtRecipe:
    """``example_size`` noise lines and the places of the example's assignments are the same for all samples."""

    example_size: int
    example_fractions: tuple[float, ...]

    @classmethod
    def make(cls, tokenizer: PromptTokenizer, version: str, seed: int) -> VtRecipe:
        """Size the solved example: the most noise lines with which it stays within 500 bare tokens.

        With a tokenizer that needs more for the fewest lines, it has the fewest (upstream would never return).
        """
        rng = Random(ids.sample_seed(version, "vt/example", None, 0, seed))
        chain = _chain(rng, EXAMPLE_NAME_LETTERS)
        bare = tokenizer.with_chat(False)
        try:
            size = largest_fitting(VtDraw(chain, ""), bare, EXAMPLE_TOKENS).size
        except TooSmallError:
            size = VtDraw.smallest
        return cls(size, chain.fractions)

    def draw(self, rng: Random, index: int = 0) -> VtDraw:
        """A chain of its own and new names and a new value for the example."""
        chain = _chain(rng, NAME_LETTERS)
        # Equal values would make the example's variables right answers to the question as well.
        other = _chain(rng, EXAMPLE_NAME_LETTERS, not_value=chain.value)
        solved = Chain(other.names, other.value, self.example_fractions).draft(self.example_size)
        example = f"{solved.prompt}{solved.answer_prefix} {' '.join(solved.answers)}\n\n"
        return VtDraw(chain, example)


@dataclass(frozen=True)
class VtDraw:
    """One sample; a unit is one noise line."""

    chain: Chain
    example: str

    smallest = HOPS + 1
    largest = None

    def render(self, size: int) -> Draft:
        """The sample with ``size`` noise lines."""
        return self.chain.draft(size, before=self.example)


def _chain(rng: Random, letters: int, not_value: str = "") -> Chain:
    names: list[str] = []
    while len(names) < HOPS + 1:
        name = "".join(rng.choices(ascii_uppercase, k=letters))
        if name not in names and name != "VAR":  # VAR is the keyword of the assignments
            names.append(name)
    value = not_value
    while value == not_value:
        value = str(rng.randint(10_000, 99_998))
    return Chain(tuple(names), value, tuple(rng.random() for _ in range(HOPS + 1)))
