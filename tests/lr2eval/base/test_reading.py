"""Whatever is wrong with a file, the reader names the file and raises nothing but the error it was asked to raise."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from lr2eval.base import reading
from lr2eval.errors import CheckpointError, UsageError


def every(name: str) -> bool:
    return True


def _zip(text: bytes = b"some text\n" * 500, kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", kind) as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), text, kind)  # with a fixed date
    return made.getvalue()


def _zip_with(offset_local: int, offset_central: int, value: int) -> bytes:
    """A zip whose two-byte field at these offsets of the local and the central header is ``value``."""
    data = bytearray(_zip())
    central = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, offset_local, value)
    struct.pack_into("<H", data, central + offset_central, value)
    return bytes(data)


ENCRYPTED = _zip_with(6, 8, 1)
UNKNOWN_METHOD = _zip_with(8, 10, 77)


@pytest.mark.parametrize(
    "data",
    [ENCRYPTED, UNKNOWN_METHOD, b"", b"PK\x03\x04", _zip()[:60]],
    ids=["encrypted", "unknown method", "empty", "only a beginning", "cut"],
)
def test_a_damaged_zip_is_one_error(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"a\.zip: not a readable zip file .*; copy it again"):
        reading.zip_members(path, every, error=CheckpointError)


@pytest.mark.parametrize("place", range(0, len(_zip()), 7))
def test_a_flipped_byte_in_a_zip_is_noticed_or_harmless(place: int, tmp_path: Path) -> None:
    data = bytearray(_zip())
    data[place] ^= 0xFF
    path = tmp_path / "a.zip"
    path.write_bytes(data)
    try:
        found = reading.zip_members(path, every)
    except UsageError as error:
        assert "a.zip" in str(error)  # noqa: PT017
    else:
        assert all(content == b"some text\n" * 500 for _, content in found)


@pytest.mark.parametrize("make", [_zip, gzip.compress])
def test_a_bomb_is_refused_before_it_fills_the_memory(make: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(make(bytes(reading.UNPACKED + 1)))
    read = reading.unpacked if make is gzip.compress else lambda p: reading.zip_members(p, every)
    with pytest.raises(UsageError, match=r"bomb: unpacks to more than the limit of 64 MiB"):
        read(path)


def test_members_of_a_zip_share_one_limit(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.txt", bytes(reading.UNPACKED // 2))
    with pytest.raises(UsageError, match="unpacks to more"):
        reading.zip_members(path, every)
    assert len(reading.zip_members(path, lambda name: name == "1.txt")[0][1]) == reading.UNPACKED // 2


def test_a_gzip_is_unpacked_and_a_plain_file_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(b"text"))
    (tmp_path / "b").write_bytes(b"text")
    assert reading.unpacked(tmp_path / "a") == reading.unpacked(tmp_path / "b") == b"text"
    (tmp_path / "a").write_bytes(gzip.compress(b"text" * 1000)[:-9])
    with pytest.raises(UsageError, match="a: not a readable gzip file"):
        reading.unpacked(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"[" * 200_000, "nested more than 200 deep"),
        (b"[" * 300 + b"]" * 300, "nested more than 200 deep"),
        (b'{"a":' * 900 + b"1" + b"}" * 900, "nested more than 200 deep"),
        (b'["\\ud800"]', "half of a character"),
        (b'{"a": NaN}', "NaN, which is not a JSON number"),
        (b"[1e999]", "too large"),
        (b"9" * 5000, "not valid JSON"),
        (b"", "not valid JSON"),
        (b'"\xff"', "not UTF-8"),
        (b"{'a': 1}", "not valid JSON"),
    ],
)
def test_bad_json_is_one_line(text: bytes, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem) as caught:
        reading.parse_json(text, "x.json, line 3", error=CheckpointError, fix="correct it")
    assert str(caught.value).startswith("x.json, line 3: ")
    assert str(caught.value).endswith("; correct it")
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for parse in (reading.parse_json, reading.parse_toml, reading.parse_csv, reading.decoded):
        try:
            parse(data, "place")  # type: ignore[operator]
        except UsageError as error:
            assert str(error).startswith("place: ")  # noqa: PT017


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_good_json_comes_back(value: Any) -> None:
    assert reading.parse_json(json.dumps(value), "place") == value
    assert reading.parse_json(json.dumps(value, ensure_ascii=False).encode("utf-8"), "place") == value


def test_pairs_of_surrogates_are_one_character() -> None:
    assert reading.parse_json(b'"\\ud83d\\ude00"', "place") == "\N{GRINNING FACE}"


def test_csv_cells_may_be_long() -> None:
    assert reading.parse_csv(b"a," + b"x" * 200_000, "place") == [["a", "x" * 200_000]]


def test_deep_toml_is_one_line() -> None:
    with pytest.raises(UsageError, match="place: TOML nested too deep"):
        reading.parse_toml(b"a = " + b"[" * 100_000, "place")


def test_a_pipe_a_folder_and_a_missing_file_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "folder", "nothing", "zero\0byte", "x" * 300):
        if name == "folder":
            (tmp_path / name).mkdir()
        with pytest.raises(UsageError, match="; make it readable"):
            reading.read_bytes(tmp_path / name)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(reading.LARGEST + 1)
    with pytest.raises(UsageError, match=r"sparse: has 4,096 MiB, more than the limit of 4,096 MiB"):
        reading.read_bytes(tmp_path / "sparse")


class Thing(BaseModel):
    model_config = {"extra": "forbid"}
    number: int


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"number": "x"}, r"damaged at number \(must be a valid integer\)"),
        ({}, r"damaged at number \(is missing\)"),
        ({"number": 1, "more": 2}, r"damaged at more \(unknown key\)"),
        ([], r"damaged at the top level \(must be a table\)"),
    ],
)
def test_a_wrong_layout_is_told_in_our_words(value: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        reading.checked(Thing, value, "x.json")
    assert reading.checked(Thing, {"number": 3}, "x.json").number == 3
