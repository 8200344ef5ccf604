from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from lr2eval.errors import StoreError, UsageError
from lr2eval.tasks.exact import files

ROWS = [{"text": "ä", "fill": 0.5}, {"text": "b", "fill": 1.0}]


class Maker:
    """Makes the rows, counts how often, and keeps what was said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made = 0
        self.said: list[str] = []

    def rows(self) -> Iterator[Mapping[str, Any]]:
        self.made += 1
        yield from ROWS

    def ensure(self) -> files.DataFile:
        return files.ensure(self.path, {"task": "t"}, self.rows, lambda row: row["fill"], self.said.append)


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "data" / "t-1-abc.jsonl")


def test_made_once(maker: Maker) -> None:
    first, second = maker.ensure(), maker.ensure()
    assert maker.made == 1
    assert not maker.said
    assert first.manifest == second.manifest
    assert first.manifest["fill"] == {"min": 0.5, "mean": 0.75, "max": 1.0}
    assert first.manifest["samples"] == 2
    assert first.manifest["task"] == "t"


def test_offsets_point_at_lines(maker: Maker) -> None:
    data = maker.ensure()
    raw = data.path.read_bytes()
    for row, expected in zip(data.rows(), ROWS, strict=True):
        assert json.loads(raw[row["offset"] :].split(b"\n")[0]) == expected


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-3]), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.with_suffix(".manifest.json").write_text("{"), "manifest"),
        (lambda path: path.with_suffix(".manifest.json").write_text("[]"), "manifest"),
        (lambda path: path.with_suffix(".manifest.json").unlink(), "manifest"),
    ],
)
def test_damaged_file_is_made_again_and_that_is_said(maker: Maker, damage: Any, word: str) -> None:
    content = maker.ensure().path.read_bytes()
    damage(maker.path)
    again = maker.ensure()
    assert maker.made == 2
    assert again.path.read_bytes() == content
    (line,) = maker.said
    assert maker.path.name in line
    assert word in line


def test_interrupted_making_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"

    def broken() -> Iterator[Mapping[str, Any]]:
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.ensure(path, {}, broken, lambda row: 1.0, print)
    assert [found.name for found in tmp_path.iterdir() if not found.name.endswith(".lock")] == []


def test_waits_for_another_run(maker: Maker) -> None:
    maker.path.parent.mkdir()
    lock = FileLock(maker.path.with_suffix(".lock"))
    lock.acquire()
    found: list[files.DataFile] = []
    waiting = threading.Thread(target=lambda: found.append(maker.ensure()))
    waiting.start()
    while not maker.said:
        assert waiting.is_alive()
    assert "waiting for another run" in maker.said[0]
    # The other run finishes its file before it lets go, so ours is never made.
    other = Maker(maker.path)
    files._write(other.path, {"task": "t"}, other.rows(), lambda row: row["fill"])
    lock.release()
    waiting.join(20)
    assert found
    assert maker.made == 0


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="POSIX permissions")
def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    maker = Maker(tmp_path / "file" / "t.jsonl")
    with pytest.raises(UsageError, match="cannot write benchmark data"):
        maker.ensure()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["pathlib.Path.open", "os.replace", "pathlib.Path.mkdir"])
def test_cache_that_cannot_be_written(number: int, call: str, maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read-only, forbidden, full, over quota, at any step: one line with folder, reason and advice; nothing is left."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, refuse)
    kind = StoreError if number in (errno.ENOSPC, errno.EDQUOT) else UsageError
    with pytest.raises(kind, match=r"cannot write benchmark data \(.*\); free some .* another cache") as caught:
        maker.ensure()
    assert os.strerror(number) in str(caught.value)
    assert str(maker.path.parent) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path for path in maker.path.parent.parent.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_full_disk(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        maker.ensure()
    assert not maker.path.exists()
