"""LongBench's samples: from local JSON Lines files, or from the hub through the ``datasets`` library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from lr2eval.errors import MissingDataError, UsageError
from lr2eval.tasks.longbench import metrics
from lr2eval.tasks.longbench.layout import Item
from lr2eval.tasks.longbench.suite import DATA_SETS, bucket
from lr2eval.tasks.shared import jsonl
from lr2eval.tasks.shared.hub import first_line
from lr2eval.tasks.shared.hub import hub_rows as read_hub

FOLDER = "longbench"


def load(dataset: str, *, extended: bool, hub: str, data_dir: Path | None, offline: bool) -> tuple[str, list[Item]]:
    """(where they come from, the samples in the data set's order). Their ``extra``: ``all_classes`` and ``length``.

    ``extended`` reads LongBench-E's file, ``DATASET_e.jsonl``, whose samples must have a length. Raises
    :class:`MissingDataError` if there is neither a file nor the hub, :class:`UsageError` naming file, line and field.
    """
    name = f"{dataset}_e" if extended else dataset
    path = find(data_dir, name) if data_dir else None
    rows = jsonl.read(path, ("_id",)) if path else hub_rows(hub, name, offline, data_dir)
    items = []
    for place, row in rows:
        try:
            items.append(_item(dataset, row, extended))
        except UsageError as error:
            raise UsageError(f"{place}, {error}") from error
        if items[-1].extra["all_classes"] != items[0].extra["all_classes"]:
            raise UsageError(f"{place}, field all_classes: differs from the first sample's; mend the file")
    return path.name if path else f"hub:{hub}", items


def find(data_dir: Path, name: str) -> Path | None:
    """The file of a data set (``trec``, ``trec_e``) under ``data_dir``."""
    places = [folder / f"{name}{end}" for folder in (data_dir / FOLDER, data_dir) for end in jsonl.ENDINGS]
    return next((path for path in places if path.is_file()), None)


def hub_rows(hub: str, name: str, offline: bool, searched: Path | None) -> Iterator[tuple[str, jsonl.Row]]:
    """(place, row) of a data set of the hub; :class:`MissingDataError` if it is not to be had."""
    try:
        table = read_hub(hub, name, "test", offline, "")
    except MissingDataError as error:
        raise MissingDataError(missing([name], hub, searched, error.__cause__ or error)) from error.__cause__
    return ((f"{hub} ({name}), row {number}", row) for number, row in enumerate(table, 1))


def missing(names: Sequence[str], hub: str, searched: Path | None, cause: BaseException) -> str:
    """What to say where these data sets are nowhere."""
    # Named once: one line may be about all 21.
    shown = "" if searched and len(names) > 1 else f" ({', '.join(names)})"
    local = f"no {', '.join(f'{name}.jsonl' for name in names)} under {searched}, and " if searched else ""
    files = f"{FOLDER}/{names[0] if len(names) == 1 else 'DATASET'}.jsonl"
    return (
        f"longbench: {local}{hub}{shown} cannot be read ({first_line(cause)}); give the "
        f"file{'s' * (len(names) > 1)} with --data-dir DIR (DIR/{files}) or connect once so that they are cached"
    )


def _item(dataset: str, row: jsonl.Row, extended: bool) -> Item:
    answers = jsonl.texts(row, "answers")
    labels = classes(dataset, row, answers)
    # The hub's copy calls the question "question"; LongBench's own files call it "input".
    question = jsonl.text(row, "question" if "question" in row and "input" not in row else "input")
    length = jsonl.whole_number(row, "length") if extended or row.get("length") is not None else None
    context = jsonl.text(row, "context")
    return Item(context, question, tuple(answers), {"all_classes": labels, "length": length})


def score_row(dataset: str, row: jsonl.Row) -> float:
    """Score (0..1) of one prediction. :class:`UsageError` names the field that is wrong."""
    prediction, answers = jsonl.text(row, "pred"), jsonl.texts(row, "answers")
    return metrics.score(dataset, prediction, answers, classes(dataset, row, answers))


def group(row: jsonl.Row) -> str:
    """The length bucket of LongBench-E."""
    return bucket(jsonl.whole_number(row, "length"))


def classes(dataset: str, row: jsonl.Row, answers: Sequence[str]) -> list[str] | None:
    """The labels of a classification data set, of which every answer must be one; ``None`` for the others."""
    if DATA_SETS[dataset].metric != "classification":
        return None
    labels = jsonl.texts(row, "all_classes")
    for answer in answers:
        if answer not in labels:
            raise UsageError(f"field answers: {answer!r} is not among all_classes")
    return labels
