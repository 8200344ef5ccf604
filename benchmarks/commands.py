"""CPU seconds and peak memory of the commands that run no model: compare, gate, report, tasks, doctor and refusals.

``python benchmarks/commands.py`` makes two runs of 40,014 short samples (13 RULER tasks x 6 lengths x 513, a quarter of
the scores graded, some pairs discordant) and two of 39,000 samples with long answers full of marks that HTML must
escape. It starts each command four times as a user would and writes the medians of the last three to
``benchmarks/results/commands.json``. Python may keep its bytecode, as after an install. It ends with 1 if a median is
above its limit.

CPU seconds rise when neighbours share the cores. ``loop_seconds`` tells how fast the machine was: it is the CPU time of
a plain loop, before and after. The peak of a small process reads as that of this script, which starts it.
``python benchmarks/commands.py compare gate`` measures only these.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from machine import facts

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from tests.fake_runs import fake_run  # noqa: E402

TASKS = ("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
         "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2")  # fmt: skip
GRADED = {"niah_multivalue": 4, "niah_multiquery": 4, "vt": 5, "cwe": 10, "fwe": 3}
LENGTHS = tuple(4096 * 2**k for k in range(6))
SAMPLES = 513
TIMES = 3
SIZE_LIMIT = 3_000_000
"""Bytes of a report."""
NAMES = "lm-eval-tasks-*"
"""The index of lm-eval's names in the cache."""


@dataclass(frozen=True)
class Case:
    """A command with its limits. ``limit``: CPU seconds; ``fresh``: the index of lm-eval's names is made again."""

    command: str
    limit: float
    code: int = 0
    memory: float | None = None
    fresh: bool = False


CASES = {
    "compare": Case("compare {work}/original {work}/extended --out {work}/compared", 6, memory=250),
    "gate": Case("gate {work}/original {work}/extended --out {work}/gated", 6, memory=250),
    "report": Case("report {work}/long/original {work}/long/extended --out {work}/report.html", 8),
    "report of a comparison": Case("compare {work}/long/original {work}/long/extended --out {work}/long/compared", 8),
    "tasks": Case("tasks", 1),
    "doctor": Case("doctor", 1),  # plus what `import torch` takes
    "typo in a task": Case("run --model demo --tasks rulr", 1, 2),
    "typo in a task, first time": Case("run --model demo --tasks rulr", 6, 2, fresh=True),
    "typo in a task of lm-eval": Case("run --model demo --tasks helaswag", 1, 2),
    "typo in a flag": Case("run --model demo --tasks ruler --lenths 4k", 1, 2),
    "bad value": Case("run --model demo --tasks ruler --lengths 4x", 1, 2),
    "missing model": Case("run --model {work}/nowhere --tasks ruler", 1, 2),
    "missing run": Case("compare {work}/nowhere {work}/original", 1, 2),
    "missing run, report": Case("report {work}/nowhere", 1, 2),
    "unknown back end": Case("run --model demo --tasks ruler --backend hff", 1, 2),
    "unknown RoPE rule": Case("run --model demo --tasks ruler --rope yarnn --target-length 4k", 1, 2),
    "length beyond the window": Case("run --model demo --tasks ruler --lengths 1m", 1, 2),
}


def shards(rng: random.Random, moved: float, samples: int = SAMPLES) -> dict[str, list[float | None]]:
    """Scores by shard, equal for equal generators but for the share ``moved`` that is drawn anew."""
    again = random.Random(1)
    found: dict[str, list[float | None]] = {}
    for length in LENGTHS:
        for task in TASKS:
            parts = GRADED.get(task, 1)
            scores: list[float | None] = [round(100 * rng.randint(0, parts) / parts, 10) for _ in range(samples)]
            found[f"ruler/{task}@{length}"] = [
                round(100 * again.randint(0, parts) / parts, 10) if again.random() < moved else s for s in scores
            ]
    return found


def make_runs(work: Path) -> None:
    marks = 'He said: "<b>5 & 7</b>" isn\'t <5>;'
    filler = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
    long = {
        "answer": " ".join([marks] * 22),
        "prompt_head": "A special magic number is hidden within the following text. " + filler * 6,
        "prompt_tail": f"{marks} {filler * 5}",
        "excerpts": ((filler, "One of the special magic numbers is: 4815162.", f" {marks} {filler}"),) * 4,
    }
    (work / "long").mkdir()
    for name, moved in (("original", 0.0), ("extended", 0.05)):
        fake_run(work / name, shards(random.Random(0), moved), model=name)
        fake_run(work / "long" / name, shards(random.Random(0), moved, 500), model=name, texts=long)


def start(command: list[str], code: int, environment: dict[str, str]) -> dict[str, float]:
    """CPU seconds, wall seconds and peak MiB of a process of its own, which must end with ``code``."""
    quiet = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    started = time.perf_counter()
    child = os.posix_spawn(command[0], command, environment, file_actions=quiet)
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status) != code:
        raise SystemExit(f"{command} ended with {os.waitstatus_to_exitcode(status)}, not {code}")
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": time.perf_counter() - started,
        "peak_mib": usage.ru_maxrss / 1024,
    }


def measured(command: list[str], code: int, environment: dict[str, str], fresh: bool = False) -> dict[str, float]:
    """Medians of several starts after the first one, which writes bytecode and caches."""
    found = []
    for _ in range(1 + TIMES):
        for file in Path(environment["LR2EVAL_CACHE"]).glob(NAMES) if fresh else ():
            file.unlink()
        found.append(start(command, code, environment))
    return {key: round(median(run[key] for run in found[1:]), 2) for key in found[0]}


def loop_seconds() -> float:
    started = time.process_time()
    total = 0
    for number in range(10_000_000):
        total += number
    return round(time.process_time() - started, 2)


def main(asked: list[str]) -> int:
    before, rows = loop_seconds(), {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_runs(work)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"PYTHONPYCACHEPREFIX": f"{work}/bytecode", "LR2EVAL_CACHE": f"{work}/cache"}
        imports = {
            name: measured([sys.executable, "-c", f"import {name}"], 0, environment) for name in ("lr2eval", "torch")
        }
        rows["import lr2eval"] = imports["lr2eval"] | {"limit": 0.1}
        for name, case in CASES.items():
            if asked and name not in asked:
                continue
            words = [word.format(work=work) for word in case.command.split()]
            row: dict[str, Any] = measured(
                [sys.executable, "-m", "lr2eval", *words], case.code, environment, case.fresh
            )
            limit = case.limit + (imports["torch"]["cpu_seconds"] if name == "doctor" else 0)
            rows[name] = row | {"limit": round(limit, 2)} | ({"peak_limit": case.memory} if case.memory else {})
            print(f"{name}: {rows[name]}", flush=True)
        pages = {str(page.relative_to(work)): page.stat().st_size for page in work.rglob("report.html")}
    late = [name for name, row in rows.items() if row["cpu_seconds"] > row["limit"]]
    late += [name for name, row in rows.items() if row["peak_mib"] > row.get("peak_limit", row["peak_mib"])]
    late += [name for name, size in pages.items() if size > SIZE_LIMIT]
    result = {
        "what": f"medians of {TIMES} starts after a first one; limits in CPU seconds and MiB",
        "samples": {"compare, gate": len(TASKS) * len(LENGTHS) * SAMPLES, "report": 13 * len(LENGTHS) * 500},
        "loop_seconds": [before, loop_seconds()],
        "commands": rows,
        "import torch": imports["torch"],
        "bytes of reports": pages,
        "above its limit": late,
        "machine": facts(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if not asked:
        (HERE / "results" / "commands.json").write_text(text + "\n", encoding="utf-8")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
