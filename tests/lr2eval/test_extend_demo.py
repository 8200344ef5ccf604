from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Call = Callable[..., Any]
SMALL = ("--set", "data.tokens=32768", "--target-length", "1k")


def test_the_demo_brings_its_own_text_and_words(lr2eval: Call, tmp_path: Path) -> None:
    done = lr2eval("extend", "--model", "demo", *SMALL, "--out", tmp_path / "x", "--dry-run")
    assert done.code == 0, done.err
    assert "factors: search at pairs 16" in done.err
    assert "training: 512 to 1k, on demo" in done.err
    assert "evaluation: ruler, niah, facts, original against extended" in done.err
    rows = (tmp_path / "x" / "documents-1024.jsonl").read_text().splitlines()
    sizes = [len(json.loads(row)["input_ids"]) for row in rows]
    assert max(sizes) <= 1024
    assert sum(size > 512 for size in sizes) > 50
    wording = json.loads((tmp_path / "x" / "wording.json").read_text())
    assert "special magic number" in wording["needle"]

    written = (tmp_path / "x" / "documents-1024.jsonl").stat().st_mtime_ns
    assert lr2eval("extend", "--model", "demo", *SMALL, "--out", tmp_path / "x", "--dry-run").code == 0
    assert (tmp_path / "x" / "documents-1024.jsonl").stat().st_mtime_ns == written


def test_what_is_wrong_is_said_in_one_line(lr2eval: Call, tmp_path: Path) -> None:
    length = lr2eval("extend", "--model", "demo", "--target-length", "far", "--out", tmp_path / "x", "--dry-run")
    assert length.code == 2
    assert "--target-length far: 'far' is no length" in length.error
    (tmp_path / "file").touch()
    out = lr2eval("extend", "--model", "demo", "--out", tmp_path / "file" / "x", "--dry-run")
    assert out.code == 2
    assert "choose a folder that can be written" in out.error
    short = lr2eval("extend", "--model", "demo", "--target-length", "512", "--out", tmp_path / "y", "--dry-run")
    assert short.code == 2
    assert "has a window of 512 already" in short.error
