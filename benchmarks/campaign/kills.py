"""SIGKILL at a chosen write of a command, or in the middle of it. Then the same command must end as if nothing was."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path
from typing import Any

from . import judge
from .process import Done, Forked, run
from .shim import Disturbance, Mode, Moment
from .subjects import BY_NAME, SUBJECTS, Reference, Subject, read_reference
from .table import Finding

KIND = "kills"
Planned = tuple[str, str, Any]
"""(subject, name of the trial, function of examples, references and home)."""


def plan(seed: int) -> list[Planned]:
    """Every kill, spread evenly over the writes of its command. Half of them are followed by a second one."""
    found: list[Planned] = []
    for subject in SUBJECTS:
        rng = random.Random(f"kill {seed} {subject.name}")
        for number in range(subject.kills):
            place = (number + rng.random()) / subject.kills
            moment = (Moment.HALF, Moment.BEFORE, Moment.AFTER)[number % 3]
            second = rng.random() if number % 4 == 3 else None
            name = f"kill {subject.name} {number}"
            found.append((subject.name, name, partial(_trial, subject.name, name, place, moment, second)))
    return found


def _trial(
    subject: str,
    name: str,
    place: float,
    moment: Moment,
    second: float | None,
    examples: Path,
    references: Path,
    home: Path,
) -> list[dict[str, Any]]:
    chosen, reference = BY_NAME[subject], read_reference(references / f"{subject}.json")
    work = home / "kill"
    chosen.prepare(examples, work)
    old = chosen.content(work)
    at = 1 + int(place * reference.calls)
    findings: list[Finding] = []
    kept: list[Any] = []
    for number in (at,) if second is None else (at, 1 + int(second * (reference.calls - at + 1))):
        process = Forked(chosen.words, work, Disturbance(Mode.KILL, number, moment))
        done = process.wait()
        if done.code != -9:
            if number == at:
                ended = f"ended with {done.code} before write {at} of {reference.calls}"
                return [_finding(subject, name, ended, at, moment, done).to_json()]
            break
        problem = between(chosen, work, old, reference, kept)
        findings.append(_finding(subject, name, problem, number, moment, done))
        if problem:
            break
        kept = chosen.committed(work)
    if findings[-1].problem is None:
        done = run(chosen.words, work)
        problem = after(chosen, work, reference, kept, done)
        findings[-1] = _finding(subject, name, problem, at, moment, done)
    return [finding.to_json() for finding in findings]


def between(subject: Subject, work: Path, old: dict[str, str], reference: Reference, kept: list[Any]) -> str | None:
    """What is wrong after a kill: a file that is neither old nor new, or something committed that is lost."""
    if subject.old:
        for name, found in subject.content(work).items():
            if found not in (old[name], reference.content[name]):
                return f"{name} is neither the old file nor the new one"
    lost = set(kept) - set(subject.committed(work))
    return f"{len(lost)} committed rows are lost" if lost else None


def after(subject: Subject, work: Path, reference: Reference, kept: list[Any], done: Done) -> str | None:
    """What is wrong after the same command has run again."""
    if done.code != reference.code:
        told = judge.wrong(done, (reference.code,)) or f"exit code {done.code}"
        return f"the same command ends with {told}"
    content = subject.content(work)
    different = [name for name, value in reference.content.items() if content.get(name) != value]
    if different:
        return f"the result differs in {', '.join(different[:3])}"
    if set(kept) - set(subject.committed(work)):
        return "committed work was done again"
    if left := subject.left_behind(work):
        return f"{len(left)} temporary files stay"
    return None


def _finding(subject: str, name: str, problem: str | None, at: int, moment: Moment, done: Done) -> Finding:
    said = f"at write {at}, {moment.name.lower()}: {done.err.strip()[-300:]}" if problem else ""
    return Finding(KIND, subject, problem, name, f"lr2eval {' '.join(BY_NAME[subject].words)}"[:200], said)


def wait_for(process: Forked, calls: int, patience: float = 300.0) -> bool:
    """Wait until a process has made this number of writes. Returns whether it got there."""
    end = time.monotonic() + patience
    while process.counter.calls < calls and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    return process.poll() is None
