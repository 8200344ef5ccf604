"""Periods and critical indices of a RoPE. Plain arithmetic, no torch or numpy; imports nothing of this package.

Rotary pair ``i`` (0-based, of ``d/2``) turns once in ``2 pi b^(2i/d)`` tokens. LongRoPE2 (arXiv 2502.20082, equations
7, 9 and 10) argues that pairs whose period exceeds the original window ``Lt`` were never trained on a whole turn, so
that their factors must reach ``s = L / Lt``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

CLIPPED = 1e12
"""The factor of a pair that has no position any more: its angle stays below 1e-5 up to 10M tokens."""


def periods(rotary_dim: int, base: float) -> tuple[float, ...]:
    """Tokens in which each of the ``rotary_dim / 2`` pairs turns once: ``2 pi b^(2i/d)``."""
    return tuple(2 * math.pi * base ** (2 * i / rotary_dim) for i in range(rotary_dim // 2))


def theoretical_index(rotary_dim: int, base: float, window: int, turns: float = 1.0) -> int:
    """``d_tcd`` as a pair index: ``ceil((d/2) log_b(Lt / 2 pi))``, the first pair whose period is at least ``Lt``.

    With ``turns``, the first pair that turns at most so often in ``Lt`` tokens; 10 gives the paper's ``d10_tcd``
    (algorithm 1). The paper's own ``d_tcd`` is twice this number (equation 7). 0 where already the first pair's period
    is that long; at least ``rotary_dim / 2`` where no pair's is.
    """
    return max(0, math.ceil(rotary_dim / 2 * math.log(window / (2 * math.pi * turns)) / math.log(base)))


def real_index(factors: Sequence[float], scale: float) -> int | None:
    """``d_rcd``: the first pair whose factor is at least ``s``; ``None`` where none is."""
    return next((i for i, factor in enumerate(factors) if factor >= scale), None)


def split_index(factors: Sequence[float]) -> int | None:
    """The pair that the left side of LongRoPE2's factors was made from: the largest ``k`` with ``f_i = f_k^(i/k)``
    below it, to six digits.

    ``None`` where no pair from the third to the last but one fits: then no right side was chosen freely.
    """
    for k in range(len(factors) - 2, 1, -1):
        top = factors[k]
        if top > 1 and all(math.isclose(factors[i], top ** (i / k), rel_tol=1e-6) for i in range(k)):
            # The whole vector may follow one base (NTK): then k is only where the comparison began.
            whole = math.isclose(factors[-1], top ** ((len(factors) - 1) / k), rel_tol=1e-6)
            return None if whole and k == len(factors) - 2 else k
    return None


def below_bound(factors: Sequence[float], scale: float, first: int) -> tuple[int, ...]:
    """Pairs from ``first`` (``d_tcd``) whose factor is below ``s``: at ``L`` tokens they leave the trained angles."""
    return tuple(i for i in range(first, len(factors)) if factors[i] < scale)


def is_increasing(factors: Sequence[float]) -> bool:
    """Whether no factor is smaller than the one before it."""
    return all(a <= b for a, b in pairwise(factors))


def rope_facts(rope_type: str, rope: Mapping[str, Any], window: int, original: int | None) -> dict[str, Any]:
    """``rope_scale``, ``d_tcd`` and ``d_rcd`` of a longrope checkpoint with these windows; ``None`` for any other."""
    if rope_type != "longrope" or original is None:
        return {"rope_scale": None, "d_tcd": None, "d_rcd": None}
    factors, base = rope["long_factor"], rope["rope_theta"]
    return {
        "rope_scale": window / original,
        "d_rcd": real_index(factors, window / original),
        "d_tcd": theoretical_index(2 * len(factors), base, original) if base > 1 else None,
    }
