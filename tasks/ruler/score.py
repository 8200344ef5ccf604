"""RULER's metrics: which of the expected strings occur in the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f]")


def string_match_all(prediction: str, references: Sequence[str]) -> float:
    """Share (0..1) of ``references`` that are substrings of ``prediction``, letter case ignored.

    After ``string_match_all`` in ``scripts/eval/synthetic/constants.py`` of NVIDIA/RULER: control characters count
    as newlines and outer white space is dropped. Upstream reports the mean over samples times 100.
    """
    found = _found(prediction, references)
    return sum(found) / len(found)


def string_match_part(prediction: str, references: Sequence[str]) -> float:
    """1 if any of ``references`` is a substring of ``prediction``, else 0: upstream's metric of the qa tasks.

    lm-eval's port takes the share of them instead, so an answer listed twice and another missed count there.
    """
    return float(any(_found(prediction, references)))


def _found(prediction: str, references: Sequence[str]) -> list[bool]:
    if not references:
        raise ValueError("a string match needs at least one reference")
    text = _CONTROL.sub("\n", prediction.strip()).strip().lower()
    return [reference.lower() in text for reference in references]


METRICS = {"string_match_all": string_match_all, "string_match_part": string_match_part}
