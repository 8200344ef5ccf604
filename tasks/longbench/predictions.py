"""LongBench's own files of predictions: one object a line with ``pred``, ``answers``, ``all_classes``, ``length``."""

from __future__ import annotations

from collections.abc import Sequence

from lr2eval._errors import UsageError
from lr2eval.tasks import _jsonl
from lr2eval.tasks.longbench import metrics
from lr2eval.tasks.longbench.suite import DATA_SETS, bucket


def score_row(dataset: str, row: _jsonl.Row) -> float:
    """Score (0..1) of one prediction. :class:`UsageError` names the field that is wrong."""
    prediction, answers = _jsonl.text(row, "pred"), _jsonl.texts(row, "answers")
    return metrics.score(dataset, prediction, answers, classes(dataset, row, answers))


def group(row: _jsonl.Row) -> str:
    """The length bucket of LongBench-E."""
    return bucket(_jsonl.whole_number(row, "length"))


def classes(dataset: str, row: _jsonl.Row, answers: Sequence[str]) -> list[str] | None:
    """The labels of a classification data set, of which every answer must be one; ``None`` for the others."""
    if DATA_SETS[dataset].metric != "classification":
        return None
    labels = _jsonl.texts(row, "all_classes")
    for answer in answers:
        if answer not in labels:
            raise UsageError(f"field answers: {answer!r} is not among all_classes")
    return labels
