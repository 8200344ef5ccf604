"""MMLU's questions: from local files in the published layouts, or from the hub through the ``datasets`` library."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lr2eval.errors import MissingDataError, UsageError
from lr2eval.tasks.shared import hub

ZIP_NAME = "mmlu_test_dev.zip"
SPLITS = ("test", "dev")
LETTERS = "ABCD"
MENDS = "give the files with --data-dir DIR (DIR/mmlu/{test,dev}/*.csv) or connect once so that they are cached"

Row = dict[str, Any]
"""``question``, ``subject``, ``choices`` (four strings) and ``answer`` (0..3), as in the hub's copy."""


@dataclass(frozen=True)
class Source:
    """Where questions come from (``where`` is for manifest and report) and how to read a split of a subject."""

    where: str
    rows: Callable[[str, str], list[Row]]


def local_source(data_dir: Path) -> Source | None:
    """Questions under ``data_dir``, ``None`` if there are none."""
    path = find(data_dir)
    if path is None:
        return None
    return Source(ZIP_NAME, _from_zip(path)) if path.name == ZIP_NAME else Source("csv", _from_folder(path))


def find(data_dir: Path) -> Path | None:
    """A zip, or the folder of ``test`` and ``dev``: in ``data_dir`` or in its ``mmlu`` folder."""
    for folder in (data_dir / "mmlu", data_dir):
        if (folder / ZIP_NAME).is_file():
            return folder / ZIP_NAME
        if all((folder / split).is_dir() for split in SPLITS):
            return folder
    return None


def hub_source(dataset: str, offline: bool, searched: Path | None = None) -> Source:
    """Questions of the hub data set; ``offline`` reads its local cache only.

    ``searched`` is a folder that was given and holds no questions; an error says so.
    """
    local = f"no questions under {searched}, and " if searched else ""

    def rows(subject: str, split: str) -> list[Row]:
        import datasets

        try:
            with hub.hub_access(offline):
                table = datasets.load_dataset(dataset, subject, split=split)
        except Exception as error:  # no network, no cache, hub trouble: all mean that the data is not to be had
            raise MissingDataError(
                f"mmlu: {local}{dataset} ({subject}, {split}) cannot be read ({hub.first_line(error)}); {MENDS}"
            ) from error
        return [{key: row[key] for key in ("question", "subject", "choices", "answer")} for row in table]

    return Source(f"hub:{dataset}", rows)


def _from_zip(path: Path) -> Callable[[str, str], list[Row]]:
    def rows(subject: str, split: str) -> list[Row]:
        name = f"{split}/{subject}_{split}.csv"
        try:
            with zipfile.ZipFile(path) as archive:
                data = archive.read(name)
        except KeyError as error:
            raise MissingDataError(f"mmlu: {path} lacks {name}; {MENDS}") from error
        except (OSError, zipfile.BadZipFile) as error:
            raise UsageError(f"{path}: not a readable zip file ({error}); download it again") from error
        return parse(data, subject, f"{path}:{name}")

    return rows


def _from_folder(folder: Path) -> Callable[[str, str], list[Row]]:
    def rows(subject: str, split: str) -> list[Row]:
        path = folder / split / f"{subject}_{split}.csv"
        try:
            data = path.read_bytes()
        except OSError as error:
            raise MissingDataError(f"mmlu: {path} cannot be read ({error.strerror}); {MENDS}") from error
        return parse(data, subject, str(path))

    return rows


def parse(data: bytes, subject: str, name: str) -> list[Row]:
    """Questions of one CSV file. Raises :class:`UsageError` naming file, row and field.

    Two layouts are known: the original one (no header, answers A to D) and one with the header
    ``question,choice0..choice3,answer`` and answers 0 to 3.
    """
    try:
        table = list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{name}: not a UTF-8 CSV file ({error}); download it again") from error
    lines = [(number, cells) for number, cells in enumerate(table, 1) if cells]
    if lines and lines[0][1][:2] == ["question", "choice0"]:
        lines = lines[1:]
    if not lines:
        raise UsageError(f"{name}: holds no questions; download it again")
    return [_row(cells, subject, f"{name}, row {number}") for number, cells in lines]


def _row(cells: Sequence[str], subject: str, place: str) -> Row:
    if len(cells) != 6:
        raise UsageError(f"{place}: {len(cells)} fields instead of question, four choices and answer; mend the file")
    question, *choices, answer = cells
    for field, text in zip(("question", "choice0", "choice1", "choice2", "choice3"), cells, strict=False):
        if not text.strip():
            raise UsageError(f"{place}, field {field}: is empty; mend the file")
    key = answer.strip()
    if len(key) != 1 or key not in LETTERS + "0123":
        raise UsageError(f"{place}, field answer: {answer!r} is neither A..D nor 0..3; mend the file")
    index = LETTERS.find(key) if key in LETTERS else int(key)
    return {"question": question, "subject": subject, "choices": choices, "answer": index}
