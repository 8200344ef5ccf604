"""A data set in rows: a file of JSON objects in a data folder, or the same rows on the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lr2eval.benchmark import DataNeed
from lr2eval.errors import UsageError
from lr2eval.tasks.shared import jsonl
from lr2eval.tasks.shared.hub import hub_rows


@dataclass(frozen=True, kw_only=True)
class RowFile(DataNeed):
    """``parse`` turns a row into what a run uses; its :class:`UsageError` names the field.

    ``pattern`` (a regular expression) matches names of the file. ``ids``: fields whose values must differ.
    """

    config: str | None
    split: str
    pattern: str
    parse: Callable[[jsonl.Row], Any]
    ids: tuple[str, ...] = ()
    keep_parsed: bool = False
    """Whether a bundle holds parsed rows of the hub rather than whole ones."""
    also_beside: bool = False
    """Whether the file may also lie in the data folder itself."""

    def local(self, data_dir: Path) -> list[tuple[str, Path]]:
        return one_file(self.find(data_dir), self.file)

    def fetch(self, offline: bool) -> Iterator[tuple[str, bytes]]:
        rows = self._parsed(self._hub(offline), self.parse if self.keep_parsed else dict)
        yield str(Path(self.file).with_suffix(".jsonl")), b"".join(json_bytes(row) + b"\n" for row in rows)

    def check(self, data_dir: Path) -> None:
        self.read(data_dir, offline=True)

    def find(self, data_dir: Path) -> Path | None:
        """The file in a data folder. Raises :class:`UsageError` if there are two."""
        folders = [(data_dir / self.file).parent, *([data_dir] if self.also_beside else [])]
        for folder in folders:
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
            files = [path for path in paths if re.fullmatch(self.pattern, path.name)]
            if len(files) > 1:
                raise UsageError(f"{folder}: holds {files[0].name} and {files[1].name}; keep only one of them")
            if files:
                return files[0]
        return None

    def read(self, data_dir: Path | None, *, offline: bool, advice: str = "") -> tuple[str, list[Any]]:
        """(where the rows are from, parsed rows). A file in ``data_dir`` is preferred to the hub.

        Raises :class:`MissingDataError`, which ends in ``advice``, if there is neither. Raises :class:`UsageError` for
        bad data, naming file, line and field.
        """
        path = self.find(data_dir) if data_dir else None
        if path is not None:
            return path.name, self._parsed(jsonl.read(path, self.ids), self.parse)
        return f"hub:{self.hub}", self._parsed(self._hub(offline, data_dir, advice), self.parse)

    def _hub(self, offline: bool, searched: Path | None = None, advice: str = "") -> Iterator[tuple[str, jsonl.Row]]:
        part = ", ".join(filter(None, (self.config, self.split)))
        rows = hub_rows(self, self.config, self.split, offline, searched, advice)
        return ((f"{self.hub} ({part}), row {number}", row) for number, row in enumerate(rows, 1))

    def _parsed(self, rows: Iterable[tuple[str, jsonl.Row]], parse: Callable[[jsonl.Row], Any]) -> list[Any]:
        found = []
        for place, row in rows:
            try:
                found.append(parse(row))
            except UsageError as error:
                raise UsageError(f"{place}, {error}") from error
        return found


def one_file(path: Path | None, place: str) -> list[tuple[str, Path]]:
    """The files of a data set that is one file. In a bundle it keeps its name, in the folder of ``place``."""
    return [(str(Path(place).with_name(path.name)), path)] if path else []


def json_bytes(value: Any) -> bytes:
    """``value`` as JSON on one line."""
    return json.dumps(value, ensure_ascii=False).encode()
