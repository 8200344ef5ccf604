from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lr2eval.errors import UsageError
from lr2eval.method.rope import rules
from lr2eval.method.rope.files import read_factors
from tests.method import published
from tests.method.published import write_csv


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=64))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_csv_gives_back_the_same_numbers(tmp_path: Path, factors: list[float]) -> None:
    write_csv(tmp_path / "f.csv", factors)
    found = read_factors(tmp_path / "f.csv")
    assert found.factors == tuple(factors)
    assert found.sha256 == hashlib.sha256((tmp_path / "f.csv").read_bytes()).hexdigest()
    assert len((tmp_path / "f.csv").read_text().splitlines()) == len(factors)


def test_a_whole_scaling_comes_back_with_its_search(tmp_path: Path) -> None:
    made = rules.longrope2(published.LLAMA3, published.TARGET, split=33, right=published.LLAMA3_RIGHT)
    search = {"digest": "ab12", "needle_perplexity": {"yarn": 3.5}}
    (tmp_path / "f.json").write_text(json.dumps(made.to_json() | {"search": search}))
    found = read_factors(tmp_path / "f.json")
    assert found.scaling == made
    assert (found.factors, found.target, found.search) == (made.long_factor, published.TARGET, search)
    assert (found.temperature, found.origin) == (made.long_attention_factor, "longrope2(split=33)")


@pytest.mark.parametrize(
    "text",
    ["1\n2.5\n3\n", "factor\n1\n2.5\n3", "\ufeff1\r\n2.5\r\n\r\n3\r\n", "1, 2.5, 3", "1 2.5 3", "[1, 2.5, 3]",
     '{"factors": [1, 2.5, 3]}', '{"long_factor": [1, 2.5, 3]}'],
)  # fmt: skip
def test_spellings(tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_text(text, encoding="utf-8")
    assert read_factors(tmp_path / "f").factors == (1.0, 2.5, 3.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "contains no factors"),
        ("factor\n", "contains no factors"),
        ("1\n-2\n", "line or item 2 is '-2', not a positive number"),
        ("1\nnan\n", "item 2 is 'nan'"),
        ("1\nx\n", "item 2 is 'x'"),
        ("0,1\n1,2\n", "several columns"),
        ("[1, true]", "item 2 is True"),
        ("[]", "contains no factors"),
        ("[1,", "not valid JSON"),
        ("{}", "has neither `factors` nor `long_factor`"),
        ('{"factors": 3}', "factors is not a list"),
        ('{"factors": [1], "temperature": "x"}', "temperature is 'x', not a positive number"),
        ('{"long_factor": [1], "theta": 3}', "the field .* is missing"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "f").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_factors(tmp_path / "f")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_factors(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_factors(tmp_path / "binary")
