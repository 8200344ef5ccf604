"""Ways to damage a file. Each takes the good bytes and a random generator, and gives bad bytes.

A way that does not fit the bytes (no key to delete) raises :class:`DoesNotFit`; another one is then drawn.
"""

from __future__ import annotations

import gzip
import json
import random
import sqlite3
import struct
import tempfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from .damage_text import CSV, JSON, LINES, TOML, DoesNotFit, Way, in_a_line, load

# Any file


def flip_a_bit(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(_some(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(_some(data))]


def empty(data: bytes, rng: random.Random) -> bytes:
    return b""


def insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(_some(data))
    return data[:at] + rng.randbytes(rng.randint(1, 40)) + data[at:]


def duplicate_a_piece(data: bytes, rng: random.Random) -> bytes:
    at, end = sorted(rng.randrange(_some(data)) for _ in range(2))
    return data[:end] + data[at:end] + data[end:]


def delete_a_piece(data: bytes, rng: random.Random) -> bytes:
    at, end = sorted(rng.randrange(_some(data)) for _ in range(2))
    return data[:at] + data[end + 1 :]


def zero_a_piece(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(_some(data))
    length = min(rng.choice((1, 16, 512, 4096)), len(data) - at)
    return data[:at] + bytes(length) + data[at + length :]


def not_utf8(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(_some(data))
    return data[:at] + rng.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88")) + data[at:]


def byte_order_mark(data: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")) + data


def other_encoding(data: bytes, rng: random.Random) -> bytes:
    try:
        return data.decode("utf-8").encode(rng.choice(("utf-16", "utf-32", "utf-16-le")))
    except UnicodeDecodeError as error:
        raise DoesNotFit from error


def random_bytes(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randint(1, 300))


def _some(data: bytes) -> int:
    if not data:
        raise DoesNotFit
    return len(data)


# Archives


def zip_header(data: bytes, rng: random.Random) -> bytes:
    """Wrong fields of an entry: an encrypted flag, an unknown method, sizes, a checksum."""
    local, central = (data.find(mark) for mark in (b"PK\x03\x04", b"PK\x01\x02"))
    if local < 0 or central < 0:
        raise DoesNotFit
    changed = bytearray(data)
    offset, value = rng.choice((
        (6, struct.pack("<H", 1)), (8, struct.pack("<H", rng.choice((1, 6, 9, 12, 14, 93, 97)))),
        (14, rng.randbytes(4)), (18, struct.pack("<I", 2**32 - 1)), (22, struct.pack("<I", 2**31)),
        (26, struct.pack("<H", 65535)),
    ))  # fmt: skip
    # The central directory has the same fields two bytes further on.
    for at in rng.choice(((local + offset,), (central + offset + 2,), (local + offset, central + offset + 2))):
        changed[at : at + len(value)] = value
    return bytes(changed)


def zip_directory(data: bytes, rng: random.Random) -> bytes:
    start = data.find(b"PK\x01\x02")
    if start < 0:
        raise DoesNotFit
    return data[:start] + flip_a_bit(data[start:], rng)


def zip_names(data: bytes, rng: random.Random) -> bytes:
    """Members that point outside, are folders, are there twice, or have odd names."""
    buffer = BytesIO()
    odd = rng.choice(("../outside.txt", "/etc/x.txt", "a\x1b[31m.txt", "\u202e.txt", "x" * 300 + ".txt", "test/", ""))
    try:
        with zipfile.ZipFile(BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
            names = old.namelist()
            for name in names[rng.randrange(len(names)) :]:
                new.writestr(name, old.read(name))
            new.writestr(odd.partition("\0")[0] or "x", "text")  # zipfile cuts a name at a zero byte
    except zipfile.BadZipFile as error:
        raise DoesNotFit from error
    return buffer.getvalue()


ZIP: tuple[Way, ...] = (zip_header, zip_header, zip_directory, zip_names)


def gzip_inside(data: bytes, rng: random.Random) -> bytes:
    """A good gzip file of damaged text."""
    return gzip.compress(rng.choice((in_a_line, flip_a_bit, not_utf8, cut))(gzip.decompress(data), rng), mtime=0)


def gzip_after(data: bytes, rng: random.Random) -> bytes:
    """Something behind the end, a wrong checksum, or a cut just before it."""
    return rng.choice((data + rng.randbytes(20), data[:-8] + rng.randbytes(8), data[:-5], data + data, data + bytes(9)))


GZIP: tuple[Way, ...] = (gzip_inside, gzip_after)


# Safetensors


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    if len(data) < 8:
        raise DoesNotFit
    (length,) = struct.unpack("<Q", data[:8])
    return load(data[8 : 8 + length]), data[8 + length :]


def tensors_length(data: bytes, rng: random.Random) -> bytes:
    """A header of another length, up to 10 GB."""
    lengths = (0, 1, 7, 10**6, 10**8 + 1, 10**10, 2**63 - 1, 2**64 - 1, len(data), len(data) - 8)
    return struct.pack("<Q", rng.choice(lengths)) + data[8:]


def tensors_header(data: bytes, rng: random.Random) -> bytes:
    header, rest = _header(data)
    names = [name for name in header if name != "__metadata__"]
    entry = header[rng.choice(names)]
    key, value = rng.choice((
        ("dtype", "F99"), ("dtype", None), ("dtype", "I8"), ("shape", [-1, 2]), ("shape", [2**40, 2**40]),
        ("shape", "x"), ("shape", []), ("data_offsets", [0, 10**15]), ("data_offsets", [8, 0]),
        ("data_offsets", [-4, 4]), ("data_offsets", None), ("shape", [0]), ("dtype", "\ud800"),
    ))  # fmt: skip
    entry[key] = value
    if rng.random() < 0.2:
        header["__metadata__"] = rng.choice((None, [], {"format": 1}, {"format": "tf"}))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def tensors_names(data: bytes, rng: random.Random) -> bytes:
    """A tensor is missing, has another name, or is there under two names."""
    header, rest = _header(data)
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header.pop(name) if rng.random() < 0.7 else header[name]
    if rng.random() < 0.6:
        header[rng.choice((f"{name}x", "", "\x1b[31mred", "a" * 500))] = entry
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


TENSORS: tuple[Way, ...] = (tensors_length, tensors_header, tensors_header, tensors_names)


# SQLite


def _edited(data: bytes, edit: Callable[[sqlite3.Connection], object]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.sqlite"
        path.write_bytes(data)
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=DELETE")
            edit(db)
        except sqlite3.Error as error:
            raise DoesNotFit from error
        finally:
            db.close()
        return path.read_bytes()


def _tables(db: sqlite3.Connection) -> list[str]:
    return sorted(row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'"))


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f'PRAGMA table_info("{table}")')]


def sqlite_cell(data: bytes, rng: random.Random) -> bytes:
    """A cell, or all of a column, with a value that does not belong there."""
    odd = (None, "text", -1, 2**62, 1e300, float("inf"), b"\xff\xfe", "", "[]", "{}", "null", '"\\ud800"',
           "\x1b[31m\u202e", "[" * 5000, '{"a": 1}', 0.5, "W" * 3000, "[1,2]", "NaN")  # fmt: skip

    def edit(db: sqlite3.Connection) -> None:
        table = rng.choice(_tables(db))
        column = rng.choice(_columns(db, table))
        rows = db.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
        if not rows:
            raise DoesNotFit
        one = f" LIMIT 1 OFFSET {rng.randrange(rows)}"
        keys = db.execute(f'SELECT "{column}" FROM "{table}"{one}').fetchone()
        where = f' WHERE "{column}" IS ?' if rng.random() < 0.7 else ""
        db.execute(f'UPDATE "{table}" SET "{column}"=?{where}', (rng.choice(odd), *(keys if where else ())))

    return _edited(data, edit)


def sqlite_rows(data: bytes, rng: random.Random) -> bytes:
    """Rows are lost."""

    def edit(db: sqlite3.Connection) -> None:
        table = rng.choice(_tables(db))
        share = rng.choice((0.3, 0.7, 1.0))
        column = _columns(db, table)[0]
        for (key,) in db.execute(f'SELECT "{column}" FROM "{table}"').fetchall():
            if rng.random() < share:
                db.execute(f'DELETE FROM "{table}" WHERE "{column}" IS ?', (key,))

    return _edited(data, edit)


def sqlite_schema(data: bytes, rng: random.Random) -> bytes:
    """A table or a column is lost or has another name."""

    def edit(db: sqlite3.Connection) -> None:
        table = rng.choice(_tables(db))
        column = rng.choice(_columns(db, table))
        db.execute(rng.choice((
            f'DROP TABLE "{table}"', f'ALTER TABLE "{table}" DROP COLUMN "{column}"',
            f'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO "other"', f'ALTER TABLE "{table}" RENAME TO "other"',
            f'ALTER TABLE "{table}" ADD COLUMN "more" TEXT',
        )))  # fmt: skip

    return _edited(data, edit)


SQLITE: tuple[Way, ...] = (sqlite_cell, sqlite_cell, sqlite_cell, sqlite_rows, sqlite_schema)

BYTES: tuple[Way, ...] = (
    flip_a_bit, flip_a_bit, cut, cut, empty, insert, duplicate_a_piece, delete_a_piece, zero_a_piece, random_bytes,
)  # fmt: skip
TEXT: tuple[Way, ...] = (*BYTES, not_utf8, byte_order_mark, other_encoding)
KINDS: dict[str, tuple[Way, ...]] = {
    "json": (*TEXT, *JSON, *JSON), "jsonl": (*TEXT, *LINES, *LINES, *LINES), "toml": (*TEXT, *TOML, *TOML),
    "csv": (*TEXT, *CSV, *CSV), "text": TEXT, "zip": (*BYTES, *ZIP, *ZIP), "gzip": (*BYTES, *GZIP, *GZIP, *GZIP),
    "safetensors": (*BYTES, *TENSORS, *TENSORS), "sqlite": (*BYTES, *SQLITE, *SQLITE, *SQLITE), "binary": BYTES,
}  # fmt: skip
"""Damages by the kind of a file; what stands there twice is drawn twice as often."""


# The place of the file


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def missing(path: Path) -> None:
    path.unlink()


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def unreadable(path: Path) -> None:
    """Only for users other than root, who may read everything."""
    path.chmod(0)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


PLACES: tuple[Callable[[Path], None], ...] = (as_folder, missing, loop, dangling, unreadable, device)
