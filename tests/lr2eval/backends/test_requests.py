from __future__ import annotations

import pytest

from lr2eval.backends.requests import TokenCache, cut_middle


def test_remembers_until_it_is_full_then_forgets_the_least_used() -> None:
    asked: list[str] = []
    cache = TokenCache(lambda text: asked.append(text) or [ord(c) for c in text], capacity=6)  # type: ignore[func-returns-value]
    assert [cache("abc"), cache("abc"), cache("de")] == [[97, 98, 99], [97, 98, 99], [100, 101]]
    cache("abc")
    cache("fg")  # seven ids: "de" goes
    assert cache("abc") == [97, 98, 99]
    assert asked == ["abc", "de", "fg"]
    cache("de")
    assert asked == ["abc", "de", "fg", "de"]
    assert cache("longer than all") == [ord(c) for c in "longer than all"]
    assert cache("\ud800") == [0xD800]


@pytest.mark.parametrize(("keep", "kept"), [(9, "abcdefg"), (7, "abcdefg"), (6, "abcefg"), (5, "abefg"), (1, "g")])
def test_the_middle_is_cut(keep: int, kept: str) -> None:
    assert cut_middle([ord(c) for c in "abcdefg"], keep) == [ord(c) for c in kept]
