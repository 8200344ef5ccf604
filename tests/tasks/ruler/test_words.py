"""Numbers and UUIDs are those of the standard library's own functions."""

from __future__ import annotations

import uuid
from random import Random

from lr2eval.tasks.ruler import words


def test_uuids() -> None:
    ours, theirs = Random(3), Random(3)
    for _ in range(200):
        assert words.uuid4(ours) == str(uuid.UUID(int=theirs.getrandbits(128), version=4))


def test_numbers() -> None:
    ours, theirs = Random(3), Random(3)
    for _ in range(200):
        assert words.number(ours) == str(theirs.randint(1_000_000, 9_999_999))
