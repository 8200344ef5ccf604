"""Results as JSON lines, each with a key; a line is on disk before the next cell begins, and stays."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


class Store:
    """The lines of one file by key. The first one holds the design. Several processes may write.

    Raises :class:`SystemExit` for a file of another design, naming what differs.
    """

    def __init__(self, path: Path, design: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.lines: dict[str, dict[str, Any]] = {}
        if design is None:
            self._read()
            return
        asked = json.loads(json.dumps(design))
        with self._alone():
            if "design" not in self.lines:
                self._write({"key": "design", "design": asked})
        known = self.lines["design"]["design"]
        if known != asked:
            other = [name for name in sorted(known.keys() | asked.keys()) if known.get(name) != asked.get(name)]
            raise SystemExit(f"{path}: results of another design ({', '.join(other)} differ); choose another file")

    def __contains__(self, key: str) -> bool:
        return key in self.lines

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.lines[key]

    def add(self, line: Mapping[str, Any], *, once: bool = False) -> None:
        """Write one line; a key stands once, whoever wrote it. ``once``: one that is there already stays as it is."""
        with self._alone():
            if line["key"] not in self.lines:
                self._write(line)
            elif not once:
                raise ValueError(f"{line['key']} is there already")

    def _write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines[line["key"]] = dict(line)

    def _read(self) -> int:
        """Every whole line of the file; how many bytes they take."""
        whole, end, _ = (self.path.read_bytes() if self.path.exists() else b"").rpartition(b"\n")
        for line in whole.splitlines():
            found = json.loads(line)
            self.lines[found["key"]] = found
        return len(whole) + len(end)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process writes meanwhile, and every line is known."""
        with self.path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = self._read()
            if self.path.stat().st_size > size:  # of a process that was killed while it wrote
                os.truncate(self.path, size)
            yield


def pack(right: np.ndarray) -> dict[str, Any]:
    """Answers, right (1) or wrong (0), for a line: their sum and number to read, all of them to compute with."""
    bits = base64.b64encode(zlib.compress(np.packbits(right.astype(bool)).tobytes(), 9)).decode()
    return {"right": int(right.sum()), "asked": len(right), "bits": bits}


def unpack(packed: Mapping[str, Any]) -> np.ndarray:
    """The answers as numbers, ``(n,)``."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed["bits"])), np.uint8)
    found = np.unpackbits(raw)[: packed["asked"]].astype(float)
    if found.sum() != packed["right"] or len(found) != packed["asked"]:
        raise ValueError("the bits of a line are not its numbers")
    return found
