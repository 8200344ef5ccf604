from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.errors import MissingDataError, UsageError
from lr2eval.tasks.ruler import questions

SQUAD: dict[str, Any] = {
    "version": "v2.0",
    "data": [
        {
            "title": "T",
            "paragraphs": [
                {
                    "context": "Bees make honey.",
                    "qas": [
                        {"question": "Who?", "is_impossible": False, "answers": [{"text": "Bees"}, {"text": "bees"}]},
                        {"question": "Why?", "is_impossible": True, "answers": []},
                    ],
                },
                {
                    "context": "Ants do not.",
                    "qas": [{"question": "Who not?", "is_impossible": False, "answers": [{"text": "Ants"}]}],
                },
            ],
        },
        {"title": "U", "paragraphs": [{"context": "Zebras.", "qas": []}]},
    ],
}
HOTPOT: list[dict[str, Any]] = [
    {"question": "Which?", "answer": "yes", "context": [["B", ["One.", " Two."]], ["A", ["Three."]]]},
    {"question": "What?", "answer": "Two", "context": [["B", ["One.", " Two."]]]},
]
COLUMNS = [
    {**entry, "context": {"title": [t for t, _ in entry["context"]], "sentences": [s for _, s in entry["context"]]}}
    for entry in HOTPOT
]


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = isinstance(value, list) and ".jsonl" in path.suffixes
    text = "\n".join(json.dumps(each) for each in value) if lines else json.dumps(value)  # type: ignore[attr-defined]
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["dev-v2.0.json", "dev-v2.0.half.json.gz"])
@pytest.mark.parametrize("folder", ["squad", "."])
def test_squad(name: str, folder: str, tmp_path: Path) -> None:
    write(tmp_path / folder / name, SQUAD)
    found = questions.load("squad", None, tmp_path)
    assert found.name == name
    assert not found.comparable
    assert found.facts["stand_in"] is True
    assert found.documents == ("Ants do not.", "Bees make honey.", "Zebras.")
    first, second = found.items
    assert (first.text, first.answers, first.own, first.related) == ("Who?", ("Bees", "bees"), (1,), (0,))
    assert (second.text, second.own, second.related) == ("Who not?", (0,), (1,))


@pytest.mark.parametrize(("name", "value"), [("hotpot_dev_distractor_v1.json", HOTPOT), ("mine.jsonl.gz", COLUMNS)])
def test_hotpot_in_both_layouts(name: str, value: object, tmp_path: Path) -> None:
    path = write(tmp_path / "hotpotqa" / name, value)
    found = questions.load("hotpotqa", path, None)
    assert found.documents == ("A\nThree.", "B\nOne. Two.")
    assert [(each.answers, each.own) for each in found.items] == [(("yes",), (1, 0)), (("Two",), (1,))]
    if "distractor" in name:
        assert questions.load("hotpotqa", None, tmp_path) == found


def test_whole_published_file_is_comparable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    layout = replace(questions.SETS["squad"], published=2)
    monkeypatch.setitem(questions.SETS, "squad", layout)
    facts = questions.load("squad", write(tmp_path / "dev-v2.0.json", SQUAD), None).facts
    assert facts["comparable"] is True
    assert "stand_in" not in facts


def test_the_hubs_rows_are_the_published_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {
            "title": article["title"],
            "context": paragraph["context"],
            "question": entry["question"],
            "answers": {"text": [answer["text"] for answer in entry["answers"]], "answer_start": []},
        }
        for article in SQUAD["data"]
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    ]
    sets = {("rajpurkar/squad_v2", None): rows, ("hotpotqa/hotpot_qa", "distractor"): COLUMNS}
    monkeypatch.setattr("datasets.load_dataset", lambda name, config=None, *, split: sets[name, config])
    asked = {**SQUAD, "data": SQUAD["data"][:1]}  # an article without questions has no row on the hub
    for name, value in (("squad", asked), ("hotpotqa", HOTPOT)):
        hub = questions.load(name, None, None)
        file = questions.load(name, write(tmp_path / f"{name}.json", value), None)
        assert (hub.documents, hub.items) == (file.documents, file.items)
        assert hub.name == f"hub:{questions.SETS[name].hub}"


def test_missing(tmp_path: Path) -> None:
    for name in ("squad", "hotpotqa"):
        with pytest.raises(MissingDataError, match=f"--set ruler.{name}=FILE"):
            questions.load(name, None, tmp_path)
    with pytest.raises(UsageError, match=r"no\.json: No such file"):
        questions.load("squad", tmp_path / "no.json", None)


def _qas(data: Any) -> Any:
    return data["data"][0]["paragraphs"][0]["qas"]


SQUAD_FAULTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no list": (lambda d: d.pop("data"), r"field data"),
    "no paragraphs": (lambda d: d["data"][1].pop("paragraphs"), r"article 2, field paragraphs"),
    "no context": (lambda d: d["data"][0]["paragraphs"][1].pop("context"), r"article 1, paragraph 2, field context"),
    "no question": (lambda d: _qas(d)[0].pop("question"), r"paragraph 1, question 1, field question"),
    "first version": (lambda d: _qas(d)[1].pop("is_impossible"), r"question 2, field is_impossible"),
    "no answer": (lambda d: _qas(d)[0].update(answers=[]), r"question 1, field answers"),
    "answers as texts": (lambda d: _qas(d)[0].update(answers=["Bees"]), r"question 1, answer 1, field text"),
}


@pytest.mark.parametrize("fault", SQUAD_FAULTS)
def test_wrong_squad(fault: str, tmp_path: Path) -> None:
    data = copy.deepcopy(SQUAD)
    SQUAD_FAULTS[fault][0](data)
    refused("squad", write(tmp_path / "dev.json", data), SQUAD_FAULTS[fault][1])


HOTPOT_FAULTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no context": (lambda d: d[1].pop("context"), r"item 2, field context"),
    "no sentences": (lambda d: d[0]["context"][0].pop(), r"item 1, field context"),
    "sentences as text": (lambda d: d[0]["context"][0].__setitem__(1, "One."), r"item 1, field context"),
    "empty": (lambda d: d[0].update(context=[]), r"item 1, field context"),
    "no answer": (lambda d: d[1].pop("answer"), r"item 2, field answer"),
    "number": (lambda d: d.append(3), r"item 3, field context"),
}


@pytest.mark.parametrize("fault", HOTPOT_FAULTS)
def test_wrong_hotpot(fault: str, tmp_path: Path) -> None:
    data = copy.deepcopy(HOTPOT)
    HOTPOT_FAULTS[fault][0](data)
    refused("hotpotqa", write(tmp_path / "h.json", data), HOTPOT_FAULTS[fault][1])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (gzip.compress(b"[]", mtime=0)[:-9], "not a readable gzip"),
        (b"[]", "no question with an answer"),
        (b'{"data": []}', "not a list"),
    ],
)
def test_no_questions(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(data)
    refused("hotpotqa", path, message)


def refused(name: str, path: Path, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        questions.load(name, path, None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.shared_data
def test_real_files(shared_data: Path) -> None:
    squad = questions.load("squad", None, shared_data)
    assert len(squad.items) == 6078 - 3168
    assert all(len(item.own) == 1 for item in squad.items)
    hotpot = questions.load("hotpotqa", None, shared_data)
    assert len(hotpot.items) == 100
    assert max(len(item.own) for item in hotpot.items) == 10
    assert all("\n" in document for document in hotpot.documents)
