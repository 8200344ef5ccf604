"""What the built-in models can do, measured as a user would: ``demo_claims.py --work FOLDER [--json FILE]``.

Runs ``lr2eval run`` on ``demo`` and ``demo-longrope2`` (needle tasks of ruler with fresh keys and values, facts) and on
``demo`` extended by plain position interpolation without training, as a control; asks the gate for both. In the window
every task has ``--inside`` samples, beyond it ``--beyond`` (half of them at 8192). Prints one JSON object with the
thresholds that the models were made to reach and whether they do. The runs resume.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import machine

from lr2eval.model.names import locate

TASKS = ("niah_single_1", "niah_multikey_1", "niah_multikey_2")
OTHERS = ("niah_single_2", "niah_multikey_3", "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe")
INSIDE = {"niah_single_1": 97.0, "niah_multikey_1": 93.0, "niah_multikey_2": 80.0, "facts": 95.0}
"""Least scores of ``demo`` at 512."""
BEYOND = 15.0
"""What ``demo`` must stay below from 1024 on."""
EXTENDED = {"niah_single_1": 95.0, "niah_multikey_1": 90.0}
"""Least scores of ``demo-longrope2`` at every length."""
MARGIN = "1.5"


def lr2eval(*arguments: str, allowed: tuple[int, ...] = (0,)) -> int:
    """Exit code of a command; others than ``allowed`` end the measurement."""
    done = subprocess.run([sys.executable, "-m", "lr2eval", *arguments], check=False, stdout=sys.stderr)
    if done.returncode not in allowed:
        raise SystemExit(f"lr2eval {arguments[0]} ended with exit code {done.returncode}")
    return done.returncode


def names(tasks: tuple[str, ...], *others: str) -> str:
    """``--tasks`` for ruler tasks and other benchmarks."""
    return ",".join([*(f"ruler:{task}" for task in tasks), *others])


def compared(out: Path, extended: str, tasks: str, lengths: str, samples: int) -> None:
    """Both models on the same samples, the original beyond its window as well."""
    lr2eval(
        *("run", "--model", extended, "--baseline", "demo", "--tasks", tasks, "--lengths", lengths, "--offline"),
        *("--samples-per-task", str(samples), "--dtype", "float32", "--set", "beyond_window=true", "--out", str(out)),
        *("--set", "ruler.haystack=demo-filler"),
    )


def scores(run: Path) -> list[dict[str, Any]]:
    """Task, length, score, n and interval of every shard of a run."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return [
        {
            "task": row["task"],
            "length": row["length"],
            "n": row["n"],
            "score": row["score"],
            "low": row["interval"]["low"],
            "high": row["interval"]["high"],
        }
        for row in results["shards"]
    ]


def interpolated(work: Path) -> Path:
    """``demo`` with every position divided by 16, at every length: what a user without this package would try first."""
    folder = work / "demo-pi"
    folder.mkdir(exist_ok=True)
    source = locate("demo")
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["rope_parameters"] |= {"rope_type": "linear", "factor": 16.0}
    config["max_position_embeddings"] *= 16
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder


def gate(work: Path, run: Path, name: str) -> dict[str, Any]:
    """The gate's word on what was kept in the window and of the facts."""
    code = lr2eval(
        *("gate", str(run / "original"), str(run / "extended"), "--margin", MARGIN),
        *("--out", str(work / f"gate-{name}")),
        allowed=(0, 1, 3),
    )
    return {"exit": code, "verdict": {0: "PASS", 1: "REGRESSION", 3: "INCONCLUSIVE"}[code]}


def checked(rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Every threshold with what was measured."""
    found = []
    for row in rows["demo"]:
        wanted = INSIDE.get(row["task"])
        if wanted is not None and row["length"] in (512, None):
            found.append({"model": "demo", "at_least": wanted, "reached": row["score"] >= wanted, **row})
        if row["length"] not in (512, None):
            found.append({"model": "demo", "below": BEYOND, "reached": row["score"] < BEYOND, **row})
    for row in rows["demo-longrope2"]:
        if row["task"] in EXTENDED:
            wanted = EXTENDED[row["task"]]
            found.append({"model": "demo-longrope2", "at_least": wanted, "reached": row["score"] >= wanted, **row})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--extended", default="demo-longrope2", help="another extended model to measure")
    parser.add_argument("--inside", type=int, default=500)
    parser.add_argument("--beyond", type=int, default=100)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    inside, far = arguments.inside, arguments.beyond
    compared(work / "inside", arguments.extended, names(TASKS, "facts"), "512", inside)
    compared(work / "beyond", arguments.extended, names(TASKS), "1k,2k,4k", far)
    compared(work / "longest", arguments.extended, names(TASKS), "8k", max(1, far // 2))
    compared(work / "others", arguments.extended, names(OTHERS), "2k", max(1, far // 3))
    compared(work / "pi", str(interpolated(work)), names(TASKS, "facts"), "512", inside)
    rows = {
        name: [row for run in ("inside", "beyond", "longest") for row in scores(work / run / part)]
        for name, part in (("demo", "original"), ("demo-longrope2", "extended"))
    }
    facts = {
        "machine": machine.facts(),
        "extended": arguments.extended,
        "gate_margin": MARGIN,
        "gate": {
            "demo-longrope2": gate(work, work / "inside", "longrope2"),
            "demo-pi, no training": gate(work, work / "pi", "pi"),
        },
        "claims": checked(rows),
        "scores": rows,
        "other_tasks": {part: scores(work / "others" / part) for part in ("original", "extended")},
        "pi": scores(work / "pi" / "extended"),
    }
    text = json.dumps(facts, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
