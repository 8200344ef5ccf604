from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import pytest

from lr2eval.errors import Lr2EvalError, MissingDataError, UsageError
from lr2eval.tasks.mmlu.source import parse, read

HEADER = "question,choice0,choice1,choice2,choice3,answer\n"


def test_both_layouts_give_the_same() -> None:
    with_header = parse((HEADER + '"Why, ""x""?\nTell.",a,b,c,d,2\n').encode(), "anatomy", "f")
    original = parse('\ufeff"Why, ""x""?\nTell.",a,b,c,d,C\n'.encode(), "anatomy", "f")
    assert with_header == original
    assert original == [
        {"question": 'Why, "x"?\nTell.', "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 2}
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("q,a,b,c,d\n", "f.csv, row 1: 5 fields"),
        (HEADER + "q,a,b,c,d,0\nq,a,b,c,d,4\n", "f.csv, row 3, field answer: '4'"),
        ("q,a,b,c,d,E\n", "row 1, field answer: 'E'"),
        ("q,a,b,c,d,\n", "row 1, field answer: ''"),
        ("q,a,b,c,d,01\n", "row 1, field answer: '01'"),
        ("q,a,,c,d,A\n", "row 1, field choice1: is empty"),
        (" ,a,b,c,d,A\n", "row 1, field question: is empty"),
        ("", "has no questions"),
        (HEADER, "has no questions"),
        ('"q,a,b', "not a CSV file"),
    ],
)
def test_malformed_file(text: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text.encode(), "anatomy", "f.csv")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_encoding() -> None:
    with pytest.raises(UsageError, match=r"f\.csv: not UTF-8 \(byte 2\)"):
        parse("q\xe9,a,b,c,d,A".encode("latin-1"), "anatomy", "f.csv")


def write(folder: Path, subject: str = "anatomy") -> None:
    for split in ("test", "dev"):
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / f"{subject}_{split}.csv").write_text(f"{split}?,a,b,c,d,A\n")


@pytest.mark.parametrize("inner", ["mmlu", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_places(tmp_path: Path, inner: str, packed: bool) -> None:
    folder = tmp_path / inner
    write(folder)
    if packed:
        with zipfile.ZipFile(folder / "mmlu_test_dev.zip", "w") as archive:
            for split in ("test", "dev"):
                archive.write(folder / split / f"anatomy_{split}.csv", f"{split}/anatomy_{split}.csv")
                (folder / split / f"anatomy_{split}.csv").unlink()
    source = read(tmp_path, offline=True)
    assert source.where == ("mmlu_test_dev.zip" if packed else "csv")
    assert [source.rows("anatomy", split)[0]["question"] for split in ("test", "dev")] == ["test?", "dev?"]
    with pytest.raises(MissingDataError, match=r"astronomy_test\.csv.*--data-dir"):
        source.rows("astronomy", "test")


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    with pytest.raises(MissingDataError, match=r"no mmlu/\{test,dev\}/\*\.csv under"):
        read(tmp_path, offline=True).rows("anatomy", "test")


def test_broken_zip(tmp_path: Path) -> None:
    (tmp_path / "mmlu_test_dev.zip").write_bytes(b"PK no zip")
    source = read(tmp_path, offline=True)
    with pytest.raises(UsageError, match="not a readable zip"):
        source.rows("anatomy", "test")


def test_hub_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(MissingDataError, match=r"--data-dir DIR .* connect once") as caught:
        read(None, offline=True).rows("anatomy", "test")
    assert isinstance(caught.value, Lr2EvalError)
    assert caught.value.exit_code == 2
    assert "cais/mmlu (anatomy, test)" in str(caught.value)
    assert before == datasets.config.HF_HUB_OFFLINE


def test_hub_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    row = {"question": "q", "subject": "anatomy", "choices": list("abcd"), "answer": 1, "extra": 0}
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *names, split: asked.append((*names, split, offline())) or [row]
    )

    def offline() -> bool:
        return bool(datasets.config.HF_HUB_OFFLINE)

    found = read(None, offline=True).rows("anatomy", "dev")
    assert found == [{key: row[key] for key in ("question", "subject", "choices", "answer")}]
    assert asked == [("cais/mmlu", "anatomy", "dev", True)]


@pytest.mark.shared_data
def test_published_splits(shared_data: Path) -> None:
    source = read(shared_data, offline=True)
    from lr2eval.tasks.shared.upstream import mmlu_files

    rows = {split: {subject: source.rows(subject, split) for subject in mmlu_files()} for split in ("test", "dev")}
    assert sum(map(len, rows["test"].values())) == 14_042
    assert {len(each) for each in rows["dev"].values()} == {5}
    # Written out in the original layout and read again, they are the same.
    text = io.StringIO()
    csv.writer(text).writerows(
        [row["question"], *row["choices"], "ABCD"[row["answer"]]] for row in rows["test"]["world_religions"]
    )
    assert parse(text.getvalue().encode(), "world_religions", "f") == rows["test"]["world_religions"]
