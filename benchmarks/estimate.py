"""How far the plan's time lies from the time the model then takes: several runs of each case, estimate against taken.

``python benchmarks/estimate.py --model smollm2-135m --tasks ruler:niah_single_1 --lengths 1k --samples 4 --repeats 3``
plans and runs in one process, as ``lr2eval run`` does. ``--cpu`` reads the processor's clock in place of the wall's on
both sides, which other jobs on the machine disturb less. Appends to ``benchmarks/results/estimate.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from machine import facts

RESULTS = Path(__file__).parent / "results" / "estimate.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default="ruler:niah_single_1")
    parser.add_argument("--lengths")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--truncation", default="error")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu", action="store_true")
    given = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(given.threads)
    if given.cpu:
        time.perf_counter = time.process_time
    rows = [_once(given) for _ in range(given.repeats)]
    ratios = [row["estimate"] / row["taken"] for row in rows]
    case = {key: str(value) if isinstance(value, Path) else value for key, value in vars(given).items()}
    case["data_dir"] = given.data_dir is not None
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    found.append({**case, "model": Path(given.model).name, "runs": rows, "ratios": ratios, "machine": facts()})
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(given.tasks, given.lengths, "estimate / taken:", ", ".join(f"{ratio:.2f}" for ratio in ratios), flush=True)


def _once(given: Any) -> dict[str, float]:
    from lr2eval.estimate.plan import make_plan
    from lr2eval.listener import Listener
    from lr2eval.runs.config import RunConfig
    from lr2eval.runs.prepare import prepare
    from lr2eval.runs.runner import execute

    flags = {
        "model": given.model, "tasks": given.tasks, "lengths": given.lengths, "samples_per_task": given.samples,
        "limit": given.limit, "dtype": given.dtype, "device": "cpu", "data_dir": given.data_dir, "offline": True,
        "truncation": given.truncation,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        run = prepare(RunConfig.load(flags, None, ()), lambda text: None)
        started = time.perf_counter()
        plan = make_plan({"": run})
        planned, lines = time.perf_counter() - started, plan.lines[""]
        if plan.reason:
            raise SystemExit(plan.reason)
        done = execute(run, Path(work) / "run", ["benchmarks/estimate.py"], Listener())
        written = sum(shard.new_tokens for shard in done.results.shards)
    return {
        "estimate": round(sum(line.seconds or 0.0 for line in lines), 2),
        "taken": round(done.model_seconds, 2),
        "run_wall": round(done.wall_seconds, 2),
        "planning": round(planned, 2),
        "planned_new_tokens": sum(line.new for line in lines),
        "new_tokens": written,
    }


if __name__ == "__main__":
    main()
