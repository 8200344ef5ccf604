"""What every benchmark does with a selector and a limit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lr2eval._errors import TaskError
from lr2eval._registry import suggestion


def one_or_all(benchmark: str, selector: str | None, names: Sequence[str]) -> list[str]:
    """All ``names`` without a selector, else the selected one; :class:`TaskError` suggests the nearest."""
    if selector is None:
        return list(names)
    if selector in names:
        return [selector]
    raise TaskError(f"{benchmark}:{selector}: {benchmark} has no such task; {suggestion(selector, names)}")


def limited(count: int, limit: int | float | None) -> int:
    """How many of ``count`` samples a limit leaves: at most ``limit``, or this share of them (rounded up)."""
    if limit is None:
        return count
    if limit <= 0:
        raise TaskError(f"--limit {limit}: must be above 0 (a number of samples, or a share below 1)")
    share = isinstance(limit, float) and limit < 1
    return min(count, math.ceil(count * limit) if share else int(limit))
