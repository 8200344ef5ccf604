"""Changes of files of ours, as a flipped bit or a careless hand makes them."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from lr2eval.record.base import sealed

Place = tuple[str | int, ...]


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Where the values of a JSON value are, outer ones included."""
    if here:
        yield here
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*here, key))


def other(value: Any) -> Any:
    """Another value, as near as can be."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 64
    if isinstance(value, float):
        return value + 0.001
    if isinstance(value, str):
        return value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"
    return 1 if value is None else None


def changed(path: Path, place: Place, *, delete: bool = False, seal: bool = False) -> None:
    """Change or delete one value of a JSON file; ``seal``: with a right checksum."""
    value = json.loads(path.read_text(encoding="utf-8"))
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    if delete:
        del inner[place[-1]]
    else:
        inner[place[-1]] = other(inner[place[-1]])
    path.write_text(json.dumps(sealed(value) if seal else value), encoding="utf-8")


def some_changes(path: Path, count: int, seed: int = 0) -> list[tuple[Place, bool]]:
    """(place, whether it is deleted) of random changes of a JSON file, and those of its checksum."""
    rng = random.Random(seed)
    every = sorted(places(json.loads(path.read_text(encoding="utf-8"))), key=repr)
    chosen = rng.sample(every, min(count, len(every)))
    return [(place, rng.random() < 0.3) for place in chosen] + [(("sha256",), True), (("sha256",), False)]


def cells(path: Path, table: str) -> Iterator[tuple[str, int]]:
    """(column, row) of every cell of a random row for each column of a table."""
    with closing(sqlite3.connect(path)) as db:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        (rows,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    rng = random.Random(table)
    yield from ((column, rng.randrange(rows)) for column in columns)


def without_types(path: Path) -> None:
    """Take the types of the columns out of a database, so that any cell can hold any value."""
    bare = "sql"
    for word in (" TEXT", " INTEGER", " REAL", " NOT NULL"):
        bare = f"replace({bare}, '{word}', '')"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema=ON")
        db.execute(f"UPDATE sqlite_master SET sql={bare} WHERE type='table'")


OTHER = object()


def changed_cell(path: Path, table: str, column: str, row: int, value: object = OTHER) -> None:
    """Change one cell of a table of SQLite, to ``value`` if one is given."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        names = [each[1] for each in db.execute(f"PRAGMA table_info({table})") if each[5]]
        keys = db.execute(f"SELECT {', '.join(names)} FROM {table} LIMIT 1 OFFSET ?", (row,)).fetchone()
        where = " AND ".join(f"{name} IS ?" for name in names)
        (old,) = db.execute(f"SELECT {column} FROM {table} WHERE {where}", keys).fetchone()
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {where}", (other(old) if value is OTHER else value, *keys))
