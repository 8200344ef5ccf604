"""LongBench's samples: from local JSON Lines files, or from the hub through the ``datasets`` library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lr2eval.errors import UsageError
from lr2eval.tasks.longbench.layout import Item
from lr2eval.tasks.longbench.prompts import prompt
from lr2eval.tasks.longbench.suite import DATA_SETS
from lr2eval.tasks.shared import jsonl
from lr2eval.tasks.shared.rows import RowFile


def rows_of(dataset: str, *, extended: bool) -> RowFile:
    """The samples of a data set (as :class:`Item`), of LongBench-E if ``extended``. Those must have a length.

    ``Item.extra``: ``all_classes`` and ``length``.
    """
    name = f"{dataset}_e" if extended else dataset
    benchmark = "longbench_e" if extended else "longbench"
    labels: dict[str, Any] = {}

    def parse(row: jsonl.Row) -> Item:
        item = _item(dataset, row, extended)
        if labels.setdefault("first", item.extra["all_classes"]) != item.extra["all_classes"]:
            raise UsageError("field all_classes: differs from the first sample's; correct the file")
        return item

    return RowFile(
        name=f"longbench/{name}",
        read_by=(benchmark,),
        tasks=f"{benchmark}:{dataset}",
        licence="MIT for LongBench; its sources have terms of their own",
        hub=prompt(dataset).hub,
        config=name,
        split="test",
        file=f"longbench/{name}.jsonl",
        pattern=rf"{re.escape(name)}\.jsonl(\.gz)?",
        parse=parse,
        ids=("_id",),
        also_beside=True,
    )


def _item(dataset: str, row: jsonl.Row, extended: bool) -> Item:
    answers = jsonl.texts(row, "answers")
    labels = classes(dataset, row, answers)
    # The hub's copy calls the question "question"; LongBench's own files call it "input".
    question = jsonl.text(row, "question" if "question" in row and "input" not in row else "input")
    length = jsonl.whole_number(row, "length") if extended or row.get("length") is not None else None
    context = jsonl.text(row, "context")
    return Item(context, question, tuple(answers), {"all_classes": labels, "length": length})


def classes(dataset: str, row: jsonl.Row, answers: Sequence[str]) -> list[str] | None:
    """The labels of a classification data set, of which every answer must be one; ``None`` for the others."""
    if DATA_SETS[dataset].metric != "classification":
        return None
    labels = jsonl.texts(row, "all_classes")
    for answer in answers:
        if answer not in labels:
            raise UsageError(f"field answers: {answer!r} is not among all_classes")
    return labels
