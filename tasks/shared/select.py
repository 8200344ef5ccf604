"""Selectors, limits and numbers of samples by length: the same for every benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lr2eval.base.console import suggestion
from lr2eval.base.units import parse_length
from lr2eval.errors import TaskError, UsageError


def one_or_all(
    benchmark: str, selector: str | None, names: Sequence[str], groups: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """All ``names`` without a selector, else the selected name or group. :class:`TaskError` suggests the nearest."""
    if selector is None:
        return list(names)
    known = {name: [name] for name in names} | dict(groups or {})
    if selector in known:
        return list(known[selector])
    raise TaskError(f"{benchmark}:{selector}: {benchmark} has no such task; {suggestion(selector, [*known])}")


def limited(count: int, limit: int | float | None) -> int:
    """How many of ``count`` samples a limit leaves: at most ``limit``, or this share of them (rounded up)."""
    if limit is None:
        return count
    if limit <= 0:
        raise TaskError(f"--limit {limit}: must be above 0 (a number of samples, or a share below 1)")
    share = isinstance(limit, float) and limit < 1
    return min(count, math.ceil(count * limit) if share else int(limit))


def by_length(benchmark: str, asked: Any, lengths: Sequence[int]) -> dict[int, int]:
    """``--set 'ruler.samples={"4k": 500}'``: length (tokens) -> its own number of samples."""
    found: dict[int, int] = {}
    try:
        for length, count in asked.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{count!r} is not a number of samples")
            found[parse_length(length)] = count
    except ValueError as error:
        raise UsageError(
            f'--set {benchmark}.samples={asked}: {error}; write lengths and numbers of samples as {{"4k": 500}}'
        ) from error
    if other := [length for length in found if length not in lengths]:
        raise UsageError(f"--set {benchmark}.samples: {other[0]} tokens is not among --lengths; add it there")
    return found
