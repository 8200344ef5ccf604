"""What a RULER task has to offer so that its samples can be sized exactly: recipes, draws and drafts.

A *recipe* is a task at one length with one tokenizer. A *draw* is one sample all of whose random choices are made
and only whose size, a number of units, is open: the same draw renders with any number of units, so searching for
the number that fits never touches the random generator again. A *draft* is the draw at one size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol


@dataclass(frozen=True)
class Draft:
    """A finished sample. ``depth`` is the asked needle's place (0 start, 1 end), ``None`` without a needle.

    ``marks`` stand verbatim in ``prompt``.
    """

    prompt: str
    answer_prefix: str
    answers: tuple[str, ...]
    depth: float | None = None
    marks: tuple[str, ...] = ()


class Draw(Protocol):
    """One sample of open size. Sizes are whole upstream units (sentences, needles, words)."""

    @property
    def smallest(self) -> int:
        """The fewest units with which the sample still asks its question."""

    @property
    def largest(self) -> int | None:
        """The most units there are, ``None`` when they never run out."""

    def render(self, size: int) -> Draft:
        """The sample with ``size`` units."""


class TaskRecipe(Protocol):
    """A task at one length: makes samples from random generators."""

    def draw(self, rng: Random, index: int = 0) -> Draw:
        """Make every random choice of sample ``index``."""


def places(fractions: Sequence[float], size: int) -> list[int]:
    """Distinct positions in ``range(size)``, ascending: a uniform random subset, as a function of ``fractions``.

    ``fractions`` are independent uniform numbers in [0, 1); there may be at most ``size``. Drawing fractions first
    keeps a needle at the same relative depth whatever size the search tries.
    """
    taken: list[int] = []
    for index, fraction in enumerate(fractions):
        place = int(fraction * (size - index))
        for other in taken:  # ascending: counts the free places only
            if place >= other:
                place += 1
        taken.append(place)
        taken.sort()
    return taken


def distinct(count: int, make: Callable[[], str]) -> list[str]:
    """``count`` different texts from a function that may repeat itself."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[make()] = None
    return list(found)
