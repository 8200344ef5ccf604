from __future__ import annotations

import json
import zipfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lr2eval.errors import MissingDataError, UsageError
from lr2eval.tasks.haystacks import Haystack, load, python_docs, split

WORD = st.sampled_from(["a", "B", "end.", "end.)x", '"Why?"', "J.", "3.", ".", "...", '."', "no.(yes.)", "Mr.", "--"])


@given(st.lists(WORD, min_size=1, max_size=12), st.integers(1, 40), st.data())
@settings(max_examples=300, deadline=None)
def test_beginnings_are_split_as_if_alone(words: list[str], count: int, data: st.DataObject) -> None:
    haystack = Haystack("t", False, (" ".join(words),))
    for each in (count, data.draw(st.integers(1, 80)), count):
        assert haystack.first(each) == split(" ".join(haystack.take(0, each)))


def test_facts_name_a_stand_in() -> None:
    haystack = Haystack("notes.txt", False, ("one two", "three"))
    assert haystack.facts == {
        "haystack": "notes.txt",
        "haystack_sha256": haystack.sha256,
        "haystack_words": 3,
        "repeated": True,
        "comparable": False,
        "stand_in": True,
    }
    assert "stand_in" not in Haystack("essays", True, ("one",)).facts
    assert haystack.sha256 != Haystack("notes.txt", False, ("one two three",)).sha256


def test_words_are_repeated_unless_told_otherwise() -> None:
    haystack = Haystack("t", False, ("one two", "three"))
    assert haystack.take(1, 5) == ["two", "three", "one", "two"]
    assert haystack.available is None
    assert Haystack("t", False, ("one two",), repeat=False).available == 2


def test_built_in_text_is_prose() -> None:
    haystack = load("python-docs", None, offline=True)
    assert haystack.name == python_docs.name()
    assert not haystack.comparable
    assert len(haystack.words) > 20_000
    assert not any(mark in " ".join(haystack.first(20_000)) for mark in ("::=", ">>>", "****", "===="))


def test_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    folder = tmp_path / "PaulGrahamEssays"
    folder.mkdir()
    for name, text in (("b.txt", "two"), ("a.txt", "\ufeffone"), ("c.png", "\0")):
        (folder / name).write_text(text, encoding="utf-8")
    haystack = load("essays", tmp_path, offline=True)
    assert (haystack.texts, haystack.name, haystack.comparable) == (("one", "two"), "PaulGrahamEssays (2 texts)", False)
    assert load(str(folder), None, offline=True).texts == ("one", "two")
    assert load(str(folder / "b.txt"), None, offline=True, repeat=False).available == 1


def test_zip_gives_what_the_folder_gives(tmp_path: Path) -> None:
    (tmp_path / "paul_graham").mkdir()
    with zipfile.ZipFile(tmp_path / "paul_graham" / "PaulGrahamEssays.zip", "w") as archive:
        for name in ("b.txt", "a.txt", "__MACOSX/a.txt"):
            archive.writestr(name, name[0])
    assert load("essays", tmp_path, offline=True).texts == ("a", "b")


def test_upstream_file_is_comparable(tmp_path: Path) -> None:
    path = tmp_path / "PaulGrahamEssays.json"
    path.write_text(json.dumps({"text": "All essays."}), encoding="utf-8")
    haystack = load("essays", tmp_path, offline=True)
    assert (haystack.comparable, haystack.texts) == (True, ("All essays.",))
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(UsageError, match=r"PaulGrahamEssays\.json: not in the layout of NVIDIA/RULER"):
        load("essays", tmp_path, offline=True)


def test_hub_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, split: str) -> list[dict[str, str]]:
        asked.append((name, split))
        return [{"text": "One essay."}, {"text": "Another."}]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    haystack = load("essays", None, offline=False)
    assert asked == [("baber/paul_graham_essays", "train")]
    assert (haystack.name, haystack.comparable, len(haystack.words)) == ("hub:baber/paul_graham_essays", True, 3)


def test_no_essays_anywhere(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        load("essays", tmp_path, offline=True)
    message = str(caught.value)
    for part in (str(tmp_path), "--data-dir", "connect once", "--set ruler.haystack=python-docs"):
        assert part in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.txt", b" \n", "empty"),
        ("zero.txt", b"a\0b", "NUL"),
        ("latin.txt", b"caf\xe9 au lait", r"not UTF-8 \(byte 4\)"),
        ("broken.zip", b"PK", "not a readable zip"),
        ("folder", None, r"empty \(no .txt"),
        ("absent", None, "no such file"),
    ],
)
def test_bad_input(name: str, data: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    elif name == "folder":
        path.mkdir()
    with pytest.raises(UsageError, match=message) as caught:
        load(str(path), None, offline=True)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.shared_data
def test_real_essays(shared_data: Path) -> None:
    haystack = load("essays", shared_data, offline=True)
    assert len(haystack.texts) == 49
    assert len(haystack.words) == 111_913
    rng = Random(0)
    for count in (1, 50, 3000, *(rng.randint(1, 250_000) for _ in range(4))):
        assert haystack.first(count) == split(" ".join(haystack.take(0, count)))
