"""Two indices that say where a rescaled RoPE stops being the original one. Plain arithmetic, no torch or numpy.

Rotary pair ``i`` (0-based, of ``d/2``) turns once in ``2 pi b^(2i/d)`` tokens. LongRoPE2 (arXiv 2502.20082, equations
7, 9 and 10) argues that pairs whose period exceeds the original window ``Lt`` were never trained on a whole turn, so
that their factors must reach ``s = L / Lt``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def theoretical_index(rotary_dim: int, base: float, window: int) -> int:
    """``d_tcd`` as a pair index: ``ceil((d/2) log_b(Lt / 2 pi))``, the first pair whose period is at least ``Lt``.

    The paper's own ``d_tcd`` is twice this number (equation 7). 0 where already the first pair's period is that long.
    """
    return max(0, math.ceil(rotary_dim / 2 * math.log(window / (2 * math.pi)) / math.log(base)))


def real_index(factors: Sequence[float], scale: float) -> int | None:
    """``d_rcd``: the first pair whose factor is at least ``s``; ``None`` where none is."""
    return next((i for i, factor in enumerate(factors) if factor >= scale), None)


def rope_facts(rope_type: str, rope: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_scale``, ``d_tcd`` and ``d_rcd`` of a longrope checkpoint, each ``None`` where its folder does not tell.

    ``rope`` holds the RoPE parameters, ``config`` the whole configuration: some keep ``rope_theta`` and the windows in
    the one, some in the other.
    """
    facts: dict[str, Any] = {"rope_scale": None, "d_tcd": None, "d_rcd": None}
    if rope_type != "longrope":
        return facts
    factors = rope["long_factor"]
    original = config.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
    target, base = config.get("max_position_embeddings"), rope.get("rope_theta") or config.get("rope_theta")
    if original and target:
        facts["rope_scale"] = target / original
        facts["d_rcd"] = real_index(factors, target / original)
    if original and isinstance(base, int | float) and base > 1:
        facts["d_tcd"] = theoretical_index(2 * len(factors), base, original)
    return facts
