"""RULER's metric: the share of the expected strings that occur in the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CONTROL = re.compile(r"[\x00-\x1f]")


def string_match_all(prediction: str, references: Sequence[str]) -> float:
    """Share (0..1) of ``references`` that are substrings of ``prediction``, letter case ignored.

    After ``string_match_all`` in ``scripts/eval/synthetic/constants.py`` of NVIDIA/RULER: control characters count
    as newlines and outer white space is dropped. Upstream reports the mean over samples times 100.
    """
    if not references:
        raise ValueError("string_match_all needs at least one reference")
    text = _CONTROL.sub("\n", prediction.strip()).strip().lower()
    return sum(reference.lower() in text for reference in references) / len(references)
