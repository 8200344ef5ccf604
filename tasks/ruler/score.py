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

    lm-eval's port differs: :func:`lm_eval_string_match_part`.
    """
    return float(any(_found(prediction, references)))


def lm_eval_string_match_part(prediction: str, references: Sequence[str]) -> float:
    """Share (0..1) of ``references`` found: how lm-eval's port scores the qa tasks (``tasks/ruler/common_utils.py``).

    It takes the best of several predictions there and is called with one, so nothing is left of "part". An answer
    that the data set lists twice counts twice.
    """
    return string_match_all(prediction, references)


def _found(prediction: str, references: Sequence[str]) -> list[bool]:
    if not references:
        raise ValueError("a string match needs at least one reference")
    text = _CONTROL.sub("\n", prediction.strip()).strip().lower()
    return [reference.lower() in text for reference in references]


METRICS = {each.__name__: each for each in (string_match_all, string_match_part, lm_eval_string_match_part)}
COMPAT = {"lm-eval": {"string_match_part": "lm_eval_string_match_part"}}
"""Scorings beside NVIDIA/RULER's: which metrics they replace. lm-eval's other metric is upstream's."""
