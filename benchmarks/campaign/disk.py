"""A disk that is full from the n-th write on: exit code 5 in one line. With room again, the same command finishes."""

from __future__ import annotations

import random
import re
from functools import partial
from pathlib import Path
from typing import Any

from . import judge
from .kills import Planned, after
from .process import Forked, run
from .shim import Disturbance, Mode
from .subjects import BY_NAME, read_reference
from .table import Finding

KIND = "full disk"
COUNTS = {
    "run": 16,
    "run of two models": 4,
    "search": 10,
    "train": 14,
    "data mix": 8,
    "data make": 6,
    "data prepare": 4,
    "compare": 12,
    "gate": 12,
    "report": 4,
    "baseline": 4,
    "export": 4,
}
_FULL = re.compile(r"disk is full|No space left|disk full|out of space", re.IGNORECASE)


def plan(seed: int) -> list[Planned]:
    """Spread evenly over the writes of each command."""
    found: list[Planned] = []
    for subject, count in COUNTS.items():
        rng = random.Random(f"full {seed} {subject}")
        for number in range(count):
            name = f"full {subject} {number}"
            found.append((subject, name, partial(_trial, subject, name, (number + rng.random()) / count)))
    return found


def _trial(subject: str, name: str, place: float, examples: Path, references: Path, home: Path) -> list[dict[str, Any]]:
    chosen, reference = BY_NAME[subject], read_reference(references / f"{subject}.json")
    work = home / "full"
    chosen.prepare(examples, work)
    old = chosen.content(work)
    at = 1 + int(place * reference.calls)
    done = Forked(chosen.words, work, Disturbance(Mode.FULL, at)).wait()
    kept = chosen.committed(work)
    problem = None
    if done.code != reference.code:  # what it could not write was not needed, such as a cache
        problem = judge.wrong(done, (2, 5))
        if problem is None and not _FULL.search(done.err):
            problem = "the error does not say that the disk is full"
        if problem is None and chosen.together and chosen.content(work) not in (old, reference.content):
            problem = "some of the files are new, and some are not"
        said = done.err
        done = run(chosen.words, work) if problem is None else done
    else:
        said = done.err
    problem = problem or after(chosen, work, reference, kept, done)
    detail = f"from write {at} on: {said.strip()[-300:]}" if problem else ""
    return [Finding(KIND, subject, problem, name, f"lr2eval {' '.join(chosen.words)}"[:200], detail).to_json()]
