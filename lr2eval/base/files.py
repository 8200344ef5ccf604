"""Where things live on the user's machine, and writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lr2eval.errors import StoreError


def cache_dir() -> Path:
    """The user cache: ``$LR2EVAL_CACHE``, else ``$XDG_CACHE_HOME/lr2eval``, else ``~/.cache/lr2eval``."""
    if given := os.environ.get("LR2EVAL_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lr2eval"


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds the old content or the new, whatever happens in between."""
    write_parts(path, [text.encode("utf-8")])


def write_parts(path: Path, parts: Iterable[bytes], mend: str = "make the folder writable") -> None:
    """The same for bytes, one part after the other. Raises :class:`StoreError`, which asks for space or ``mend``."""
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
        raise StoreError(f"{path}: {error.strerror or error}; free some space or {mend}, then run again") from error


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, written atomically. NaN is refused: no reader should meet it."""
    import json

    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
