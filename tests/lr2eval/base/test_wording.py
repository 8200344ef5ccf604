"""A file of words is checked whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lr2eval.base.wording import Wording
from lr2eval.errors import UsageError


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "not a JSON object"),
        ({"needle": 1}, "needle must be a text"),
        ({"keys": "a"}, "keys must be a list of texts"),
        ({"keys": []}, "keys is empty"),
        ({"neddle": "x"}, "neddle: unknown option"),
        ({"needle": "{key} {value} {other}"}, "needle must hold {key} and {value}"),
        ({"needle": "{key} {value:>9999999999}"}, "without a format"),
        ({"needle": "{key!r} {value}"}, "without a format"),
        ({"needle": "{key.__class__} {value}"}, "no fields other than"),
        ({"needle": "{key} {value"}, "expected '}' before end of string"),
    ],
)
def test_wrong_words_are_one_line(value: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UsageError) as caught:
        Wording.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)
