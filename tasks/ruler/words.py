"""Random words, numbers and UUIDs as upstream RULER draws them, from a given generator only."""

from __future__ import annotations

from functools import cache
from random import Random

_VERSION_4 = 0x4 << 76 | 0x8 << 60
_RANDOM_BITS = ~(0xF << 76 | 0xC << 60)


@cache
def listed(category: str) -> tuple[str, ...]:
    """Distinct words of one wonderwords list, sorted: the order of the package's files does not matter."""
    import wonderwords

    return tuple(sorted(set(wonderwords.RandomWord().filter(include_categories=[category]))))


@cache
def common_words() -> tuple[str, ...]:
    """Nouns, adjectives and verbs together, sorted and distinct: the word list of cwe."""
    return tuple(sorted({*listed("noun"), *listed("adjective"), *listed("verb")}))


def word(rng: Random) -> str:
    """``adjective-noun``. Upstream draws from the list of all pairs; drawing the halves is the same without it."""
    return f"{rng.choice(listed('adjective'))}-{rng.choice(listed('noun'))}"


def number(rng: Random) -> str:
    """Seven digits, the first not 0."""
    return str(rng.choice(range(1_000_000, 10_000_000)))  # quicker than randint, and the same


def uuid4(rng: Random) -> str:
    """A version-4 UUID."""
    digits = f"{rng.getrandbits(128) & _RANDOM_BITS | _VERSION_4:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
