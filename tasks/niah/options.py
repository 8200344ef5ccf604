"""``--set niah.key=value``: the depths of the grid, the samples in each cell, the needles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

from lr2eval.base.settings import refuse_unknown
from lr2eval.base.wording import Wording
from lr2eval.errors import UsageError
from lr2eval.tasks.exact.draft import distinct
from lr2eval.tasks.ruler import words
from lr2eval.tasks.shared import upstream

DEPTHS = 11
HAYSTACK = ("haystack", "repeat")
"""Options that :func:`lr2eval.tasks.haystacks.load` reads."""
_MOST = {"samples_per_cell": 10_000, "needles": 32, "distractors": 32, "tokens_per_value": 1_024}
Places = Literal["sentences", "words"]


@dataclass(frozen=True)
class Grid:
    """``depths`` are places in the haystack, 0 start to 1 end, ascending."""

    depths: tuple[float, ...]
    samples_per_cell: int = 5
    needles: int = 4
    """Needles of a sample of the ``multi`` variant."""
    distractors: int = 4
    """Needles with similar keys in a sample of the ``distractor`` variant."""
    tokens_per_value: int = 32
    """To generate for each asked value."""
    wording: Wording | None = None
    """Other words, for instance in another language; then the keys of distractors are its other keys."""
    places: Places = "sentences"
    """Where needles may stand: between sentences, or between any two words of a text that has none."""

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Grid:
        """From what ``--set`` gave. Raises :class:`UsageError` for an unknown option or a value it cannot have."""
        known = ("depths", *_MOST, *HAYSTACK, "wording", "places", "workers", "samples")
        refuse_unknown(options, known, group="niah")
        counts = {key: _count(key, options[key], most) for key, most in _MOST.items() if key in options}
        places = options.get("places", "sentences")
        if places not in get_args(Places):
            raise UsageError(f"--set niah.places={places}: choose {' or '.join(get_args(Places))}")
        wording = _wording(str(options["wording"])) if "wording" in options else None
        return cls(depths=_depths(options.get("depths", DEPTHS)), wording=wording, places=places, **counts)

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from the usual words and places; empty for the grid as it always was."""
        found: dict[str, Any] = {} if self.wording is None else {"wording": asdict(self.wording)}
        return found | ({} if self.places == "sentences" else {"places": self.places})


def _wording(given: str) -> Wording:
    return ruler_wording() if given == RULER_WORDS else Wording.read(Path(given))


def _count(key: str, value: Any, most: int) -> int:
    least = 2 if key == "needles" else 1
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError(f"--set niah.{key}={value}: must be a whole number from {least} to {most}")
    return value


def _depths(value: Any) -> tuple[float, ...]:
    """A number of depths from start to end, or the depths themselves in percent: ``0,50,100``."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 2 <= value <= 101:
            raise UsageError(f"--set niah.depths={value}: must be from 2 to 101")
        return tuple(round(number / (value - 1), 6) for number in range(value))
    parts: Sequence[Any] = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        if isinstance(value, bool):
            raise TypeError("true and false are not depths")
        found = {round(float(part) / 100, 6) for part in parts}
    except (TypeError, ValueError):
        found = set()
    if not found or not all(0 <= depth <= 1 for depth in found):
        raise UsageError(
            f"--set niah.depths={value}: write a number of depths (11) or a list of percents from 0 to 100 (0,50,100)"
        )
    return tuple(sorted(found))


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
