from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lr2eval.errors import CheckpointError
from lr2eval.runs.card import FILE, Card
from lr2eval.runs.config import RunConfig

CARD = Card(
    made_for={"ruler": ("niah_single_1", "vt")},
    lengths=(512, 1024, 2048),
    options={"ruler": {"haystack": "demo-filler", "repeat": True}, "niah": {"wording": "ruler"}},
)
ALL = ["niah_single_1", "niah_single_2", "vt", "cwe"]


def test_a_folder_without_one_asks_for_nothing(tmp_path: Path) -> None:
    config = RunConfig.load({"model": "m", "tasks": "ruler"})
    assert Card.read(tmp_path).applied(config, 512) == config
    assert Card.read(tmp_path).chosen(config, "ruler", ALL) == (ALL, [])


def test_reads_what_the_file_says(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(CARD.model_dump_json())
    assert Card.read(tmp_path) == CARD


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"made_four": {}}), json.dumps({"lengths": "512"})])
def test_a_damaged_one_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(CheckpointError, match=r"lr2eval.json: cannot be read .*fix or delete it"):
        Card.read(tmp_path)


@pytest.mark.parametrize(
    ("tasks", "kept"),
    [
        ("ruler", ["niah_single_1", "vt"]),
        ("ruler,ruler:cwe", ["niah_single_1", "vt", "cwe"]),
        ("ruler:cwe", ALL),  # what was asked for by name has been chosen before
        ("mmlu", ALL),
    ],
)
def test_a_bare_name_stands_for_what_the_model_was_made_for(tasks: str, kept: list[str]) -> None:
    config = RunConfig.load({"model": "m", "tasks": tasks})
    chosen, left_out = CARD.chosen(config, "ruler", ALL)
    assert chosen == kept
    assert left_out == [task for task in ALL if task not in kept]


def test_fills_in_what_is_not_given_and_no_more() -> None:
    flags: dict[str, Any] = {"model": "m", "tasks": "ruler:vt,facts"}
    filled = CARD.applied(RunConfig.load(flags), 1024)
    assert filled.lengths == (512, 1024), "up to the window"
    assert filled.options == {"ruler": {"haystack": "demo-filler", "repeat": True}}, "of the asked benchmarks only"
    given = RunConfig.load({**flags, "lengths": "4k"}, sets=["ruler.haystack=essays", "facts.x=1"])
    kept = CARD.applied(given, 8192)
    assert kept.lengths == (4096,)
    assert kept.options == {"ruler": {"haystack": "essays", "repeat": True}, "facts": {"x": 1}}
    assert CARD.applied(RunConfig.load(flags), 100).lengths is None
