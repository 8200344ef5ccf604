"""Finds a haystack: the essays (local or from the hub), any text file or folder, or the built-in text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lr2eval.base.files import expanded
from lr2eval.base.reading import decoded, unpacked, zip_members
from lr2eval.benchmark import DataNeed
from lr2eval.errors import UsageError
from lr2eval.tasks.haystacks import filler, python_docs
from lr2eval.tasks.haystacks.haystack import Haystack
from lr2eval.tasks.shared import jsonl
from lr2eval.tasks.shared.hub import hub_rows
from lr2eval.tasks.shared.rows import json_bytes

ESSAYS = "essays"
HUB_SET = "baber/paul_graham_essays"
FOLDER = "paul_graham"
ZIP_NAME = "PaulGrahamEssays.zip"
FOLDER_NAME = "PaulGrahamEssays"
JSON_NAME = "PaulGrahamEssays.json"
"""What NVIDIA/RULER's download script writes: ``{"text": ...}`` with all essays."""
NAMES = (JSON_NAME, ZIP_NAME, FOLDER_NAME)
SUFFIXES = (".txt", ".md", ".rst")


def load(
    chosen: str, data_dir: Path | None, offline: bool, *, benchmark: str = "ruler", repeat: bool = True
) -> Haystack:
    """The haystack of this name (``essays``, ``python-docs``, ``demo-filler``) or path.

    The default is the essays: from ``data_dir``, or else from the hub (only its cache if ``offline``). Raises
    :class:`MissingDataError` if there is neither, and :class:`UsageError` for a file that holds no text.
    """
    if chosen == ESSAYS:
        local = _local_essays(data_dir) if data_dir else None
        name, comparable, texts = local or (f"hub:{HUB_SET}", True, essays(benchmark).from_hub(offline, data_dir))
    elif chosen == python_docs.PREFIX:
        name, comparable, texts = python_docs.name(), False, python_docs.pieces()
    elif chosen == filler.NAME:
        name, comparable, texts = filler.NAME, False, filler.pieces()
    else:
        path = expanded(chosen)
        if not path.exists():
            raise UsageError(
                f"--set {benchmark}.haystack={chosen}: no such file or folder; give a path, {ESSAYS}, "
                f"{python_docs.PREFIX} or {filler.NAME}"
            )
        name, comparable, texts = path.name, False, read(path)
    haystack = Haystack(name, comparable, tuple(texts), repeat)
    if not haystack.words:
        raise UsageError(f"haystack {name}: holds no words; choose another with --set {benchmark}.haystack=PATH")
    return haystack


def read(path: Path) -> tuple[str, ...]:
    """The texts of a file, of a zip file or of a folder with everything below it, in the order of their names."""
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in SUFFIXES]
        files.sort(key=lambda file: file.relative_to(path).as_posix())
        return _texts(((str(file), unpacked(file)) for file in files), path)
    if path.suffix.lower() == ".zip":
        return _texts(_members(path), path)
    return _texts([(str(path), unpacked(path))], path)


def _members(path: Path) -> Iterable[tuple[str, bytes]]:
    def wanted(name: str) -> bool:
        # A Mac puts invisible copies of every name into a folder of this name.
        return name.lower().endswith(SUFFIXES) and not name.startswith("__MACOSX")

    return [(f"{path}:{name}", data) for name, data in zip_members(path, wanted, fix="download it again")]


def _texts(files: Iterable[tuple[str, bytes]], path: Path) -> tuple[str, ...]:
    texts = tuple(decoded(data, name) for name, data in files)
    if any("\0" in text for text in texts):
        raise UsageError(f"haystack {path}: binary data (it has NUL bytes); choose a text file")
    if not any(text.strip() for text in texts):
        what = f"no {', '.join(SUFFIXES)} file with text in it" if path.is_dir() else "no text in it"
        raise UsageError(f"haystack {path}: empty ({what}); choose a text file or a folder of text files")
    return texts


def find(data_dir: Path) -> Path | None:
    """The essays under ``data_dir``: upstream's JSON file, a zip file or a folder of texts."""
    places = (folder / name for folder in (data_dir / FOLDER, data_dir) for name in NAMES)
    return next((path for path in places if path.exists()), None)


def _local_essays(data_dir: Path) -> tuple[str, bool, tuple[str, ...]] | None:
    """The essays under ``data_dir``. Published numbers use upstream's whole list: its JSON file, not the 49 texts."""
    path = find(data_dir)
    if path is None:
        return None
    if path.name == JSON_NAME:
        return JSON_NAME, True, (_upstream_json(path),)
    texts = read(path)
    return f"{path.stem} ({len(texts)} texts)", False, texts


def _upstream_json(path: Path) -> str:
    value = jsonl.read_value(path)
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise UsageError(f'haystack {path}: not in the layout of NVIDIA/RULER, {{"text": ...}}; download it again')
    return text


@dataclass(frozen=True, kw_only=True)
class Essays(DataNeed):
    """Paul Graham's essays, the haystack of published RULER numbers."""

    name: str = ESSAYS
    tasks: str = "niah"
    read_by: tuple[str, ...] = ("ruler", "niah")
    licence: str = "none: copyright Paul Graham; for your own use, do not pass on"
    hub: str = HUB_SET
    file: str = f"{FOLDER}/{ZIP_NAME}"

    def local(self, data_dir: Path) -> Iterable[tuple[str, Path]]:
        path = find(data_dir)
        if path is None:
            return
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                yield f"{FOLDER}/{file.relative_to(path.parent).as_posix()}", file

    def fetch(self, offline: bool) -> Iterable[tuple[str, bytes]]:
        yield f"{FOLDER}/{JSON_NAME}", json_bytes({"text": "\n".join(self.from_hub(offline))})

    def check(self, data_dir: Path) -> None:
        load(ESSAYS, data_dir, True)

    def from_hub(self, offline: bool, searched: Path | None = None) -> tuple[str, ...]:
        """The texts on the hub."""
        return tuple(row["text"] for row in hub_rows(self, None, "train", offline, searched))


def essays(benchmark: str = "ruler") -> Essays:
    """The essays as a data set of ``benchmark``."""
    return Essays(instead=f"--set {benchmark}.haystack={python_docs.PREFIX} (or a text file)")
