"""Lengths and sizes that nobody has."""

from __future__ import annotations

import pytest

from lr2eval.base.units import parse_bytes, parse_count, parse_length, parse_lengths
from lr2eval.errors import UsageError


@pytest.mark.parametrize("text", ["9" * 400, "9" * 20, "9007199254740992", "0", "-1", "", "x", "1.5", "inf", "1..2"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a (length|whole number)"):
        parse_length(text)


def test_sizes_have_an_end() -> None:
    assert (parse_length("4k"), parse_lengths("4k..16k"), parse_bytes("2KiB"), parse_count("1.5B")) == (
        4096, (4096, 8192, 16384), 2048, 1_500_000_000,
    )  # fmt: skip
    for text in ("9" * 400 + "GiB", "9" * 20, "", "GiB"):
        with pytest.raises(UsageError, match="write a number of bytes"):
            parse_bytes(text)
        with pytest.raises(ValueError, match="write a number of tokens"):
            parse_count(text)
