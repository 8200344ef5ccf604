from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.errors import CheckpointError
from lr2eval.model.names import BUILT_IN, built_in
from lr2eval.runs.card import FILE, LARGEST, OPTIONS, Card
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
    with pytest.raises(CheckpointError, match=r"lr2eval.json: .*fix or delete it"):
        Card.read(tmp_path)


@pytest.mark.parametrize("name", built_in())
def test_the_cards_of_the_built_in_models_are_allowed(name: str) -> None:
    assert Card.read(BUILT_IN / name).options["niah"]["wording"] == "ruler"


SECRET = "/etc/passwd"
WHOLE: dict[str, Any] = {"made_for": {"ruler": ["vt"]}, "lengths": [512], "options": {"ruler": {"haystack": "essays"}}}


@pytest.mark.parametrize(
    ("card", "key"),
    [
        (SECRET, "the file"),
        ({SECRET: 1}, SECRET),
        ({"made_for": SECRET}, "made_for"),
        ({"made_for": {SECRET: ["vt"]}}, "made_for"),
        ({"made_for": {"ruler": SECRET}}, "made_for"),
        ({"made_for": {"ruler": ["vt", SECRET]}}, "made_for"),
        ({"made_for": {"ruler": ["vt\x1b]52;"]}}, "made_for"),
        ({"lengths": SECRET}, "lengths"),
        ({"lengths": [SECRET]}, "lengths"),
        ({"lengths": [0]}, "lengths"),
        ({"lengths": [True]}, "lengths"),
        ({"lengths": [1 << 60]}, "lengths"),
        ({"lengths": [512] * 65}, "lengths"),
        ({"options": SECRET}, "options"),
        ({"options": {"ruler": SECRET}}, "options"),
        ({"options": {SECRET: {"haystack": "essays"}}}, f"options.{SECRET}.haystack"),
        ({"options": {"ruler": {SECRET: 1}}}, f"options.ruler.{SECRET}"),
        ({"options": {"ruler": {"samples": {"4k": SECRET}}}}, "options.ruler.samples"),
        ({"options": {"lm_eval": {"include_path": SECRET}}}, "options.lm_eval.include_path"),
        ({"options": {"vllm": {"download_dir": SECRET}}}, "options.vllm.download_dir"),
        ({"options": {"niah": {"samples_per_cell": True}}}, "options.niah.samples_per_cell"),
        ({"options": {"niah": {"samples_per_cell": 1001}}}, "options.niah.samples_per_cell"),
        ({"options": {"niah": {"depths": 1}}}, "options.niah.depths"),
        ({"options": {"niah": {"depths": "0,50"}}}, "options.niah.depths"),
        *(({"options": {(parts := key.split("."))[0]: {parts[1]: SECRET}}}, f"options.{key}") for key in OPTIONS),
        *(({"options": {(parts := key.split("."))[0]: {parts[1]: [SECRET]}}}, f"options.{key}") for key in OPTIONS),
    ],
)
def test_only_what_the_closed_list_allows(tmp_path: Path, card: Any, key: str) -> None:
    if isinstance(card, dict):
        card = WHOLE | card
    (tmp_path / FILE).write_text(json.dumps(card))
    with pytest.raises(CheckpointError) as caught:
        Card.read(tmp_path)
    assert f"{key}: " in str(caught.value)
    assert str(caught.value).isprintable(), "one line without control characters"


@pytest.mark.parametrize(
    "content", [" " * LARGEST + "{}", "[" * 50_000, '{"lengths": "\\ud800"}', '{"lengths": [1' + "0" * 5000 + "]}"],
    ids=["large", "deep", "surrogate", "digits"],
)  # fmt: skip
def test_a_hostile_file_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(CheckpointError, match=r"lr2eval\.json: ") as caught:
        Card.read(tmp_path)
    assert len(str(caught.value).removeprefix(str(tmp_path))) < 250


def test_the_plan_says_what_the_card_chose(
    toy_checkpoint: Path, tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lr2eval.commands.plan import print_plan
    from lr2eval.workflows.run import prepare_run

    monkeypatch.setenv("LR2EVAL_CACHE", str(shared_cache))
    (folder := tmp_path / "toy").mkdir()
    for file in toy_checkpoint.iterdir():
        (folder / file.name).symlink_to(file)
    changes = {"made_for": {"ruler": ("niah_single_1",)}, "lengths": (768, 1024, 2048)}
    (folder / FILE).write_text(CARD.model_copy(update=changes).model_dump_json())
    flags: dict[str, Any] = {
        "model": str(folder), "tasks": "ruler", "samples_per_task": 1, "device": "cpu", "offline": True
    }  # fmt: skip
    said: list[str] = []
    print_plan(prepare_run(RunConfig.load(flags)), said.append)
    line = "toy's lr2eval.json chose: tasks ruler:niah_single_1; lengths 768, 1k; ruler.haystack=demo-filler, "
    assert f"{line}ruler.repeat=true" in said
    named = RunConfig.load({**flags, "tasks": "ruler:vt", "lengths": "512"}, sets=["ruler.haystack=python-docs"])
    assert CARD.choices(named, 1024) == "ruler.repeat=true"
    assert CARD.choices(RunConfig.load({**flags, "tasks": "facts", "lengths": "512"}), 1024) == ""


def test_a_foreign_model_reads_no_secret(toy: Path, tmp_path: Path, lr2eval: Callable[..., Any]) -> None:
    (secret := tmp_path / "secret.txt").write_text("The secret word is tulip. " * 500)
    (toy / FILE).write_text(json.dumps({"options": {"ruler": {"haystack": str(secret)}}}))
    got = lr2eval("run", "--model", toy, "--tasks", "ruler:niah_single_1", "--offline", "--out", tmp_path / "run")
    assert (got.code, got.out) == (2, "")
    assert "options.ruler.haystack: a checkpoint may set only" in got.error
    assert not (tmp_path / "run").exists()


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
