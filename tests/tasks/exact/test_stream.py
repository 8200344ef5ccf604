"""The order of a shuffled list that grows: that of the keys which Python's own generator draws."""

from __future__ import annotations

from random import Random

import pytest

from lr2eval.tasks.exact.stream import ShuffledStream


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63 + 12345, 2**64 - 1])
def test_order_is_that_of_pythons_random_numbers(seed: int) -> None:
    stream, drawn = ShuffledStream(seed), Random(seed)
    keys = [drawn.random() for _ in range(50)]
    for size in (1, 20, 50):
        stream.add(map(str, range(len(stream), size)))
    for count in (0, 1, 7, 20, 50):
        assert stream.first(count) == [str(entry) for entry in sorted(range(count), key=keys.__getitem__)]
