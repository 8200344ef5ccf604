"""The score of an answer: the share of the asked values that stand in it as whole numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence


def found(answer: str, values: Sequence[str]) -> float:
    """Share (0..1) of ``values`` in ``answer``; one inside a longer run of digits does not count.

    The order does not matter and neither do the words around: values are random numbers that nobody can guess or
    paraphrase, so no judge is needed.
    """
    if not values:
        raise ValueError("an answer is scored against at least one value")
    return sum(re.search(rf"(?<!\d){re.escape(value)}(?!\d)", answer) is not None for value in values) / len(values)
