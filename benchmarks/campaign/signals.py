"""SIGINT and SIGTERM at a write or at any time, and a standard output that nobody reads."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from . import judge
from .kills import Planned, after
from .process import PATIENCE, Done, Forked, environment, run
from .shim import Disturbance, Mode, Moment, missing
from .subjects import BY_NAME, read_reference
from .table import Finding

KIND = "signals"
PIPES = "closed output"
COUNTS = {"run": 16, "search": 12, "train": 12, "data mix": 8, "data make": 6, "compare": 8, "gate": 8, "report": 4}
OUTPUTS = {
    "tasks": ("tasks",),
    "help": ("--help",),
    "rope": ("rope", "--model", "model", "--target-length", "4k", "--rule", "all"),
    "data show": ("data", "show", "bundle"),
    "compare": ("compare", "runs/original", "runs/extended", "--out", "out/c"),
}


def plan(seed: int) -> list[Planned]:
    """Half of the signals come at a write, half at any time."""
    found: list[Planned] = []
    for subject, count in COUNTS.items():
        rng = random.Random(f"signal {seed} {subject}")
        for number in range(count):
            place = (number + rng.random()) / count
            which = (signal.SIGINT, signal.SIGTERM)[number % 2]
            at_write = number % 4 < 2 and missing() is None
            name = f"signal {subject} {number}"
            found.append((subject, name, partial(_trial, subject, name, place, which, at_write)))
    return found


def plan_pipes() -> list[Planned]:
    """Commands that print into a pipe without a reader, into no file at all, and onto a full device."""
    return [
        (PIPES, f"output {name} {how}", partial(_pipe, name, how))
        for name in OUTPUTS
        for how in ("pipe", "closed", "full")
    ]


def _trial(
    subject: str,
    name: str,
    place: float,
    which: signal.Signals,
    at_write: bool,
    examples: Path,
    references: Path,
    home: Path,
) -> list[dict[str, Any]]:
    chosen, reference = BY_NAME[subject], read_reference(references / f"{subject}.json")
    work = home / "signal"
    chosen.prepare(examples, work)
    at = 1 + int(place * reference.calls)
    if at_write:
        process = Forked(chosen.words, work, Disturbance(Mode.SIGNAL, at, Moment.BEFORE, which))
    else:
        process = Forked(chosen.words, work)
        # The first moments belong to the fork, which has not begun with the command.
        time.sleep(0.1 + place * reference.seconds)
        process.kill(which)
    done = process.wait()
    kept = chosen.committed(work)
    problem = None
    if done.code != reference.code:  # it was over before it could be interrupted
        problem = judge.wrong(done, (130,)) if done.code != -which else f"dies of {which.name}"
        done = run(chosen.words, work) if problem is None else done
    problem = problem or after(chosen, work, reference, kept, done)
    where = f"{which.name} at {f'write {at}' if at_write else f'{place:.0%} of its time'}"
    detail = f"{where}: {done.err.strip()[-300:]}" if problem else ""
    return [Finding(KIND, subject, problem, name, f"lr2eval {' '.join(chosen.words)}"[:200], detail).to_json()]


def _pipe(name: str, how: str, examples: Path, references: Path, home: Path) -> list[dict[str, Any]]:
    """No traceback and no verdict that is none. An interpreter of its own, whose end flushes what is left."""
    work = home / "signal"
    BY_NAME["report"].prepare(examples, work)
    words = [sys.executable, "-m", "lr2eval", *OUTPUTS[name]]
    reading, writing = os.pipe()
    os.close(reading)
    target = {"pipe": writing, "full": os.open("/dev/full", os.O_WRONLY), "closed": subprocess.DEVNULL}[how]
    before = (lambda: os.close(1)) if how == "closed" else None
    variables = {**environment(work / "cache"), "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(
        words,
        stdout=target,
        stderr=subprocess.PIPE,
        cwd=work,
        env=variables,
        preexec_fn=before,  # noqa: PLW1509  # there are no threads
    )
    try:
        err = child.communicate(timeout=PATIENCE)[1].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        child.kill()
        err = f"{child.communicate()[1].decode('utf-8', 'replace')}\nkilled after {PATIENCE:g} seconds"
    finally:
        os.close(writing)
        if how == "full":
            os.close(target)
    codes = {"pipe": (0, 2, 5, 141, -signal.SIGPIPE), "closed": (0, 2, 5), "full": (5,)}[how]
    silent = (0, 141, -signal.SIGPIPE, *((2, 5) if how == "pipe" else ()))
    problem = judge.wrong(Done(child.returncode, "", err), codes, silent=silent)
    repeat = f"output {name} {how}"
    return [
        Finding(
            KIND,
            f"{PIPES}: {how}",
            problem,
            repeat,
            f"lr2eval {' '.join(OUTPUTS[name])}",
            err.strip()[-300:] if problem else "",
        ).to_json()
    ]
