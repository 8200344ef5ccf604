"""``niah.wording=ruler``: the grid in the words of RULER's niah tasks, for models that know no others."""

from __future__ import annotations

from functools import cache
from random import Random

from lr2eval._wording import Wording
from lr2eval.tasks import _upstream
from lr2eval.tasks.ruler import words

NAME = "ruler"
KEYS = 2000


@cache
def ruler_wording() -> Wording:
    """The texts of the installed lm-eval for one number; keys are adjective-noun pairs, the same ones every time."""
    texts, rng = _upstream.niah_texts(), Random(0)
    keys: dict[str, None] = {}
    while len(keys) < KEYS:
        keys[words.word(rng)] = None
    before, after = _upstream.single_answer(texts.template).format(
        type_needle_v="number", context="\0", query="{key}"
    ).split("\0")  # fmt: skip
    return Wording(
        instruction=before,
        needle=" " + texts.needle.format(type_needle_v="numbers", key="{key}", value="{value}"),
        question=after,
        stem=_upstream.single_answer(texts.answer_prefix).format(type_needle_v="number", query="{key}"),
        keys=tuple(keys),
    )
