"""LongBench's samples: from local JSON Lines files, or from the hub through the ``datasets`` library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from lr2eval._errors import MissingDataError, UsageError
from lr2eval.tasks import _hub, _jsonl
from lr2eval.tasks.longbench.layout import Item
from lr2eval.tasks.longbench.predictions import classes

FOLDER = "longbench"


def load(dataset: str, *, extended: bool, hub: str, data_dir: Path | None, offline: bool) -> tuple[str, list[Item]]:
    """(where they come from, the samples in the data set's order). Their ``extra``: ``all_classes`` and ``length``.

    ``extended`` reads LongBench-E's file, ``DATASET_e.jsonl``, whose samples must have a length. Raises
    :class:`MissingDataError` if there is neither a file nor the hub, :class:`UsageError` naming file, line and field.
    """
    name = f"{dataset}_e" if extended else dataset
    path = find(data_dir, name) if data_dir else None
    rows = _jsonl.read(path, ("_id",)) if path else hub_rows(hub, name, offline, data_dir)
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
    places = [folder / f"{name}{end}" for folder in (data_dir / FOLDER, data_dir) for end in _jsonl.ENDINGS]
    return next((path for path in places if path.is_file()), None)


def hub_rows(hub: str, name: str, offline: bool, searched: Path | None) -> Iterator[tuple[str, _jsonl.Row]]:
    """(place, row) of a data set of the hub; :class:`MissingDataError` if it is not to be had."""
    try:
        table = _hub.rows(hub, name, "test", offline, "")
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
        f"longbench: {local}{hub}{shown} cannot be read ({_hub.first_line(cause)}); give the "
        f"file{'s' * (len(names) > 1)} with --data-dir DIR (DIR/{files}) or connect once so that they are cached"
    )


def _item(dataset: str, row: _jsonl.Row, extended: bool) -> Item:
    answers = _jsonl.texts(row, "answers")
    labels = classes(dataset, row, answers)
    # The hub's copy calls the question "question"; LongBench's own files call it "input".
    question = _jsonl.text(row, "question" if "question" in row and "input" not in row else "input")
    length = _jsonl.whole_number(row, "length") if extended or row.get("length") is not None else None
    context = _jsonl.text(row, "context")
    return Item(context, question, tuple(answers), {"all_classes": labels, "length": length})
