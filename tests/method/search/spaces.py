"""What every candidate of a search space must satisfy."""

from __future__ import annotations

from itertools import pairwise

from lr2eval.method.search.space import Candidate, Space


def holds(space: Space, candidate: Candidate) -> bool:
    """Whether a candidate lies in a space."""
    right = candidate.right
    bounded = space.low <= right[0] and right[-1] <= space.high
    rising = all(a < b for a, b in pairwise(right))
    return candidate.split == space.split and len(right) == space.size and bounded and rising
