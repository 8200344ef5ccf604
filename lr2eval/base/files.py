"""Where things live on the user's machine, and writing files so that nobody ever sees half of one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lr2eval.errors import StoreError, UsageError


def cache_dir() -> Path:
    """The user cache: ``$LR2EVAL_CACHE``, else ``$XDG_CACHE_HOME/lr2eval``, else ``~/.cache/lr2eval``."""
    if given := os.environ.get("LR2EVAL_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lr2eval"


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds the old content or the new, whatever happens in between."""
    write_parts(path, [text.encode("utf-8")])


def write_parts(path: Path, parts: Iterable[bytes], fix: str = "make the folder writable") -> None:
    """The same for bytes, one part after the other. Raises :class:`StoreError` that names the ``fix``."""
    try:
        # Not mkstemp: its files are readable by their owner alone, and these are results to share.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}; free some space or {fix}, then run again") from error


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, written atomically. NaN is refused: no reader should meet it."""
    import json

    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_hashed(path: Path, parts: Iterable[bytes]) -> tuple[str, int]:
    """The same as :func:`write_parts`; returns the sha256 (hex) and the number of bytes of what was written."""
    running, size = hashlib.sha256(), 0

    def passed() -> Iterator[bytes]:
        nonlocal size
        for part in parts:
            running.update(part)
            size += len(part)
            yield part

    write_parts(path, passed())
    return running.hexdigest(), size


def read_parts(path: Path) -> Iterator[bytes]:
    """The bytes of a file, a megabyte at a time."""
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            yield part


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock_file(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file ``path``. If another process holds it, ``say`` is told and this one waits."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        say(f"waiting for another run of lr2eval that works in {path.parent}")
        lock.acquire()  # the system releases the lock of a process that dies
    try:
        yield
    finally:
        lock.release()


def output_folder(out: Path) -> set[str]:
    """Make the folder of ``--out`` and list it, without temporary files that a killed command left there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        return {path.name for path in out.iterdir() if not (path.name.startswith(".") and path.suffix == ".tmp")}
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror or error}; choose a folder that can be written") from error
