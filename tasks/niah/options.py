"""``--set niah.key=value``: the depths of the grid, the samples in each cell, the needles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache, cached_property
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lr2eval.base.config import Kind
from lr2eval.base.wording import Wording
from lr2eval.tasks.exact.draft import distinct
from lr2eval.tasks.ruler import words
from lr2eval.tasks.shared import upstream
from lr2eval.tasks.shared.options import DataOptions

Places = Literal["sentences", "words"]


RULER_WORDS = "ruler"


KEYS = 2000


@cache
def ruler_wording() -> Wording:
    """The texts of the installed lm-eval for one number; keys are adjective-noun pairs, the same ones every time."""
    texts, rng = upstream.niah_texts(), Random(0)
    keys = distinct(KEYS, lambda: words.word(rng))
    before, after = upstream.single_answer(texts.template).format(
        type_needle_v="number", context="\0", query="{key}"
    ).split("\0")  # fmt: skip
    return Wording(
        instruction=before,
        needle=" " + texts.needle.format(type_needle_v="numbers", key="{key}", value="{value}"),
        question=after,
        stem=upstream.single_answer(texts.answer_prefix).format(type_needle_v="number", query="{key}"),
        keys=tuple(keys),
    )


def _depths(value: Any) -> tuple[float, ...]:
    """A number of depths from start to end, or the depths themselves in percent: ``0,50,100``."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 2 <= value <= 101:
            raise ValueError("must be from 2 to 101")
        return tuple(round(number / (value - 1), 6) for number in range(value))
    parts: Sequence[Any] = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        if isinstance(value, bool):
            raise TypeError("true and false are not depths")
        found = {round(float(part) / 100, 6) for part in parts}
    except (TypeError, ValueError):
        found = set()
    if not found or not all(0 <= depth <= 1 for depth in found):
        raise ValueError("write a number of depths (11) or a list of percents from 0 to 100 (0,50,100)")
    return tuple(sorted(found))


class NiahOptions(DataOptions):
    """``--set niah.key=value``."""

    PREFIX = "niah"

    depths: Annotated[tuple[float, ...], BeforeValidator(_depths), Kind("depths")] = _depths(11)
    """The number of needle depths from start to end, or the depths in percent: 0,50,100. Default: 11."""
    samples_per_cell: int = Field(5, ge=1, le=10_000, strict=True)
    """The number of samples at each depth and length."""
    needles: int = Field(4, ge=2, le=32, strict=True)
    """The number of needles in a sample of niah:multi."""
    distractors: int = Field(4, ge=1, le=32, strict=True)
    """The number of needles with similar keys in a sample of niah:distractor."""
    tokens_per_value: int = Field(32, ge=1, le=1_024, strict=True)
    """The tokens that an answer may have for each value."""
    wording: str | None = None
    """A JSON file with the words around a needle, or ruler for RULER's words. Default: the built-in words."""
    places: Places = "sentences"
    """Where needles may be: between sentences, or between any two words."""

    @cached_property
    def words(self) -> Wording | None:
        """Other words around a needle; then the keys of distractors are its other keys. The file is read once."""
        given = self.wording
        return None if given is None else ruler_wording() if given == RULER_WORDS else Wording.read(Path(given))

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from the usual words and places; empty for the grid as it always was."""
        found: dict[str, Any] = {} if self.words is None else {"wording": asdict(self.words)}
        return found | ({} if self.places == "sentences" else {"places": self.places})
