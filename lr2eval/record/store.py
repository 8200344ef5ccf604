"""The run store: ``samples.sqlite`` of a run folder (design D2).

It survives a kill at any time: WAL with ``synchronous=FULL``; the responses of a batch are one transaction, committed
when the batch ends; the batch plan of a shard is written before its first batch and never changes, so a resumed run
makes the same batches; the scores of a shard are one transaction. Only one process writes.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict, dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from lr2eval.base.ids import digest_line
from lr2eval.base.reading import parse_json
from lr2eval.benchmark import ResponseDetail
from lr2eval.errors import StoreError
from lr2eval.record.sqlite import check_whole, one_line, open_durable, open_finished, row_check

FILE = "samples.sqlite"
STORE_VERSION = 1
_SAMPLES = "samples_sha256 "
FRESH = "restore the folder from a copy or use a fresh --out"

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    shard TEXT NOT NULL, request_type TEXT NOT NULL, number INTEGER NOT NULL, members TEXT NOT NULL,
    PRIMARY KEY (shard, request_type, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS responses (
    shard TEXT NOT NULL, request_type TEXT NOT NULL, request INTEGER NOT NULL,
    key TEXT NOT NULL, response TEXT NOT NULL, detail TEXT NOT NULL,
    PRIMARY KEY (shard, request_type, request)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shards (shard TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS samples (
    id TEXT PRIMARY KEY, shard TEXT NOT NULL, benchmark TEXT NOT NULL, task TEXT NOT NULL, length INTEGER,
    number INTEGER NOT NULL, prompt_hash TEXT NOT NULL, answer TEXT NOT NULL, score REAL, skipped INTEGER NOT NULL,
    gold TEXT NOT NULL, metrics TEXT NOT NULL, columns TEXT NOT NULL, choices TEXT,
    prompt_head TEXT NOT NULL, prompt_tail TEXT NOT NULL, excerpts TEXT NOT NULL,
    source_file TEXT, source_offset INTEGER,
    prompt_tokens INTEGER NOT NULL, new_tokens INTEGER NOT NULL, truncated_tokens INTEGER NOT NULL,
    rope_window TEXT NOT NULL, finish TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS samples_by_shard ON samples (shard, number);
"""


@dataclass(frozen=True)
class StoredSample:
    """A scored sample. The store keeps the ends of the prompt; the whole prompt is in the data file (``source``)."""

    id: str
    shard: str
    benchmark: str
    task: str
    length: int | None
    number: int
    prompt_hash: str
    answer: str
    score: float | None
    """0..100; ``None`` for a skipped sample."""
    skipped: bool
    gold: tuple[str, ...]
    metrics: Mapping[str, Any]
    columns: Mapping[str, Any]
    choices: tuple[tuple[str, float], ...] | None
    """(choice text, log-probability) for multiple choice, else ``None``."""
    prompt_head: str
    prompt_tail: str
    excerpts: tuple[tuple[str, str, str], ...]
    """(text before, needle, text after) for each needle in the prompt."""
    source: tuple[str, int] | None
    detail: ResponseDetail

    @property
    def scored(self) -> Scored:
        cells = {**vars(self), **vars(self.detail), "chosen": self.choices is not None}
        return Scored(**{name: cells[name] for name in Scored._fields})


class Scored(NamedTuple):
    """What scores and comparisons need of a :class:`StoredSample`. The ``answer`` may be cut after 200 characters."""

    id: str
    number: int
    prompt_hash: str
    answer: str
    score: float | None
    skipped: bool
    columns: Mapping[str, Any]
    chosen: bool
    """Whether it is multiple choice."""
    prompt_tokens: int
    new_tokens: int
    truncated_tokens: int
    window: str


class RunStore(AbstractContextManager["RunStore"]):
    """Open with :meth:`create` (writer) or :meth:`read` (reports, comparisons)."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self.path = path

    @classmethod
    def create(cls, folder: Path) -> RunStore:
        """Open the store of ``folder`` for writing; create it if it does not exist."""
        path = folder / FILE
        with one_line(path):
            store = cls(open_durable(path, _TABLES), path)
            if store._check_version() is None:
                store._db.execute("INSERT INTO meta VALUES ('store_version', ?)", (str(STORE_VERSION),))
            return store

    @classmethod
    def read(cls, folder: Path) -> RunStore:
        """Open the store of a run read-only; raises :class:`StoreError` if it is missing or damaged."""
        path = folder / FILE
        if not path.is_file():
            raise StoreError(f"{path}: no such file; give the folder of a run")
        with one_line(path):
            store = cls(open_finished(path), path)
            store._check_version()
            return store

    def _check_version(self) -> str | None:
        rows = self._rows("SELECT value FROM meta WHERE key='store_version'")
        version: str | None = rows[0][0] if rows else None
        if version not in (None, str(STORE_VERSION)):
            raise StoreError(
                f"{self.path}: has store version {version}, but this lr2eval reads version {STORE_VERSION}; "
                "choose another --out"
            )
        return version

    def close(self) -> None:
        self._db.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def plan(self, shard: str, request_type: str) -> list[list[int]] | None:
        """The batches of a shard (lists of request numbers), or ``None`` if it is not planned yet."""
        query = "SELECT number, members FROM batches WHERE shard=? AND request_type=? ORDER BY number"
        plan: list[list[int]] = []
        for number, stored in self._rows(query, shard, request_type):
            place = f"{self.path}: batch {number} of {shard}"
            text = _unbound(stored, place, shard, request_type, number)
            batch = parse_json(text, place, error=StoreError, fix=FRESH, ours=True)
            whole = number == len(plan) and isinstance(batch, list)
            if not whole or not all(isinstance(member, int) for member in batch):
                raise StoreError(f"{place}: damaged; {FRESH}")
            plan.append(batch)
        return plan or None

    def save_plan(self, shard: str, request_type: str, batches: Sequence[Sequence[int]]) -> None:
        """Write the plan of a shard once, before its first batch."""
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO batches VALUES (?,?,?,?)",
                [
                    (shard, request_type, i, _bound(json.dumps(list(batch)), shard, request_type, i))
                    for i, batch in enumerate(batches)
                ],
            )

    def responses(self, shard: str, request_type: str) -> dict[int, tuple[str, Any, ResponseDetail]]:
        """Request number -> (key, response, detail) for all answers of a shard so far.

        Raises :class:`StoreError` for an answer that was changed.
        """
        query = "SELECT request, key, response, detail FROM responses WHERE shard=? AND request_type=?"
        found = {}
        for number, stored, *answer in self._rows(query, shard, request_type):
            place = f"{self.path}: the stored answer to request {number} of {shard}"
            key = _unbound(stored, place, shard, request_type, number, *answer)
            response, detail = (parse_json(each, place, error=StoreError, fix=FRESH, ours=True) for each in answer)
            try:
                found[int(number)] = key, response, ResponseDetail(**detail)
            except (TypeError, ValueError) as error:
                raise StoreError(f"{place}: is damaged; {FRESH}") from error
        return found

    def save_batch(self, shard: str, request_type: str, rows: Sequence[tuple[int, str, Any, ResponseDetail]]) -> None:
        """Commit the responses of one finished batch: (request number, key, response, detail)."""
        with self._transaction() as db:
            db.executemany(
                "INSERT INTO responses VALUES (?,?,?,?,?,?)",
                [
                    (*place, _bound(key, *place, *answer), *answer)
                    for number, key, response, detail in rows
                    for place in [(shard, request_type, number)]
                    for answer in [(json.dumps(response), json.dumps(asdict(detail)))]
                ],
            )

    def shard_done(self, shard: str) -> bool:
        return bool(self._rows("SELECT 1 FROM shards WHERE shard=?", shard))

    def save_scores(self, shard: str, samples: Sequence[StoredSample]) -> None:
        """Commit the scored samples of a finished shard."""
        with self._transaction() as db:
            db.executemany(f"INSERT INTO samples VALUES ({','.join('?' * len(_KINDS))})", map(_row, samples))
            db.execute("INSERT INTO shards VALUES (?,?)", (shard, len(samples)))
            found = self.seals(shard, ())[0].get(shard, "")
            db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (f"{_SAMPLES}{shard}", found))

    def samples(self, shard: str | None = None) -> Iterator[StoredSample]:
        """Scored samples in order of (shard, number)."""
        where, values = ("", ()) if shard is None else (" WHERE shard=?", (shard,))
        return self._read(f"SELECT * FROM samples{where} ORDER BY shard, number", values)

    def picked(self, shard: str, ids: Sequence[str]) -> Iterator[StoredSample]:
        """The samples of a shard with these ids, in order."""
        # The plus stops SQLite from using the index of shards, which would read the whole shard.
        query = f"SELECT * FROM samples WHERE id IN ({','.join('?' * len(ids))}) AND +shard=? ORDER BY number"
        return self._read(query, (*ids, shard))

    def outcomes(self) -> dict[str, list[tuple[int, str, str, float | None]]]:
        """Shard -> (number, id, prompt hash, score or ``None`` if skipped), in order.

        One pass over the table without its texts: 40,000 samples of a 370 MB store take 0.1 seconds.
        """
        found: dict[str, list[tuple[int, str, str, float | None]]] = {}
        with one_line(self.path):
            for shard, *outcome in self._db.execute("SELECT shard, number, id, prompt_hash, score FROM samples"):
                found.setdefault(shard, []).append(tuple(outcome))
        for outcomes in found.values():
            outcomes.sort(key=lambda outcome: outcome[:2])
        return found

    def seals(
        self, only: str | None = None, wanted: Collection[str] | None = None
    ) -> tuple[dict[str, str], str, dict[str, list[Scored]]]:
        """One pass over all samples, or over those of the shard ``only``: for each shard sha256 over every column of
        its samples, in the order of their ids; the run digest, over ids, prompt hashes, answers and scores; and the
        samples by shard. Digest and samples are of the shards ``wanted``, by default of all.

        A row is hashed as its numbers and the lengths of its texts, then the texts. 40,000 samples (190 MB) take 1.2 s.
        Raises :class:`StoreError` for a cell of a wrong type.
        """
        running: dict[str, Any] = {}
        answers, found = hashlib.sha256(), dict[str, list[Scored]]()
        with one_line(self.path), closing(self._db.cursor()) as cursor:
            # A text comes as its bytes, a blob as another type.
            kept, self._db.text_factory = self._db.text_factory, bytearray
            try:
                where, values = ("", ()) if only is None else (" WHERE shard=?", (only,))
                for row in cursor.execute(f"SELECT shard, * FROM samples{where} ORDER BY id", values):
                    if type(row[0]) is not bytearray:
                        raise self._damaged()
                    shard = row[0].decode("utf-8", "replace")
                    texts = [cell for cell in row if type(cell) is bytearray]
                    shape = [f"t{len(cell)}" if type(cell) is bytearray else cell for cell in row]
                    hashed = running.setdefault(shard, hashlib.sha256())
                    hashed.update(b"\n".join([ascii(shape).encode(), *texts, b""]))
                    if wanted is None or shard in wanted:
                        line, sample = _scored(row, self.path, shard)
                        answers.update(line)
                        found.setdefault(shard, []).append(sample)
            finally:
                self._db.text_factory = kept
        for samples in found.values():
            samples.sort(key=attrgetter("number"))
        return {shard: hashed.hexdigest() for shard, hashed in sorted(running.items())}, answers.hexdigest(), found

    def check_samples(self, hashes: Mapping[str, str]) -> None:
        """Raises :class:`StoreError` if :meth:`seals` are not what they were when a shard was written."""
        for key, value in self._rows("SELECT key, value FROM meta WHERE key LIKE ?", f"{_SAMPLES}%"):
            if hashes.get(shard := key.removeprefix(_SAMPLES), "") != value:
                raise StoreError(f"{self.path}: samples of {shard} were changed after they were written; {FRESH}")

    def finished(self) -> dict[str, int]:
        """Number of samples of each shard that is finished."""
        found = dict(self._rows("SELECT shard, n FROM shards ORDER BY shard"))
        if not all(isinstance(shard, str) for shard in found):
            raise self._damaged()
        return found

    def check(self) -> int:
        """Check the database, every stored answer, plan and sample; the number of answers.

        Raises :class:`StoreError` with the first thing that is damaged.
        """
        with one_line(self.path):
            check_whole(self._db)
        kinds = self._rows("SELECT shard, request_type FROM responses UNION SELECT shard, request_type FROM batches")
        self.check_samples(self.seals(wanted=())[0])
        for _ in self.samples():
            pass
        answers = 0
        for shard, request_type in kinds:
            answers += len(self.responses(shard, request_type))
            self.plan(shard, request_type)
        return answers

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with one_line(self.path):
            rows = self._db.execute(query, values).fetchall()
        if any(isinstance(cell, bytes) for row in rows for cell in row):  # which nobody of ours writes
            raise self._damaged()
        return rows

    def _damaged(self) -> StoreError:
        """For a cell of a type that no writer of ours writes."""
        return StoreError(f"{self.path}: a text is damaged; {FRESH}")

    def _read(self, query: str, values: Sequence[str]) -> Iterator[StoredSample]:
        with one_line(self.path):
            for row in self._db.execute(query, values):
                yield _sample(row, self.path)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with one_line(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                if self._db.in_transaction:  # SQLite rolls back by itself on a full disk
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _bound(text: str, *cells: object) -> str:
    """``text`` with a check of it and of ``cells``, so that a change of either is noticed."""
    return f"{text}:{row_check(text, *cells)}"


def _unbound(stored: Any, place: str, *cells: object) -> str:
    """The text in :func:`_bound`. Older versions wrote it without a check."""
    if not isinstance(stored, str):
        raise StoreError(f"{place}: is damaged; {FRESH}")
    text, colon, check = stored.rpartition(":")
    if colon and check != row_check(text, *cells):
        raise StoreError(f"{place}: was changed after it was written (its check differs); {FRESH}")
    return text if colon else stored


def _scored(row: Sequence[Any], path: Path, shard: str) -> tuple[bytes, Scored]:
    """What a row with its texts as bytes adds to the digest, and the sample."""
    try:
        cells: list[Any] = [row[place] if kind is None else kind(row[place], "utf-8") for place, kind in _PLACES]
        id_, number, prompt_hash, answer, score, skipped, columns, choices, *rest = cells
        if not all(map(isinstance, (number, score, skipped, choices, *rest[:3]), _NUMBERS)):
            raise TypeError
        line = digest_line([id_, prompt_hash, answer, score])
    except (TypeError, ValueError) as error:  # a cell of another type, no UTF-8, or no number
        raise _damaged_sample(path, shard, row[1]) from error
    columns = {} if columns == "{}" else _column(path, shard, id_, "columns", columns, dict)
    # No more of a long answer is looked at than its beginning, unless that is blank.
    answer = answer if answer[:200].isspace() else answer[:200]
    return line, Scored(id_, number, prompt_hash, answer, score, bool(skipped), columns, choices is not None, *rest)


def _column(path: Path, shard: str, id_: str, name: str, text: Any, kind: type[Any]) -> Any:
    place = f"{path}: sample {str(id_)[:12]} of {shard}: {name}"
    if isinstance(text, str):
        value = parse_json(text, place, error=StoreError, fix=FRESH, ours=True)
        if isinstance(value, kind):
            return value
    raise StoreError(f"{place}: damaged; {FRESH}")


def _whole(text: str) -> str:
    """Replace half characters (lone surrogates), which a server or a task may give and no database can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_JSON: Mapping[str, type[Any]] = {"gold": list, "metrics": dict, "columns": dict, "choices": list, "excerpts": list}
"""Columns whose text is JSON, with the kind of the value."""
_FIELDS = tuple(field.name for field in fields(StoredSample) if field.name not in ("source", "detail"))
"""The first columns of ``samples``. The source and these facts of the response follow."""
_DETAIL = ("prompt_tokens", "new_tokens", "truncated_tokens", "window", "finish")


def _row(sample: StoredSample) -> list[Any]:
    """The cells of a sample; :func:`_sample` is the way back."""
    cells = {**vars(sample), **vars(sample.detail)}
    for name in _JSON:
        cells[name] = None if cells[name] is None else json.dumps(cells[name])
    for name in ("answer", "prompt_head", "prompt_tail"):
        cells[name] = _whole(cells[name])
    source = sample.source or (None, None)
    return [*(cells[name] for name in _FIELDS), *source, *(cells[name] for name in _DETAIL)]


def _sample(row: tuple[Any, ...], path: Path) -> StoredSample:
    id_, shard, *_ = row
    try:
        for cell, kind in zip(row, _KINDS, strict=True):
            if not isinstance(cell, kind):
                raise TypeError
        cells = dict(zip(_FIELDS, row, strict=False))
        for name, form in _JSON.items():
            if cells[name] is not None:
                cells[name] = _column(path, shard, id_, name, cells[name], form)
        cells["gold"], cells["skipped"] = tuple(cells["gold"]), bool(cells["skipped"])
        cells["excerpts"] = tuple((a, b, c) for a, b, c in cells["excerpts"])
        if cells["choices"] is not None:
            cells["choices"] = tuple((c, float(p)) for c, p in cells["choices"])
        file, offset, *detail = row[len(_FIELDS) :]
        source = None if file is None else (file, offset)
        return StoredSample(**cells, source=source, detail=ResponseDetail(**dict(zip(_DETAIL, detail, strict=True))))
    except (TypeError, ValueError) as error:
        raise _damaged_sample(path, shard, id_) from error


def _damaged_sample(path: Path, shard: str, id_: object) -> StoreError:
    return StoreError(f"{path}: sample {str(id_)[:12]} of {shard} is damaged; {FRESH}")


_TEXT, _WHOLE = (str,), (int,)
_KINDS: Sequence[tuple[type, ...]] = (
    _TEXT, _TEXT, _TEXT, _TEXT, (int, type(None)), _WHOLE, _TEXT, _TEXT, (float, type(None)), _WHOLE,
    _TEXT, _TEXT, _TEXT, (str, type(None)), _TEXT, _TEXT, _TEXT, (str, type(None)), (int, type(None)),
    _WHOLE, _WHOLE, _WHOLE, _TEXT, _TEXT,
)  # fmt: skip
"""Of the columns of ``samples``. SQLite keeps a value of another type if it cannot convert it."""
_NAMES = (*_FIELDS, "source_file", "source_offset", *_DETAIL)
_PLACES = [
    (1 + _NAMES.index(name), str if _KINDS[_NAMES.index(name)] is _TEXT else None)
    for name in (field.replace("chosen", "choices") for field in Scored._fields)
]
_NUMBERS = ((int,), (float, type(None)), (int,), (bytearray, type(None)), (int,), (int,), (int,))
