"""One stage of ``day.py`` in a process of its own: its checks one after the other, each written down as it ends.

A stage is a script with a list of :class:`Check`. The table of all results can be made without running anything.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

GIB = 2**30
PASS, FAIL, MEASURED, NOT_HERE, NO_TIME = "pass", "FAIL", "measured", "not here", "no time"


class NotHereError(Exception):
    """This machine lacks something that the check needs."""


@dataclass
class Stage:
    """What a check may use. ``device`` is ``cuda`` or ``cpu``; a rehearsal is tiny and its numbers mean nothing."""

    device: str
    rehearse: bool
    home: Path
    """Model and data, taken in by ``day.py``."""
    work: Path
    """A scratch folder that later stages see too."""
    deadline: float
    """On ``time.monotonic``'s clock."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What an earlier check of this stage left for a later one."""

    @property
    def left(self) -> float:
        """Seconds until this stage is ended."""
        return self.deadline - time.monotonic()

    def needs_gpu(self, what: str) -> None:
        """Raises :class:`NotHereError` on a CPU."""
        if self.device == "cpu":
            raise NotHereError(f"{what} needs a GPU")

    def wait(self) -> None:
        """Until the GPU has done all it was given: needed in front of every look at a clock."""
        if self.device != "cpu":
            torch.cuda.synchronize()

    def timed(self, act: Callable[[], Any]) -> tuple[float, Any]:
        """Wall seconds of one call with the GPU idle before and after, and what it returned."""
        self.wait()
        began = time.perf_counter()
        found = act()
        self.wait()
        return time.perf_counter() - began, found

    def peak(self, act: Callable[[], Any]) -> int | None:
        """Bytes that one call needs on the GPU beyond what was held before it; ``None`` on a CPU."""
        if self.device == "cpu":
            act()
            return None
        clear()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        act()
        self.wait()
        return torch.cuda.max_memory_allocated() - before


@dataclass(frozen=True)
class Check:
    """``run`` returns one sentence and maybe numbers. It raises :class:`AssertionError` if the check fails."""

    name: str
    run: Callable[[Stage], str | tuple[str, dict[str, Any]]]
    seconds: float = 5
    """What it takes on an H100. With less time left it does not begin."""
    measures: bool = False
    """There is no right answer: it measures."""
    gpu_only: bool = False
    """A rehearsal cannot run it, or only a part of it."""
    gib: float = 4
    """GPU memory that it needs."""


def clear() -> None:
    """Give memory of finished work back."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def answer(check: Check, stage: Stage) -> dict[str, Any]:
    """Run one check; what came of it."""
    if not stage.rehearse and stage.left < check.seconds:
        return {"verdict": NO_TIME, "said": f"{stage.left:.0f} s were left, it takes {check.seconds:.0f} s"}
    if stage.device != "cpu":
        total = torch.cuda.get_device_properties(0).total_memory / GIB
        if total < check.gib:
            return {"verdict": NOT_HERE, "said": f"needs {check.gib:.0f} GiB, this GPU has {total:.0f} GiB"}
    try:
        found = check.run(stage)
    except NotHereError as error:
        return {"verdict": NOT_HERE, "said": str(error)}
    except Exception as error:  # the other checks are to be heard, too
        traceback.print_exc()
        return {"verdict": FAIL, "said": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:300]}
    said, numbers = found if isinstance(found, tuple) else (found, {})
    return {"verdict": MEASURED if check.measures else PASS, "said": said, **({"numbers": numbers} if numbers else {})}


def main(checks: Sequence[Check]) -> int:
    """A stage's ``main``: run its checks and write ``--json`` after each."""
    parser = argparse.ArgumentParser(description="One stage of benchmarks/gpu/day.py; see there.")
    parser.add_argument("--json", type=Path, required=True, help="file for the results")
    parser.add_argument("--home", type=Path, required=True, help="folder with model and data")
    parser.add_argument("--work", type=Path, required=True, help="scratch folder")
    parser.add_argument("--seconds", type=float, default=600, help="time for this stage")
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU")
    parser.add_argument("--only", help="only checks whose name contains this")
    arguments = parser.parse_args()
    device = "cpu" if arguments.rehearse else "cuda"
    if device == "cpu":
        torch.set_num_threads(1)
    stage = Stage(device, arguments.rehearse, arguments.home, arguments.work, time.monotonic() + arguments.seconds)
    found: list[dict[str, Any]] = []
    for check in checks:
        if arguments.only and arguments.only not in check.name:
            continue
        clear()
        began = time.monotonic()
        result = {"check": check.name, **answer(check, stage), "seconds": round(time.monotonic() - began, 1)}
        print(f"[{result['seconds']:6.1f} s] {result['verdict']:<8} {check.name}: {result['said']}", flush=True)
        found.append(result)
        unfinished = arguments.json.with_suffix(".part")
        unfinished.write_text(json.dumps(found, indent=1) + "\n")
        os.replace(unfinished, arguments.json)
    sys.stdout.flush()
    return int(any(each["verdict"] == FAIL for each in found))
