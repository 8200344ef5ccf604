"""The whole RULER suite at one length: 13 tasks, wall and CPU seconds, by several processes as a run makes it.

``python benchmarks/ruler_suite.py --model DIR --data-dir DIR`` makes 500 samples of every task at 131,072 tokens by two
processes, each file written, synced and hashed as for a run, and removed once it is measured. Seconds of the processes
it starts are counted. Writes ``benchmarks/results/ruler_suite.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import facts

from lr2eval.benchmark import TaskContext
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.ruler import RULER

HERE = Path(__file__).parent


def cpu() -> float:
    """CPU seconds of this process and of its children that ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def measured(task: str, context: TaskContext) -> dict[str, Any]:
    """Seconds and size of one task's data file."""
    wall, used = time.perf_counter(), cpu()
    (shard,) = RULER.prepare([task], context)
    wall, used = time.perf_counter() - wall, cpu() - used
    path = context.cache_dir / str(shard.data["file"])
    size = path.stat().st_size
    path.unlink()
    return {
        "task": task,
        "samples": shard.n,
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(used, 1),
        "megabytes": round(size / 1e6),
        "fill_min": round(float(shard.data["fill_min"] or 0), 5),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--length", type=int, default=131_072)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    tokenizer = PromptTokenizer.load(arguments.model)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        context = TaskContext(
            tokenizer,
            (arguments.length,),
            arguments.samples,
            0,
            Path(folder),
            data_dir=arguments.data_dir,
            offline=True,
            options={"workers": arguments.workers},
            progress=print,
        )
        for task in RULER.select(None):
            rows.append(measured(task, context))
            print(json.dumps(rows[-1]), flush=True)
    outcome = {
        "what": "all RULER tasks made as for a run; CPU seconds include the processes started",
        "length": arguments.length,
        "processes": arguments.workers,
        "samples": sum(row["samples"] for row in rows),
        "tokens": sum(row["samples"] for row in rows) * arguments.length,
        "wall_seconds": round(sum(row["wall_seconds"] for row in rows), 1),
        "cpu_seconds": round(sum(row["cpu_seconds"] for row in rows), 1),
        "gigabytes": round(sum(row["megabytes"] for row in rows) / 1000, 2),
        "tokenizer_vocabulary": len(tokenizer.tokenizer),
        "tasks": rows,
        "machine": facts(),
    }
    (HERE / "results" / "ruler_suite.json").write_text(json.dumps(outcome, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
