"""Where things live on the user's machine, and writing files so that nobody ever sees half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lr2eval._errors import StoreError


def cache_dir() -> Path:
    """The user cache: ``$LR2EVAL_CACHE``, else ``$XDG_CACHE_HOME/lr2eval``, else ``~/.cache/lr2eval``."""
    if given := os.environ.get("LR2EVAL_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lr2eval"


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds the old content or the new, whatever happens in between."""
    try:
        # Not mkstemp: its files are readable by their owner alone, and these are results to share.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(
            f"{path}: {error.strerror or error}; free some space or make the folder writable, then run again"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, written atomically. NaN is refused: no reader should meet it."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
