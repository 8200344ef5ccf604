"""Unknown and renamed option keys."""

from __future__ import annotations

import pytest

from lr2eval.base.settings import refuse_unknown
from lr2eval.errors import UsageError


def test_known_keys_pass() -> None:
    refuse_unknown(["depths", "words"], {"depths": 1, "words": 2})


@pytest.mark.parametrize(
    ("key", "known", "group", "said"),
    [
        ("depth", ["depths", "words"], "niah", "niah.depth: unknown option; did you mean niah.depths?"),
        ("depth", ["depths", "words"], "", "depth: unknown option; did you mean depths?"),
        ("zzz", ["words", "depths"], "niah", "niah.zzz: unknown option; the options are depths, words"),
        ("zzz", list("abcdefghijklmn"), "", "zzz: unknown option; --help-all lists all options"),
        ("zzz", [], "facts", "facts.zzz: unknown option; facts has no options"),
        ("places", ["depths"], "niah", "niah.places is now called niah.depths"),
    ],
)
def test_an_unknown_key_names_the_nearest(key: str, known: list[str], group: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        refuse_unknown([key], known, group=group, renamed={"places": "niah.depths"})
    assert str(caught.value) == said
