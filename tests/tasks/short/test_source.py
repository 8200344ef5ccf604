"""Rows of the short benchmarks: the same from files and from the hub, and errors that name file, line and field."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lr2eval.errors import MissingDataError, UsageError
from lr2eval.tasks.short import source

HELLASWAG = {
    "ind": 1,
    "activity_label": "Rowing",
    "ctx_a": "A boat.",
    "ctx_b": "the crew",
    "endings": ["a", "b", "c", "d"],
    "label": 3,
    "source_id": "v1",
}
GSM8K = {"question": "How many?", "answer": "Two.\n#### 1,200"}
TRUTHFULQA = {"question": "Is it?", "mc1_targets": {"no": 0, "yes": 1}, "mc2_targets": {"no": 0, "yes": 1, "sure": 1}}
MMLU_PRO = {
    "question_id": 7,
    "question": "Which?",
    "options": ["x", "y", "z"],
    "answer": "B",
    "answer_index": 1,
    "cot_content": "A: Let's think step by step. The answer is (B).",
    "category": "computer science",
}
ROWS: dict[str, Any] = {"hellaswag": HELLASWAG, "gsm8k": GSM8K, "truthfulqa": TRUTHFULQA, "mmlu_pro": MMLU_PRO}
TARGETS = {"choices": ["yes", "no"], "labels": [1, 0]}


def write(data_dir: Path, name: str, file: str, *rows: Any) -> Path:
    """Rows as the file that its ending says."""
    path = data_dir / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows) if ".json" in path.suffixes else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if file.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "split", "file"),
    [
        ("hellaswag", "validation", "hellaswag_val_sample1000.jsonl.gz"),
        ("hellaswag", "train", "hellaswag_train.jsonl"),
        ("gsm8k", "test", "test.jsonl.gz"),
        ("gsm8k", "train", "train.jsonl"),
        ("truthfulqa", "validation", "mc_task.json.gz"),
        ("truthfulqa", "validation", "mc_task.jsonl"),
        ("mmlu_pro", "validation", "validation.jsonl"),
    ],
)
def test_files(name: str, split: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, name, file, ROWS[name])
    where, rows = source.rows_of(name, split).read(tmp_path, offline=True)
    assert where == file
    asked = []

    def load(*names: Any, split: str) -> Any:
        asked.append((*names, split))
        hub = {**ROWS[name], "label": "3"} if name == "hellaswag" else ROWS[name]
        if name == "truthfulqa":
            hub = {
                **hub,
                "mc1_targets": TARGETS,
                "mc2_targets": {"choices": ["yes", "sure", "no"], "labels": [1, 1, 0]},
            }
        return [hub]

    monkeypatch.setattr("datasets.load_dataset", load)
    layout = source.SETS[name]
    assert source.rows_of(name, split).read(None, offline=False) == (f"hub:{layout.hub}", rows)
    assert asked == [(*filter(None, (layout.hub, layout.hub_name)), split)]


def test_the_true_answer_comes_first() -> None:
    row = source.SETS["truthfulqa"].row(TRUTHFULQA)
    assert row["mc1_targets"] == TARGETS
    assert row["mc2_targets"] == {"choices": ["yes", "sure", "no"], "labels": [1, 1, 0]}


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("hellaswag", {"label": 4}, "field label: 4 is not the number of an ending (0 to 3)"),
        ("hellaswag", {"label": ""}, "field label: '' is not"),
        ("hellaswag", {"endings": []}, "field endings: is [], must be a list"),
        ("hellaswag", {"ctx_b": None}, "field ctx_b: is null"),
        ("gsm8k", {"answer": "four"}, 'field answer: does not end in "#### NUMBER"'),
        ("truthfulqa", {"mc1_targets": {"a": 1, "b": 1}}, "field mc1_targets: 2 of 2 answers are true, must be one"),
        ("truthfulqa", {"mc1_targets": {"a": 1, "b": 1, "c": 0}}, "2 of 3 answers are true, must be one"),
        ("truthfulqa", {"mc2_targets": {"a": 0, "b": 0}}, "field mc2_targets: 0 of 2 answers are true, must be some"),
        ("truthfulqa", {"mc2_targets": ["a"]}, "field mc2_targets: must be the answers"),
        ("truthfulqa", {"mc1_targets": {"a": 2, "b": 0}}, "must have a label, 0 or 1, for each"),
        ("truthfulqa", {"mc1_targets": {"choices": ["a", "b"], "labels": [1]}}, "must have a label"),
        ("mmlu_pro", {"answer": "D"}, "field answer: 'D' is not among A, B, C"),
        ("mmlu_pro", {"answer_index": 2}, "or differs from answer_index"),
        ("mmlu_pro", {"question_id": 6}, "field question_id: line 1 has 6 too"),
    ],
)
def test_bad_rows(name: str, change: Any, says: str, tmp_path: Path) -> None:
    split = source.SETS[name].split
    first = {**ROWS[name], **({"question_id": 6} if name == "mmlu_pro" else {})}
    path = write(tmp_path, name, f"{source.SETS[name].files[split]}.jsonl", first, {**ROWS[name], **change})
    with pytest.raises(UsageError) as caught:
        source.rows_of(name, split).read(tmp_path, offline=True)
    assert str(caught.value).startswith(f"{path}, line 2, field ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_utf8_and_two_files(tmp_path: Path) -> None:
    path = write(tmp_path, "gsm8k", "test.jsonl", GSM8K)
    path.write_bytes(path.read_bytes() + '{"question": "é"}'.encode("latin-1"))
    with pytest.raises(UsageError, match=r"test\.jsonl, line 2: not UTF-8 \(byte 15\)"):
        source.rows_of("gsm8k", "test").read(tmp_path, offline=True)
    write(tmp_path, "gsm8k", "test_half.jsonl.gz", GSM8K)
    with pytest.raises(UsageError, match=r"holds test\.jsonl and test_half\.jsonl\.gz; keep only one of them"):
        source.rows_of("gsm8k", "test").read(tmp_path, offline=True)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        source.rows_of("truthfulqa", "validation").read(tmp_path, offline=True, advice="not")
    line = str(caught.value)
    assert line.startswith(
        f"truthfulqa/validation: no truthfulqa/mc_task.json under {tmp_path}, and truthfulqa/truthful_qa (multiple_"
    )
    assert line.endswith(", or not")
    assert "DIR/truthfulqa/mc_task.json" in line
