"""Lines of JSON, and every way they can be wrong, named."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.errors import UsageError
from lr2eval.tasks.shared import jsonl


def test_plain_and_gzipped_are_the_same(tmp_path: Path) -> None:
    data = '\ufeff{"pred": "a\u2028b"}\r\n\n{"pred": ""}\n'.encode()
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / ".c.jsonl").write_text("{}")
    files = jsonl.find(tmp_path)
    assert list(files) == ["a", "b"]
    rows = [[row for _, row in jsonl.read(path)] for path in files.values()]
    assert rows == [[{"pred": "a\u2028b"}, {"pred": ""}]] * 2
    assert [place for place, _ in jsonl.read(files["a"])] == [f"{files['a']}, line {n}" for n in (1, 3)]


def test_the_same_name_twice(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.jsonl.gz"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=r"holds a\.jsonl and a\.jsonl\.gz"):
        jsonl.find(tmp_path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a": 1}\n{"a": \n', r"f\.jsonl, line 2: not valid JSON"),
        (b'{"a": "\xe9"}', r"f\.jsonl, line 1: not UTF-8 \(byte 8\)"),
        (b"[1]", r"f\.jsonl, line 1: not a JSON object"),
        (b"\n \n", r"f\.jsonl: is empty"),
        (b"", r"f\.jsonl: is empty"),
        (gzip.compress(b'{"a": 1}', mtime=0)[:-5], r"f\.jsonl: not a readable gzip file"),
        (b"\x1f\x8bnothing", r"f\.jsonl: not a readable gzip file"),
        (b'{"id": 1}\n{"id": 2}\n{"id": 1}', r"line 3, field id: line 1 has 1 too"),
    ],
)
def test_bad_files(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "f.jsonl").write_bytes(data)
    with pytest.raises(UsageError, match=says) as caught:
        list(jsonl.read(tmp_path / "f.jsonl", ("id",)))
    assert "\n" not in str(caught.value)


def test_ids_that_say_nothing_may_repeat(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"id": null}\n{"id": null}\n{}\n{"id": "1"}\n{"id": 1}')
    assert len(list(jsonl.read(tmp_path / "f.jsonl", ("id",)))) == 5


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        list(jsonl.read(tmp_path / "f.jsonl"))


@pytest.mark.parametrize(
    ("read", "value", "says"),
    [
        (jsonl.text, 1, "field x: is 1, must be text"),
        (jsonl.text, None, "field x: is null, must be text"),
        (jsonl.texts, "a", 'field x: is "a", must be a list'),
        (jsonl.texts, [], r"field x: is \[\], must be a list of texts, at least one"),
        (jsonl.texts, ["a", 1], "must be a list of texts"),
        (jsonl.whole_number, True, "field x: is true, must be a whole number"),
        (jsonl.whole_number, -1, "must be a whole number"),
        (jsonl.whole_number, 1.0, "must be a whole number"),
        (jsonl.texts, "a" * 100, r"is \"a{36}\.\.\., must be"),
    ],
)
def test_bad_fields(read: Callable[..., Any], value: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read({"x": value}, "x")
    with pytest.raises(UsageError, match="field y: is missing"):
        read({"x": value}, "y")


def test_good_fields() -> None:
    row = {"t": "", "l": ["a"], "n": 0}
    assert (jsonl.text(row, "t"), jsonl.texts(row, "l"), jsonl.whole_number(row, "n")) == ("", ["a"], 0)
