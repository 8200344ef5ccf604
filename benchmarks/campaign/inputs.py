"""Damaged inputs through the real command line: most through ``main()`` in this process, some in one of their own."""

from __future__ import annotations

import json
import random
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from . import damage, judge
from .damage_text import odd_values
from .process import Done, Task, run_fresh, run_here
from .readers import READERS, Reader, verified
from .table import Finding

ROOM = 3 << 30
"""Bytes that a process may take beyond what it has when it begins: a bomb must not take the machine with it."""
COUNT = 10_000
"""Of a whole campaign."""
FRESH = 100
"""Every input of this number (the 100th, the 200th) runs in an interpreter of its own."""
BATCH = 20
OPTIONS = "settings: --set"


@cache
def readers() -> tuple[Reader, ...]:
    """All of them, those of ``--set`` values included, which has no file."""
    return (*READERS, *verified(), Reader(OPTIONS, "", "", (), may_last=True, weight=12))


def tasks(examples: Path, count: int, seed: int) -> Iterator[tuple[str, Task]]:
    """``count`` inputs in batches. Input number ``n`` is the same whatever ``count`` is."""
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        yield f"damage {numbers.start} to {numbers.stop - 1}", partial(_batch, examples, numbers, seed)


def _batch(examples: Path, numbers: range, seed: int, home: Path) -> list[dict[str, Any]]:
    work = home / "damage"
    if not work.exists():
        shutil.copytree(examples, work, symlinks=True)
        (work / "out").mkdir()
    with _little_memory():
        return [one(examples, work, number, seed).to_json() for number in numbers]


@contextmanager
def _little_memory() -> Iterator[None]:
    """For these inputs alone: what the same process tries next may need more, such as a browser."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))


def one(examples: Path, work: Path, number: int, seed: int) -> Finding:
    """Damage one file in ``work``, run a command that reads it, judge its end, and repair the file."""
    rng = random.Random(f"damage {seed} {number}")
    reader = rng.choices(readers(), [each.weight for each in readers()])[0]
    fresh = number % FRESH == FRESH // 2
    if reader.name == OPTIONS:
        key = rng.choice(_keys())
        words: tuple[str, ...] = _set_words(key, rng)
        how, sealed = f"{key} of another kind", False
    else:
        words, how, sealed = _damaged(examples, work, reader, rng)
    patience = 8.0 if reader.may_last else 30.0
    done = run_fresh(words, work) if fresh else run_here(words, work, patience)
    problem = _problem(reader, words, done, sealed, work)
    _repair(examples, work, reader)
    return Finding(
        "damaged inputs",
        f"{reader.name}{' (own process)' if fresh else ''}",
        problem,
        f"damage {number}",
        _shown(words),
        f"{how}: {done.err.strip()[-300:]}" if problem else "",
    )


def _problem(reader: Reader, words: tuple[str, ...], done: Done, sealed: bool, work: Path) -> str | None:
    if judge.late(done) and reader.may_last:
        return None
    silent = {0}
    codes = set(judge.DOCUMENTED)
    if words[0] == "gate" and (work / "out/gate/gate.json").exists():
        silent |= {1, 3, 4}  # a verdict is told on standard output
        codes |= {1, 3} if reader.verdicts else set()
    if words[0] == "verify" and done.out.strip():
        silent |= {4}  # what is damaged is listed there
    problem = judge.wrong(done, codes, silent=silent)
    if problem is None and sealed and done.code == 0:
        return f"{words[0]} does not notice the damage"
    return problem


def _damaged(examples: Path, work: Path, reader: Reader, rng: random.Random) -> tuple[tuple[str, ...], str, bool]:
    """The command, the damage in words, and whether it has to be noticed."""
    for name in reader.remove:
        target = work / name
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    path = sorted(work.glob(reader.file))[0]
    good = path.read_bytes()
    words = rng.choice(reader.commands)
    if rng.random() < 0.06:
        # The log of training may be missing, and so may whatever can be made again; what is sealed may not.
        place = rng.choice([each for each in damage.PLACES if each is not damage.unreadable or not _is_root()])
        place(path)
        # Without training.json a training is an unfinished one.
        unfinished = path.name == "training.json" and place in (damage.missing, damage.dangling)
        return words, f"{reader.file} {place.__name__}", reader.seal is not None and not unfinished
    while True:
        way = rng.choice(damage.KINDS[reader.kind])
        try:
            bad = way(good, rng)
        except damage.DoesNotFit:
            continue
        path.write_bytes(bad)
        return words, f"{reader.file} {way.__name__}", reader.seal is not None and reader.seal(good, path)


def _is_root() -> bool:
    import os

    return os.geteuid() == 0


@cache
def _keys() -> tuple[str, ...]:
    from lr2eval.base.config import options
    from lr2eval.commands.options import task_keys
    from lr2eval.runs.config import RunConfig

    groups = [options(RunConfig), *task_keys().values()]
    return tuple(option.key for group in groups for option in group if option.key not in ("model", "out", "tasks"))


def _set_words(key: str, rng: random.Random) -> tuple[str, ...]:
    value = rng.choice(odd_values(rng))
    if rng.random() < 0.2:
        value = json.dumps({rng.choice(("1k", "x", "4096", "", "-1")): json.loads('"x"') if rng.random() < 0.5 else -1})
    group = key.partition(".")[0] if "." in key and not key.startswith("generation") else "facts"
    task = {"ruler": "ruler:niah_single_1", "niah": "niah:single", "mmlu": "mmlu:abstract_algebra"}.get(group, group)
    lengths = ("--lengths", "1k", "--samples-per-task", "2") if group in ("ruler", "niah") else ()
    return (
        "run",
        "--model",
        "model",
        "--tasks",
        task,
        "--limit",
        "2",
        "--data-dir",
        "data",
        "--offline",
        *lengths,
        "--set",
        f"{key}={value}",
        "--dry-run",
        "--out",
        "out/run",
    )


def _repair(examples: Path, work: Path, reader: Reader) -> None:
    """Every file of the folder that was damaged, the cache, and nothing of the output, as in the examples."""
    shutil.rmtree(work / "out", ignore_errors=True)
    (work / "out").mkdir()
    for name in {Path(reader.file).parts[0] if reader.file else "cache", "cache"}:
        source, target = examples / name, work / name
        if source.is_dir():
            _mirror(source, target)
        else:
            _remove(target)
            shutil.copy2(source, target)


def _mirror(source: Path, target: Path) -> None:
    wanted = {each.name: each for each in source.iterdir()}
    if not target.is_dir() or target.is_symlink():
        _remove(target)
        target.mkdir()
    for each in list(target.iterdir()):
        if each.name not in wanted:
            _remove(each)
    for name, each in wanted.items():
        copy = target / name
        if each.is_dir():
            _mirror(each, copy)
            continue
        was, now = each.lstat(), copy.lstat() if copy.is_symlink() or copy.exists() else None
        if now is None or (was.st_size, was.st_mtime_ns, was.st_mode) != (now.st_size, now.st_mtime_ns, now.st_mode):
            _remove(copy)
            shutil.copy2(each, copy)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _shown(words: tuple[str, ...]) -> str:
    return f"lr2eval {' '.join(words)}"[:300]
