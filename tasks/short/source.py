"""HellaSwag, TruthfulQA, GSM8K and MMLU-Pro: rows from local files, or from the hub through ``datasets``.

Whichever it is, a row keeps the same fields, so that both give the same prompts and the same hash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lr2eval.errors import UsageError
from lr2eval.tasks.shared import jsonl
from lr2eval.tasks.shared.rows import RowFile

LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class ShortData:
    """One data set. ``files``: split -> name of its file, without ending, in a folder named as the data set.

    ``split`` is the one that is asked; ``published`` counts its rows.
    """

    hub: str
    hub_name: str | None
    files: Mapping[str, str]
    split: str
    published: int
    row: Callable[[jsonl.Row], dict[str, Any]]
    ids: tuple[str, ...] = ()
    ending: str = "jsonl"
    """Of the authors' files."""
    licence: str = "MIT"


def rows_of(name: str, split: str) -> RowFile:
    """The rows of a split: ``NAME/FILE*.jsonl``, or ``.json`` with a list, plain or gzipped."""
    known = SETS[name]
    return RowFile(
        name=f"{name}/{split}",
        read_by=("short",),
        tasks=f"short:{name}",
        licence=known.licence,
        hub=known.hub,
        config=known.hub_name,
        split=split,
        file=f"{name}/{known.files[split]}.{known.ending}",
        pattern=re.escape(known.files[split]) + r"[^.]*\.jsonl?(\.gz)?",
        parse=known.row,
        ids=known.ids,
        keep_parsed=True,
    )


def _hellaswag(row: jsonl.Row) -> dict[str, Any]:
    endings, label = jsonl.texts(row, "endings"), row.get("label")
    if str(label) not in map(str, range(len(endings))):
        raise UsageError(f"field label: {label!r} is not the number of an ending (0 to {len(endings) - 1})")
    texts = {key: jsonl.text(row, key) for key in ("activity_label", "ctx_a", "ctx_b", "source_id")}
    return {**texts, "endings": endings, "label": str(label)}


def _gsm8k(row: jsonl.Row) -> dict[str, Any]:
    question, answer = jsonl.text(row, "question"), jsonl.text(row, "answer")
    if not re.search(r"#### -?[0-9.,]+", answer):
        raise UsageError('field answer: does not end in "#### NUMBER"')
    return {"question": question, "answer": answer}


def _truthfulqa(row: jsonl.Row) -> dict[str, Any]:
    return {
        "question": jsonl.text(row, "question"),
        "mc1_targets": _targets(row, "mc1_targets", one=True),
        "mc2_targets": _targets(row, "mc2_targets", one=False),
    }


def _targets(row: jsonl.Row, name: str, *, one: bool) -> dict[str, Any]:
    """Answers and labels, the true ones first, as the hub has them; lm-eval relies on that for MC1.

    The authors' file has {answer: 0 or 1}, the hub {"choices": [...], "labels": [...]}.
    """
    given = row.get(name)
    if not isinstance(given, Mapping):
        raise UsageError(f"field {name}: must be the answers with 0 or 1 for each")
    lists = given if set(given) == {"choices", "labels"} else {"choices": [*given], "labels": [*given.values()]}
    choices, labels = jsonl.texts(lists, "choices"), lists["labels"]
    if not isinstance(labels, list) or len(labels) != len(choices) or any(each not in (0, 1) for each in labels):
        raise UsageError(f"field {name}: must have a label, 0 or 1, for each answer")
    true = sum(labels)
    if not true or true == len(labels) or (one and true > 1):
        raise UsageError(f"field {name}: {true} of {len(labels)} answers are true, must be {'one' if one else 'some'}")
    order = sorted(range(len(labels)), key=lambda number: -labels[number])
    return {"choices": [choices[number] for number in order], "labels": [int(labels[number]) for number in order]}


def _mmlu_pro(row: jsonl.Row) -> dict[str, Any]:
    options, answer = jsonl.texts(row, "options"), jsonl.text(row, "answer")
    letters = LETTERS[: len(options)]
    if answer not in tuple(letters) or row.get("answer_index", letters.find(answer)) != letters.find(answer):
        raise UsageError(f"field answer: {answer!r} is not among {', '.join(letters)}, or differs from answer_index")
    texts = {key: jsonl.text(row, key) for key in ("question", "category", "cot_content")}
    return {**texts, "options": options, "answer": answer}


SETS = {
    "hellaswag": ShortData(
        "Rowan/hellaswag",
        None,
        {"validation": "hellaswag_val", "train": "hellaswag_train"},
        "validation",
        10_042,
        _hellaswag,
    ),
    "truthfulqa": ShortData(
        "truthfulqa/truthful_qa",
        "multiple_choice",
        {"validation": "mc_task"},
        "validation",
        817,
        _truthfulqa,
        ending="json",
        licence="Apache-2.0",
    ),
    "gsm8k": ShortData("openai/gsm8k", "main", {"test": "test", "train": "train"}, "test", 1_319, _gsm8k),
    "mmlu_pro": ShortData(
        "TIGER-Lab/MMLU-Pro",
        None,
        {"test": "test", "validation": "validation"},
        "test",
        12_032,
        _mmlu_pro,
        ("question_id",),
    ),
}
