"""`lr2eval compare` on two runs of 40,014 samples (13 RULER tasks x 6 lengths x 513): seconds and peak memory.

``python benchmarks/compare_speed.py`` writes the two runs into a temporary folder (a quarter of the scores graded, some
pairs discordant), runs the command as a user would and reports its wall time, CPU time and peak resident memory,
report included. Writes ``benchmarks/results/compare_speed.json``.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from machine import facts

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from tests.fake_runs import fake_run  # noqa: E402

TASKS = ("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
         "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2")  # fmt: skip
GRADED = {"niah_multivalue": 4, "niah_multiquery": 4, "vt": 5, "cwe": 10, "fwe": 3}
LENGTHS = tuple(4096 * 2**k for k in range(6))
SAMPLES = 513


def shards(rng: random.Random, moved: float) -> dict[str, list[float | None]]:
    """Scores by shard, equal for equal generators but for the share ``moved`` that is drawn anew."""
    again = random.Random(1)
    found: dict[str, list[float | None]] = {}
    for length in LENGTHS:
        for task in TASKS:
            parts = GRADED.get(task, 1)
            scores: list[float | None] = [round(100 * rng.randint(0, parts) / parts, 10) for _ in range(SAMPLES)]
            found[f"ruler/{task}@{length}"] = [
                round(100 * again.randint(0, parts) / parts, 10) if again.random() < moved else s for s in scores
            ]
    return found


def measure(command: list[str]) -> dict[str, float]:
    started = time.perf_counter()
    child = os.spawnvp(os.P_NOWAIT, command[0], command)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{command} ended with {status}")
    return {
        "wall_seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": round(usage.ru_maxrss / 1024, 1),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name, moved in (("original", 0.0), ("extended", 0.05)):
            fake_run(base / name, shards(random.Random(0), moved), model=name)
        command = [sys.executable, "-m", "lr2eval", "compare", str(base / "original"), str(base / "extended")]
        runs = [measure([*command, "--out", str(base / f"out{k}")]) for k in range(3)]
        sizes = {path.name: path.stat().st_size for path in (base / "out0").iterdir()}
    result = {
        "machine": facts(),
        "samples": len(TASKS) * len(LENGTHS) * SAMPLES,
        "runs": runs,
        "median": {key: median(run[key] for run in runs) for key in runs[0]},
        "bytes_written": sizes,
    }
    print(json.dumps(result, indent=2))
    (HERE / "results" / "compare_speed.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
