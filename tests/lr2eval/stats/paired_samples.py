"""What the tests of paired statistics share: binary samples from a 2 x 2 table, and how many examples to try."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from scipy import stats

from lr2eval.stats.paired import Paired

Z90 = float(stats.norm.ppf(0.95))
counts = st.integers(0, 60)
modest = settings(deadline=None, max_examples=50)
confidences = st.sampled_from([0.8, 0.9, 0.95, 0.99])


def binary(both: int, lost: int, gained: int, neither: int) -> Paired:
    original = np.repeat([1.0, 1.0, 0.0, 0.0], [both, lost, gained, neither])
    extended = np.repeat([1.0, 0.0, 1.0, 0.0], [both, lost, gained, neither])
    return Paired(original, extended)
