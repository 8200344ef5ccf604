from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from demo_model.rows import documents, write_wording
from ship_demo import LONG_ROWS, SEED
from transformers import PreTrainedTokenizerFast

from lr2eval.model.names import BUILT_IN

Call = Callable[..., Any]


def test_the_demo_brings_its_own_text_and_words(lr2eval: Call, tmp_path: Path) -> None:
    done = lr2eval("extend", "--model", "demo", "--out", tmp_path / "x", "--dry-run")
    assert done.code == 0, done.err
    assert "factors: evolution search" in done.err
    assert "training: 512 to 8k, on demo" in done.err
    assert "evaluation: ruler, niah, facts, original against extended" in done.err
    documents = tmp_path / "x" / "documents-8192.jsonl"
    sizes = [len(json.loads(row)["input_ids"]) for row in documents.read_text().splitlines()]
    assert max(sizes) <= 8192
    assert sum(size > 512 for size in sizes) > 50
    wording = json.loads((tmp_path / "x" / "wording.json").read_text())
    assert "special magic number" in wording["needle"]

    written = documents.stat().st_mtime_ns
    assert lr2eval("extend", "--model", "demo", "--out", tmp_path / "x", "--dry-run").code == 0
    assert documents.stat().st_mtime_ns == written


def test_the_shipped_documents_are_those_of_the_demo_s_training(tmp_path: Path) -> None:
    """``benchmarks/ship_demo.py --documents`` makes the same bytes again."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BUILT_IN / "demo")
    with lzma.open(BUILT_IN.parent / "demo-extend.jsonl.xz", "rt") as file:
        shipped = [json.loads(line) for line in islice(file, 12)]
    assert shipped == list(islice(documents(tokenizer, 8192, LONG_ROWS, SEED), 12))
    write_wording(tmp_path / "wording.json", tokenizer)
    assert (tmp_path / "wording.json").read_bytes() == (BUILT_IN.parent / "demo-extend-wording.json").read_bytes()


@pytest.mark.parametrize("length", ["1k", "512", "16384"])
def test_another_target_is_refused_in_one_line(lr2eval: Call, tmp_path: Path, length: str) -> None:
    done = lr2eval("extend", "--model", "demo", "--target-length", length, "--out", tmp_path / "x", "--dry-run")
    assert done.code == 2
    assert f"--target-length {length}: the training documents of demo are made for 8k" in done.error
    assert not (tmp_path / "x").exists()


def test_what_is_wrong_is_said_in_one_line(lr2eval: Call, tmp_path: Path) -> None:
    length = lr2eval("extend", "--model", "demo", "--target-length", "far", "--out", tmp_path / "x", "--dry-run")
    assert length.code == 2
    assert "--target-length far: 'far' is not a length" in length.error
    (tmp_path / "file").touch()
    out = lr2eval("extend", "--model", "demo", "--out", tmp_path / "file" / "x", "--dry-run")
    assert out.code == 2
    assert "choose a folder that can be written" in out.error
