"""Every evaluation of a search, written as it ends, so that a killed search loses only the one that was running.

SQLite in WAL mode with ``synchronous=FULL``, as the run store: a row is written whole or not at all, rows are found by
key, and damage is detected. One process writes.

An evaluation is one vector of factors on one sample, with its gradient where the search asks for one. A search is
deterministic once its scores and gradients are known, so nothing else has to be kept: a resumed search repeats its
steps and reads what is known here.
"""

from __future__ import annotations

import json
import math
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lr2eval.base.ids import digest
from lr2eval.base.reading import parse_json
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
    nll REAL, tokens INTEGER NOT NULL, seconds REAL NOT NULL, row_check TEXT, gradient TEXT, UNIQUE (factors, sample));
"""
_FIX = "restore the folder from a copy or use a new --out"


def factors_key(scaling: RopeScaling) -> str:
    """What decides a score of given samples: the long factors and their attention factor."""
    return digest([list(scaling.long_factor), scaling.long_attention_factor])


@dataclass(frozen=True)
class Trial:
    """One evaluation to make: these factors on the sample of this number, with or without the gradient."""

    scaling: RopeScaling
    sample: int
    gradient: bool = False


@dataclass(frozen=True)
class TrialResult:
    """One evaluation: ``nll`` in nats per scored token (``nan`` or ``inf`` where the model gave no finite number),
    ``tokens`` read and wall ``seconds``; ``factors`` is :func:`factors_key`. ``gradient`` is that of ``nll`` in the
    natural logarithms of the long factors, then in that of their attention factor."""

    factors: str
    sample: int
    nll: float
    tokens: int
    seconds: float
    gradient: tuple[float, ...] | None = None


Executor = pool.Executor[Trial, TrialResult]
"""Evaluates trials, one after the other or several at a time; trials of one candidate follow each other."""


class Journal:
    """Open with :meth:`open`; close it, or use it as a context manager."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db, self.path = connection, path
        self.scores: dict[tuple[str, int], float] = {}
        """Of every evaluation so far, by its factors' key and sample."""
        self.gradients: dict[tuple[str, int], tuple[float, ...]] = {}
        """The same for the evaluations that have one."""
        for row in self.rows():
            self._note(row)

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """The journal of a search folder, created if missing. Raises :class:`StoreError` for a damaged one."""
        path = folder / FILE
        with one_line(path):
            db = open_durable(path, _TABLES)
            db.execute("INSERT OR IGNORE INTO meta VALUES ('version', ?)", (str(VERSION),))
            for column in ("row_check", "gradient"):
                if column not in _columns(db):  # of an older version
                    db.execute(f"ALTER TABLE evaluations ADD COLUMN {column} TEXT")
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
        nll = None if math.isnan(found.nll) else float(found.nll)
        gradient = () if found.gradient is None else (json.dumps(found.gradient),)
        row = (found.factors, found.sample, nll, found.tokens, float(found.seconds))
        with one_line(self.path):
            self._db.execute(
                "INSERT INTO evaluations (factors, sample, nll, tokens, seconds, row_check, gradient) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*row, row_check(*row, *gradient), *(gradient or (None,))),
            )
        self._note(found)

    def _note(self, found: TrialResult) -> None:
        self.scores[found.factors, found.sample] = found.nll
        if found.gradient is not None:
            self.gradients[found.factors, found.sample] = found.gradient

    def rows(self) -> list[TrialResult]:
        """All evaluations in the order in which they ended. Raises :class:`StoreError` for one that was changed."""
        known = _columns(self._db)
        check, gradient = (name if name in known else "NULL" for name in ("row_check", "gradient"))
        with one_line(self.path):
            found = self._db.execute(
                f"SELECT number, factors, sample, nll, tokens, seconds, {gradient}, {check} FROM evaluations "
                "ORDER BY number"
            ).fetchall()
        return [self._result(*row) for row in found]

    def _result(self, number: int, *row: Any) -> TrialResult:
        *cells, gradient, check = row
        right = all(isinstance(cell, kind) for cell, kind in zip(cells, _KINDS, strict=True))
        checked = cells if gradient is None else [*cells, gradient]
        unchecked = check is None and gradient is None  # of an older version
        if not right or not (unchecked or check == row_check(*checked)):
            raise StoreError(f"{self.path}: evaluation {number} was changed after it was written; {_FIX}")
        factors, sample, nll, tokens, seconds = cells
        slopes = None if gradient is None else tuple(parse_json(gradient, str(self.path), error=StoreError, ours=True))
        return TrialResult(factors, sample, math.nan if nll is None else nll, tokens, seconds, slopes)


_KINDS: tuple[type | tuple[type, ...], ...] = (str, int, (float, type(None)), int, float)
"""Of the cells of an evaluation. SQLite keeps a text where a number belongs."""


def _columns(db: sqlite3.Connection) -> set[str]:
    return {row[1] for row in db.execute("PRAGMA table_info(evaluations)")}
