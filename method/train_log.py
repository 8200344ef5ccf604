"""``log.jsonl``: one line a step, on disk as it is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from lr2eval._errors import StoreError
from lr2eval._paths import write_atomic
from lr2eval.method.train_parallel import Ranks

FILE = "log.jsonl"


class TrainLog:
    """The log of an output folder from ``step`` on: lines behind it are of steps that will be done again."""

    def __init__(self, home: Path, step: int, ranks: Ranks) -> None:
        self._path, self._ranks = home / FILE, ranks
        if ranks.rank == 0:
            kept = [line for line in read(home) if line["step"] <= step]
            write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in kept) if step else "")

    def write(self, line: Mapping[str, Any]) -> None:
        """One line; the first process adds its memory (GiB: allocated at most on a GPU, resident on a CPU)."""
        if self._ranks.rank:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**line, "memory_gib": round(_memory(self._ranks.device) / 2**30, 3)}) + "\n")
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}; mend that and run the same command again") from error


def _memory(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def read(home: Path) -> list[dict[str, Any]]:
    """The lines of a log; half a line at the end, left by a kill, is not one."""
    try:
        text = (home / FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
