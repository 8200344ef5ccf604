"""How much of a run is not the model: start-up of the command line, and time outside the model in a real run.

``python benchmarks/overhead.py --model smollm2-135m --data-dir DIR`` runs ``lr2eval run`` as a user would, reads the
manifest's seconds and times ``lr2eval --help`` five times. Writes ``benchmarks/results/overhead.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import facts

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--samples", type=int, default=10, help="of each RULER task at each length")
    parser.add_argument("--limit", type=int, default=40, help="of each MMLU subject")
    arguments = parser.parse_args()
    script = str(Path(sys.executable).with_name("lr2eval"))
    help_seconds = []
    for _ in range(6):
        started = time.perf_counter()
        subprocess.run([script, "--help"], capture_output=True, check=True)
        help_seconds.append(time.perf_counter() - started)
    with tempfile.TemporaryDirectory() as work:
        out = Path(work) / "run"
        mmlu = ",mmlu:anatomy,mmlu:sociology" if arguments.data_dir else ""
        data = ["--data-dir", str(arguments.data_dir)] if arguments.data_dir else []
        command = [
            script, "run", "--model", arguments.model, "--tasks", f"ruler:niah_single_1,ruler:vt{mmlu}", "--lengths",
            "1k,2k", "--samples-per-task", str(arguments.samples), "--limit", str(arguments.limit),
            "--offline", "--out", str(out), *data,
        ]  # fmt: skip
        started = time.perf_counter()
        subprocess.run(command, check=True)
        process = time.perf_counter() - started
        session = json.loads((out / "manifest.json").read_text())["sessions"][0]
        results = json.loads((out / "results.json").read_text())
    wall, model = session["wall_seconds"], session["model_seconds"]
    outcome = {
        "help_seconds_median_of_5": round(statistics.median(help_seconds[1:]), 3),
        "samples": sum(shard["n"] for shard in results["shards"]),
        "tokens": sum(shard["prompt_tokens"] + shard["new_tokens"] for shard in results["shards"]),
        "process_seconds": round(process, 1),
        "run_seconds": wall,
        "model_seconds": model,
        "outside_the_model_share_of_run": round(1 - model / wall, 4),
        "outside_the_model_share_of_process": round(1 - model / process, 4),
        "machine": facts(),
    }
    print(json.dumps(outcome, indent=2))
    (HERE / "results" / "overhead.json").write_text(json.dumps(outcome, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
