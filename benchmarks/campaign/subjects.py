"""Commands that are killed, interrupted, or run out of disk, and what must be there in the end."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .examples import BUNDLE_TASKS, MIX, QUIET, RULER, RUN_WORDS, SEARCH, TRAIN
from .process import count_writes

Content = dict[str, str]
"""File or fact -> its hash."""
TIMES = ("seconds", "tokens_per_second", "memory_gib", "created", "sessions", "command", "versions")
"""Keys of JSON files that say when, how long or where."""


def whole(path: Path) -> str:
    """The hash of a file's bytes; of a report, without its date and time."""
    data = path.read_bytes()
    if path.suffix == ".html":
        data = re.sub(rb"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?", b"DATE", data)
    elif path.name == "junit.xml":
        data = re.sub(rb'timestamp="[^"]*"', b"", data)
    return hashlib.sha256(data).hexdigest()


def timeless(path: Path) -> str:
    """The hash of a JSON or JSON Lines file without times."""
    values = (
        [json.loads(line) for line in path.read_text().splitlines()]
        if path.suffix == ".jsonl"
        else [json.loads(path.read_text())]
    )
    for value in values:
        value.pop("sha256", None)  # of the file with its times
    return hashlib.sha256(json.dumps([_timeless(value) for value in values], sort_keys=True).encode()).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def rows(path: Path, query: str) -> list[Any]:
    """What a database holds, read as any other process would; nothing where there is no such table yet."""
    if not path.exists():
        return []
    db = sqlite3.connect(path, timeout=30)
    try:
        return db.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        db.close()


def of_rows(found: list[Any]) -> str:
    return hashlib.sha256(repr(found).encode()).hexdigest()


@dataclass(frozen=True)
class Subject:
    """A command. ``folder`` has its result: ``exact`` files are equal byte for byte, ``loose`` ones but for times.

    ``journal``: a database and a query for what is committed; what a kill leaves there must stay as it is, to the last
    bit. ``old``: files of an earlier result lie there, so that a kill leaves each as it was or as it will be.
    ``together``: these files are written all or none. ``drop``: what to remove first, beside ``folder``.
    """

    name: str
    words: tuple[str, ...]
    folder: str
    exact: tuple[str, ...]
    loose: tuple[str, ...] = ()
    journal: tuple[str, str] | None = None
    answers: str | None = None
    """A query for the contents of the finished journal."""
    old: bool = False
    together: bool = False
    drop: tuple[str, ...] = ()
    codes: tuple[int, ...] = (0,)
    kills: int = 10

    def prepare(self, examples: Path, home: Path) -> None:
        """A folder to run the command in."""
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(examples, home, symlinks=True)
        for name in (self.folder, *self.drop):
            target = home / name
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        (home / "out").mkdir(exist_ok=True)
        if self.old:
            for name in self.exact:
                path = home / self.folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"old {name}\n")

    def content(self, home: Path) -> Content:
        """What the command made. A file that is not there has no entry."""
        folder = home / self.folder
        found = {name: whole(folder / name) for name in self.exact if (folder / name).is_file()}
        found |= {name: timeless(folder / name) for name in self.loose if (folder / name).is_file()}
        if self.journal and self.answers:
            found["journal"] = of_rows(rows(folder / self.journal[0], self.answers))
        return found

    def committed(self, home: Path) -> list[Any]:
        """What a killed command has kept."""
        return rows(home / self.folder / self.journal[0], self.journal[1]) if self.journal else []

    def left_behind(self, home: Path) -> list[str]:
        """Temporary files beside the result."""
        return sorted(path.name for path in (home / self.folder).rglob(".*.tmp"))


_RESPONSES = ("samples.sqlite", "SELECT shard, request_type, request, key, response, detail FROM responses")
_SAMPLES = "SELECT * FROM samples ORDER BY id"
_TRIALS = ("evaluations.sqlite", "SELECT number, factors, sample, nll, tokens, seconds FROM evaluations")
_JOURNAL = "SELECT factors, sample, nll, tokens FROM evaluations ORDER BY number"
_TENSORS = (
    "model/model.safetensors",
    "checkpoints/step-000004/weights.safetensors",
    "checkpoints/step-000004/optimizer.safetensors",
    "checkpoints/step-000004/random.safetensors",
)
_ROWS = ("rows.bin", "lengths.bin", "tokens.bin", "weights.bin")
_COMPARED = ("comparison.json", "comparison.csv", "comparison.md", "report.html")
RUN = ("run", "--model", "model", *RUN_WORDS, "--out", "out/run")
PAIR = (
    "run",
    "--model",
    "sharded",
    "--baseline",
    "model",
    "--tasks",
    "facts",
    "--limit",
    "4",
    "--batch-size",
    "2",
    *QUIET,
    "--out",
    "out/pair",
)

SUBJECTS: tuple[Subject, ...] = (
    Subject(
        "run", RUN, "out/run", ("results.json",), journal=_RESPONSES, answers=_SAMPLES, drop=("cache/data",), kills=55
    ),
    Subject("run of two models", PAIR, "out/pair", ("comparison.json", "comparison.csv", "gate.json"), kills=15),
    Subject(
        "search",
        (*SEARCH, "--out", "out/search"),
        "out/search",
        ("search.json", "factors.json"),
        journal=_TRIALS,
        answers=_JOURNAL,
        kills=35,
    ),
    Subject(
        "train",
        (*TRAIN, "--data", "rows", "--out", "out/training"),
        "out/training",
        _TENSORS,
        ("log.jsonl", "training.json"),
        kills=40,
    ),
    Subject(
        "data mix", (*MIX, "--out", "out/rows"), "out/rows", _ROWS, ("manifest.json",), drop=("cache/tokens",), kills=15
    ),
    Subject(
        "data make",
        (
            "data",
            "make",
            "--model",
            "model",
            "--tasks",
            RULER,
            "--lengths",
            "1k,2k",
            "--samples-per-task",
            "3",
            "--offline",
            "--out",
            "out/data",
        ),
        "out/data",
        ("niah_single_1-1024.jsonl", "niah_single_1-2048.jsonl", "manifest.json"),
        drop=("cache/data",),
        kills=12,
    ),
    Subject(
        "data prepare",
        ("data", "prepare", "--tasks", BUNDLE_TASKS, "--data-dir", "data", "--out", "out/bundle", "--offline"),
        "out/bundle",
        ("bundle.json", "longbench/trec.jsonl", "squad/dev-v2.0.json"),
        kills=8,
    ),
    Subject(
        "compare",
        ("compare", "runs/original", "runs/extended", "--out", "out/compared"),
        "out/compared",
        _COMPARED,
        old=True,
        together=True,
        kills=15,
    ),
    Subject(
        "gate",
        ("gate", "runs/original", "runs/extended", "--margin", "90", "--out", "out/gate"),
        "out/gate",
        (*_COMPARED, "gate.json", "summary.md", "junit.xml"),
        old=True,
        together=True,
        kills=12,
    ),
    Subject(
        "report",
        ("report", "runs/original", "--out", "out/page/report.html"),
        "out/page",
        ("report.html",),
        old=True,
        kills=8,
    ),
    Subject(
        "report of a search",
        ("report", "search", "--out", "out/page/report.html"),
        "out/page",
        ("report.html",),
        old=True,
        kills=5,
    ),
    Subject(
        "baseline",
        ("baseline", "save", "runs/original", "--out", "out/saved/baseline.json"),
        "out/saved",
        ("baseline.json",),
        old=True,
        kills=8,
    ),
    Subject(
        "export",
        ("export", "--model", "small", "--factors", "search/factors.json", "--copy-weights", "--out", "out/export"),
        "out/export",
        ("config.json", "model.safetensors", "rope_factors.json"),
        kills=5,
    ),
)
SPREAD = "a longer run"
"""What workers share; killed by :mod:`.workers` alone."""
_LONGER = ("--samples-per-task", "8", "--limit", "24")  # the last value of a flag counts
BY_NAME: Mapping[str, Subject] = {
    **{subject.name: subject for subject in SUBJECTS},
    SPREAD: Subject(SPREAD, (*RUN, *_LONGER), "out/run", ("results.json",), answers=_SAMPLES, kills=0),
}


@dataclass(frozen=True)
class Reference:
    """An undisturbed command: what it made, and how many writes and seconds it took."""

    content: Content
    calls: int
    bytes: int
    seconds: float
    code: int


def make_reference(subject: Subject, examples: Path, target: Path, home: Path) -> list[dict[str, Any]]:
    """Run the command undisturbed and write what it made into ``target``."""
    import time

    work = home / "calm"
    subject.prepare(examples, work)
    began = time.monotonic()
    done, calls, size = count_writes(subject.words, work)
    seconds = time.monotonic() - began
    content = subject.content(work)
    missing = [name for name in (*subject.exact, *subject.loose) if name not in content]
    if done.code not in subject.codes or missing or not calls:
        raise SystemExit(
            f"{subject.name}: undisturbed, it ended with {done.code}, {calls} writes, no {missing}: {done.err}"
        )
    there = sum(path.stat().st_size for path in (work / subject.folder).rglob("*") if path.is_file())
    if size < there:
        raise SystemExit(f"{subject.name}: it wrote {there:,} bytes, and the library saw only {size:,} of them")
    value = {"content": content, "calls": calls, "bytes": size, "seconds": seconds, "code": done.code}
    target.write_text(json.dumps(value))
    return []


def read_reference(path: Path) -> Reference:
    return Reference(**json.loads(path.read_text()))


Trial = Callable[[Path], list[dict[str, Any]]]
