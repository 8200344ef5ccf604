"""Databases that survive a killed process, and their errors in one line."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lr2eval.errors import DiskError, StoreError, first_line


def open_durable(path: Path, tables: str) -> sqlite3.Connection:
    """Open for writing; create the file and ``tables`` if they do not exist. Each statement is on disk when it returns.

    Raises :class:`sqlite3.Error`, also for a damaged file; see :func:`one_line`.
    """
    db = sqlite3.connect(path, isolation_level=None, timeout=30)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    check_whole(db, "quick_check")
    db.executescript(tables)
    return db


def open_finished(path: Path) -> sqlite3.Connection:
    """Open for reading. Raises :class:`sqlite3.Error`, also for a damaged file; see :func:`one_line`."""
    # A writable connection with query_only removes the write-ahead log when it closes. A read-only folder (an archive)
    # has a finished run without a log.
    how = "mode=rw" if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "mode=ro&immutable=1"
    db = sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, isolation_level=None, timeout=30)
    db.execute("PRAGMA query_only=ON")
    db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return db


def check_whole(db: sqlite3.Connection, check: str = "integrity_check") -> None:
    """SQLite's own check of a database. Raises :class:`sqlite3.DatabaseError` with the first thing that is wrong."""
    found = db.execute(f"PRAGMA {check}(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def row_check(*cells: object) -> str:
    """16 hex digits over the cells of a row. Floats, whole numbers and texts of equal look are different cells."""
    return hashlib.sha256(ascii(cells).encode()).hexdigest()[:16]


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into a :class:`StoreError` with the file and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        kind, fix = _what_to_do(error, path)
        raise kind(f"{path}: {first_line(error)}; {fix}") from error


_LITTLE = 1 << 20
"""Bytes. With less space than this, a failed write means that the disk is full."""


def _what_to_do(error: sqlite3.Error, path: Path) -> tuple[type[StoreError], str]:
    # "SQLITE_IOERR_FSYNC" and its relatives belong to SQLITE_IOERR. The text of an error says less.
    kind = getattr(error, "sqlite_errorname", "").removeprefix("SQLITE_").partition("_")[0]
    if kind == "FULL" or (kind in ("IOERR", "CANTOPEN") and _free(path) < _LITTLE):
        return DiskError, "the disk is full: free some space and run the same command again; finished work is kept"
    if kind == "IOERR":
        fix = "the disk is full or failed: free some space or check it, and run the same command again"
        return DiskError, f"{fix}; finished work is kept"
    if kind in ("READONLY", "CANTOPEN", "PERM"):
        return DiskError, "make the folder writable or choose another --out"
    if kind in ("BUSY", "LOCKED"):
        return DiskError, "another lr2eval is writing to it; wait or choose another --out"
    return StoreError, "the database is damaged; restore it from a copy or use a fresh --out"


def _free(path: Path) -> float:
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return float("inf")
