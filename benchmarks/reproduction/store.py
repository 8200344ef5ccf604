"""Results as JSON lines, each with a key; a line is on disk before the next cell begins, and stays."""

from __future__ import annotations

import base64
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class Store:
    """The lines of one file by key. The first one holds the design; one process writes.

    Raises :class:`SystemExit` for a file of another design, naming what differs.
    """

    def __init__(self, path: Path, design: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.lines: dict[str, dict[str, Any]] = {}
        text = path.read_bytes() if path.exists() else b""
        whole, end, torn = text.rpartition(b"\n")
        for line in whole.splitlines():
            found = json.loads(line)
            self.lines[found["key"]] = found
        if design is None:
            return
        if torn:  # of a process that was killed while it wrote
            os.truncate(path, len(whole) + len(end))
        known = self.lines.get("design")
        if known is None:
            self.add({"key": "design", "design": dict(design)})
        elif known["design"] != json.loads(json.dumps(design)):
            names = sorted(known["design"].keys() | design.keys())
            other = [name for name in names if known["design"].get(name) != json.loads(json.dumps(design.get(name)))]
            raise SystemExit(f"{path}: results of another design ({', '.join(other)} differ); choose another file")

    def __contains__(self, key: str) -> bool:
        return key in self.lines

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.lines[key]

    def add(self, line: Mapping[str, Any]) -> None:
        """Write one line; a key stands once."""
        if line["key"] in self.lines:
            raise ValueError(f"{line['key']} is there already")
        with self.path.open("ab") as file:
            file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines[line["key"]] = dict(line)


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
