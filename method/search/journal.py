"""Every evaluation of a search, written as it ends, so that a killed search loses only the one that was running.

SQLite in WAL mode with ``synchronous=FULL``, as the run store: a row is written whole or not at all, rows are found by
key, and damage is detected. One process writes.

An evaluation is one vector of factors on one sample. A search is deterministic once its scores are known, so nothing
else has to be kept: a resumed search repeats its steps and reads the known scores here.
"""

from __future__ import annotations

import math
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lr2eval.base.ids import digest
from lr2eval.errors import StoreError
from lr2eval.method.rope.scaling import RopeScaling
from lr2eval.record.sqlite import check_whole, one_line, open_durable, open_finished, row_check
from lr2eval.workers import pool

FILE = "evaluations.sqlite"
VERSION = 1

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS evaluations (
    number INTEGER PRIMARY KEY, factors TEXT NOT NULL, sample INTEGER NOT NULL,
    nll REAL, tokens INTEGER NOT NULL, seconds REAL NOT NULL, row_check TEXT, UNIQUE (factors, sample));
"""
_FIX = "restore the folder from a copy or use a new --out"


def factors_key(scaling: RopeScaling) -> str:
    """What decides a score of given samples: the long factors and their attention factor."""
    return digest([list(scaling.long_factor), scaling.long_attention_factor])


@dataclass(frozen=True)
class Trial:
    """One evaluation to make: these factors on the sample of this number."""

    scaling: RopeScaling
    sample: int


@dataclass(frozen=True)
class TrialResult:
    """One evaluation: ``nll`` in nats per scored token (``nan`` or ``inf`` where the model gave no finite number),
    ``tokens`` read and wall ``seconds``; ``factors`` is :func:`factors_key`."""

    factors: str
    sample: int
    nll: float
    tokens: int
    seconds: float


Executor = pool.Executor[Trial, TrialResult]
"""Evaluates trials, one after the other or several at a time; trials of one candidate follow each other."""


class Journal:
    """Open with :meth:`open`; close it, or use it as a context manager."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db, self.path = connection, path
        self.scores = {(row.factors, row.sample): row.nll for row in self.rows()}
        """Of every evaluation so far, by its factors' key and sample."""

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """The journal of a search folder, created if missing. Raises :class:`StoreError` for a damaged one."""
        path = folder / FILE
        with one_line(path):
            db = open_durable(path, _TABLES)
            db.execute("INSERT OR IGNORE INTO meta VALUES ('version', ?)", (str(VERSION),))
            if "row_check" not in _columns(db):  # of an older version
                db.execute("ALTER TABLE evaluations ADD COLUMN row_check TEXT")
            return cls._of_this_version(db, path)

    @classmethod
    def read(cls, folder: Path) -> Journal:
        """The journal of a search folder, for reading. Raises :class:`StoreError` if it is missing or damaged."""
        path = folder / FILE
        if not path.is_file():
            raise StoreError(f"{path}: no such file; give the folder of a search")
        with one_line(path):
            db = open_finished(path)
            check_whole(db)
            return cls._of_this_version(db, path)

    @classmethod
    def _of_this_version(cls, db: sqlite3.Connection, path: Path) -> Journal:
        (version,) = db.execute("SELECT value FROM meta WHERE key = 'version'").fetchone() or ("unknown",)
        if version != str(VERSION):
            raise StoreError(
                f"{path}: journal version {version}, but this lr2eval reads version {VERSION}; use a new --out"
            )
        return cls(db, path)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    def __len__(self) -> int:
        return len(self.scores)

    def add(self, found: TrialResult) -> None:
        """Write one evaluation; it is on disk when this returns."""
        row = (found.factors, found.sample, _stored(found.nll), found.tokens, float(found.seconds))
        with one_line(self.path):
            self._db.execute(
                "INSERT INTO evaluations (factors, sample, nll, tokens, seconds, row_check) VALUES (?, ?, ?, ?, ?, ?)",
                (*row, row_check(*row)),
            )
        self.scores[found.factors, found.sample] = found.nll

    def rows(self) -> list[TrialResult]:
        """All evaluations in the order in which they ended. Raises :class:`StoreError` for one that was changed."""
        check = "row_check" if "row_check" in _columns(self._db) else "NULL"
        with one_line(self.path):
            found = self._db.execute(
                f"SELECT number, factors, sample, nll, tokens, seconds, {check} FROM evaluations ORDER BY number"
            ).fetchall()
        return [self._result(*row) for row in found]

    def _result(self, number: int, *row: Any) -> TrialResult:
        *cells, check = row
        right = all(isinstance(cell, kind) for cell, kind in zip(cells, _KINDS, strict=True))
        if not right or (check is not None and check != row_check(*cells)):
            raise StoreError(f"{self.path}: evaluation {number} was changed after it was written; {_FIX}")
        factors, sample, nll, tokens, seconds = cells
        return TrialResult(factors, sample, math.nan if nll is None else nll, tokens, seconds)


_KINDS: tuple[type | tuple[type, ...], ...] = (str, int, (float, type(None)), int, float)
"""Of the cells of an evaluation. SQLite keeps a text where a number belongs."""


def _columns(db: sqlite3.Connection) -> set[str]:
    return {row[1] for row in db.execute("PRAGMA table_info(evaluations)")}


def _stored(nll: float) -> float | None:
    return None if math.isnan(nll) else float(nll)
