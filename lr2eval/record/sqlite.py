"""Databases that survive a kill: how they are opened, and their errors in one line."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lr2eval.errors import StoreError


def open_durable(path: Path, tables: str) -> sqlite3.Connection:
    """Open for writing, making file and ``tables`` when absent: what a statement wrote is on disk when it returns.

    Raises :class:`sqlite3.Error`, also for a damaged file; see :func:`one_line`.
    """
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    check = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if check != "ok":
        raise sqlite3.DatabaseError(check)
    db.executescript(tables)
    return db


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """SQLite's errors as a :class:`StoreError` that names the file and the mend."""
    try:
        yield
    except sqlite3.Error as error:
        text = " ".join(str(error).split())
        if "full" in text:
            mend = "free some disk space and run the same command again: what was finished is kept"
        elif "readonly" in text or "unable to open" in text:
            mend = "make the folder writable or choose another --out"
        elif "locked" in text:
            mend = "another lr2eval writes here; wait for it or choose another --out"
        else:
            mend = "the database is damaged; restore it from a copy or start again with a fresh --out"
        raise StoreError(f"{path}: {text}; {mend}") from error
