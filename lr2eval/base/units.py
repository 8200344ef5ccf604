"""Lengths, bytes, counts and seconds: what people write, and what they read."""

from __future__ import annotations

import math
import re

from lr2eval.errors import UsageError

_MOST = 2**53
"""More tokens or bytes than anyone has; up to here, a float is exact."""


def parse_length(value: str | int) -> int:
    """``4096``, ``"4096"`` or ``"4k"`` -> 4096 (k = 1024, m = 1048576)."""
    text = str(value).strip().lower()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([km]?)", text)
    if not match:
        raise ValueError(f"{value!r:.40} is not a length; write 4096 or 4k")
    number = float(match[1]) * {"": 1, "k": 1024, "m": 1024**2}[match[2]]
    if not 1 <= number < _MOST or not number.is_integer():
        raise ValueError(f"{value!r:.40} is not a whole number of tokens")
    return int(number)


def format_length(length: int) -> str:
    """4096 -> ``4k``; lengths that are no multiple of 1024 stay numbers."""
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)


def parse_bytes(text: str) -> int:
    """``8GiB``, ``500MB`` or plain bytes -> bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", text.lower())
    base = 1024 if match and match[3] else 1000
    number = float(match[1]) * base ** " kmgt".index(match[2] or " ") if match else math.inf
    if number >= _MOST:
        raise UsageError(f"memory_limit {text!r:.40}: write a number of bytes such as 8GiB or 500MB")
    return int(number)


def parse_lengths(text: str) -> tuple[int, ...]:
    """``4k..128k`` doubles from the first to the last; else a comma list. :class:`ValueError` for anything else."""
    first, dots, last = text.partition("..")
    if not dots:
        return tuple(parse_length(part) for part in text.split(","))
    found, end = [parse_length(first)], parse_length(last)
    if end < found[0]:
        raise ValueError(f"{text!r} ends before it begins")
    while found[-1] * 2 <= end:
        found.append(found[-1] * 2)
    return tuple(dict.fromkeys((*found, end)))


def parse_count(text: str | int) -> int:
    """``10B``, ``500M`` or plain digits -> tokens (powers of 1000). :class:`ValueError` for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mb]?)", str(text).strip().lower())
    number = float(match[1]) * {"": 1, "m": 1e6, "b": 1e9}[match[2]] if match else math.inf
    if number >= _MOST:
        raise ValueError("write a number of tokens such as 10B or 500M")
    return round(number)


def format_seconds(seconds: float) -> str:
    """``95`` -> ``1 min 35 s``; for people, not for machines."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 90:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
