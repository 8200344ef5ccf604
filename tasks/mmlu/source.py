"""MMLU's questions: from local files in the published layouts, or from the hub through the ``datasets`` library."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lr2eval.base.reading import parse_csv, read_bytes, zip_members
from lr2eval.benchmark import DataNeed
from lr2eval.errors import MissingDataError, UsageError
from lr2eval.tasks.shared import upstream
from lr2eval.tasks.shared.hub import hub_rows

ZIP_NAME = "mmlu_test_dev.zip"
SPLITS = ("test", "dev")
LETTERS = "ABCD"

Row = dict[str, Any]
"""``question``, ``subject``, ``choices`` (four strings) and ``answer`` (0..3), as in the hub's copy."""


@dataclass(frozen=True)
class MmluQuestions:
    """Where questions are from (``where`` is for manifest and report) and how to read a split of a subject."""

    where: str
    rows: Callable[[str, str], list[Row]]


@dataclass(frozen=True, kw_only=True)
class MmluData(DataNeed):
    """A bundle gets all subjects, they are small; ``subjects`` must be among them."""

    name: str = "mmlu"
    tasks: str = "mmlu"
    read_by: tuple[str, ...] = ("mmlu", "short")
    licence: str = "MIT"
    file: str = "mmlu/{test,dev}/*.csv"
    hub: str = field(default_factory=lambda: upstream.mmlu_definition("abstract_algebra")["dataset_path"])
    subjects: Sequence[str] = ()

    def local(self, data_dir: Path) -> Iterator[tuple[str, Path]]:
        path = find(data_dir)
        if path is not None and path.is_file():
            yield f"mmlu/{path.name}", path
        elif path is not None:
            for split in SPLITS:
                yield from ((f"mmlu/{split}/{file.name}", file) for file in sorted((path / split).glob("*.csv")))

    def fetch(self, offline: bool) -> Iterator[tuple[str, bytes]]:
        found = read(None, offline)
        for subject in upstream.mmlu_files():
            for split in SPLITS:
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows(
                    [row["question"], *row["choices"], LETTERS[row["answer"]]] for row in found.rows(subject, split)
                )
                yield f"mmlu/{split}/{subject}_{split}.csv", text.getvalue().encode()

    def check(self, data_dir: Path) -> None:
        found = read(data_dir, offline=True)
        for subject in self.subjects:
            for split in SPLITS:
                found.rows(subject, split)


def read(data_dir: Path | None, offline: bool) -> MmluQuestions:
    """The questions in ``data_dir``, or else those of the hub (``offline``: only of its local cache)."""
    path = find(data_dir) if data_dir else None
    if path is not None:
        return MmluQuestions(ZIP_NAME if path.is_file() else "csv", _reader(path))
    known = MmluData()
    failed: list[MissingDataError] = []

    def rows(subject: str, split: str) -> list[Row]:
        if failed:
            raise failed[0]  # without a network each further subject would wait as long
        try:
            found = hub_rows(known, subject, split, offline, data_dir)
        except MissingDataError as error:
            failed.extend([] if offline else [error])
            raise
        return [{key: row[key] for key in ("question", "subject", "choices", "answer")} for row in found]

    return MmluQuestions(f"hub:{known.hub}", rows)


def find(data_dir: Path) -> Path | None:
    """A zip file, or the folder of ``test`` and ``dev``: in ``data_dir`` or in its ``mmlu`` folder."""
    for folder in (data_dir / "mmlu", data_dir):
        if (folder / ZIP_NAME).is_file():
            return folder / ZIP_NAME
        if all((folder / split).is_dir() for split in SPLITS):
            return folder
    return None


def _reader(path: Path) -> Callable[[str, str], list[Row]]:
    def rows(subject: str, split: str) -> list[Row]:
        name = f"{split}/{subject}_{split}.csv"
        place = f"{path}:{name}" if path.is_file() else str(path / name)
        if path.is_file():
            found = [data for _, data in zip_members(path, name.__eq__, fix="download it again")]
        else:
            found = [read_bytes(path / name)] if (path / name).exists() else []
        if not found:
            raise MmluData().missing(f"{place} cannot be read (there is no such file)")
        return parse(found[0], subject, place)

    return rows


def parse(data: bytes, subject: str, name: str) -> list[Row]:
    """Questions of one CSV file. Raises :class:`UsageError` naming file, row and field.

    Two layouts are known: the original one (no header, answers A to D) and one with the header
    ``question,choice0..choice3,answer`` and answers 0 to 3.
    """
    table = parse_csv(data, name, fix="download it again")
    lines = [(number, cells) for number, cells in enumerate(table, 1) if cells]
    if lines and lines[0][1][:2] == ["question", "choice0"]:
        lines = lines[1:]
    if not lines:
        raise UsageError(f"{name}: has no questions; download it again")
    return [_row(cells, subject, f"{name}, row {number}") for number, cells in lines]


def _row(cells: Sequence[str], subject: str, place: str) -> Row:
    if len(cells) != 6:
        raise UsageError(f"{place}: {len(cells)} fields instead of question, four choices and answer; correct the file")
    question, *choices, answer = cells
    for name, text in zip(("question", "choice0", "choice1", "choice2", "choice3"), cells, strict=False):
        if not text.strip():
            raise UsageError(f"{place}, field {name}: is empty; correct the file")
    key = answer.strip()
    if len(key) != 1 or key not in LETTERS + "0123":
        raise UsageError(f"{place}, field answer: {answer!r:.40} is neither A..D nor 0..3; correct the file")
    index = LETTERS.find(key) if key in LETTERS else int(key)
    return {"question": question, "subject": subject, "choices": choices, "answer": index}
