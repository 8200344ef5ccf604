"""Content-addressed data files: one JSON line per sample, a manifest beside it, made once and checked on use.

A file's name carries a hash of everything its content depends on. It is written under a temporary name, synced and
renamed, its manifest after it; so a file with a manifest that states its sha256 is whole. A lock keeps two runs from
making the same file twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lr2eval.errors import UsageError


@dataclass(frozen=True)
class DataFile:
    """A checked data file and what its manifest says (``sha256``, ``samples``, ``fill`` ...)."""

    path: Path
    manifest: Mapping[str, Any]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The samples, each with the byte ``offset`` of its line."""
        offset = 0
        with self.path.open("rb") as file:
            for line in file:
                yield {**json.loads(line), "offset": offset}
                offset += len(line)


def ensure(
    path: Path,
    facts: Mapping[str, Any],
    make: Callable[[], Iterable[Mapping[str, Any]]],
    summary: Callable[[Mapping[str, Any]], float],
    say: Callable[[str], None],
) -> DataFile:
    """The data file at ``path``, made from ``make()`` unless it is there and undamaged.

    ``facts`` go into the manifest; ``summary`` gives each sample's fill (0..1). A file whose content does not match
    its manifest is made again, and ``say`` is told. Raises :class:`UsageError` if the folder cannot be written.
    """
    found = _checked(path)
    if isinstance(found, DataFile):
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, say):
            found = _checked(path)  # another run may have made it while we waited
            if isinstance(found, DataFile):
                return found
            if found:
                say(f"{path.name}: {found}; making it again")
            return _write(path, facts, make(), summary)
    except OSError as error:
        raise UsageError(
            f"{path.parent}: cannot write benchmark data ({error.strerror or error}); free space there or choose "
            "another cache folder"
        ) from error


def _checked(path: Path) -> DataFile | str:
    """The whole file, or the reason why it is not one ("" when there is nothing at all)."""
    if not path.exists():
        return ""
    try:
        manifest = json.loads(_manifest_path(path).read_text(encoding="utf-8"))
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
        if isinstance(manifest, dict) and manifest.get("sha256") == actual:
            return DataFile(path, manifest)
    except (OSError, ValueError):
        return "cached data without a readable manifest"
    return "cached data is damaged (its sha256 is not the manifest's)"


def _manifest_path(path: Path) -> Path:
    return path.with_suffix(".manifest.json")


@contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        say(f"{path.name}: waiting for another run that is making it")
        lock.acquire()  # the system releases the lock of a process that dies
    try:
        yield
    finally:
        lock.release()


def _write(
    path: Path,
    facts: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
    summary: Callable[[Mapping[str, Any]], float],
) -> DataFile:
    fill: list[float] = []
    running = hashlib.sha256()
    with _replacing(path) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            running.update(line)
            file.write(line)
            fill.append(summary(row))
    manifest = {
        **facts,
        "file": path.name,
        "sha256": running.hexdigest(),
        "samples": len(fill),
        "fill": {"min": min(fill), "mean": sum(fill) / len(fill), "max": max(fill)},
    }
    with _replacing(_manifest_path(path)) as file:
        file.write(json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n")
    return DataFile(path, manifest)


@contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """A temporary file in the same folder that becomes ``path`` when the block ends well, and vanishes otherwise."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
