"""Every LongBench data set from end to end on a real model: the first samples of each, cut to a short window.

``python benchmarks/longbench_smoke.py --data-dir ../shared/data`` runs `lr2eval run --tasks longbench` with
SmolLM2-135M (fp32, CPU), then `lr2eval score longbench` on the run. It checks that all 21 data sets were scored, that
no prompt is longer than its window, that cut ones fill it, and that scoring again gives the same numbers. The scores
mean nothing: a few samples each, most of their context cut away, and a small model.

``--model demo-longrope2 --window 2048`` does the same with the demo model. The run is kept in ``--work`` and resumed.
Writes ``benchmarks/results/longbench_smoke.json``, with another model's name in it for another model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from machine import facts

from lr2eval.record.store import RunStore
from lr2eval.tasks.longbench.prompts import prompt

HERE = Path(__file__).parent
DATA_SETS = 21


def lr2eval(*arguments: object) -> str:
    """Standard output of a command that must succeed."""
    command = [sys.executable, "-m", "lr2eval", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--limit", type=int, default=2)
    parser.add_argument("--work", type=Path, default=Path("runs/longbench-smoke"))
    options = parser.parse_args()

    lr2eval(
        "run", "--model", options.model, "--tasks", "longbench", "--lengths", options.window, "--limit", options.limit,
        "--truncation", "middle", "--dtype", "float32", "--device", "cpu", "--offline", "--data-dir", options.data_dir,
        "--out", options.work,
    )  # fmt: skip
    again = json.loads(lr2eval("score", "longbench", options.work, "--json"))["scores"]
    results = json.loads((options.work / "results.json").read_text())
    manifest = json.loads((options.work / "manifest.json").read_text())
    rows = {}
    with RunStore.read(options.work) as store:
        for shard in results["shards"]:
            name = f"{shard['task']}@{options.window}"
            samples = list(store.samples(f"longbench/{name}"))
            assert all(s.detail.prompt_tokens + s.detail.new_tokens <= options.window for s in samples), name
            # What was cut was cut to fill the window: no more than a few tokens at the seam are left free.
            room = options.window - prompt(shard["task"]).max_new_tokens
            assert all(room - 8 <= s.detail.prompt_tokens for s in samples if s.detail.truncated_tokens), name
            assert round(shard["score"], 2) == again[name], name
            rows[shard["task"]] = {
                "samples": shard["n"],
                "score": round(shard["score"], 2),
                "metric": shard["metric"],
                "truncated": shard["truncated"],
                "prompt_tokens": [s.detail.prompt_tokens for s in samples],
                "tokens_cut": [s.detail.truncated_tokens for s in samples],
                "new_tokens": [s.detail.new_tokens for s in samples],
            }
    assert len(rows) == DATA_SETS, rows.keys()
    found = {
        "machine": facts(),
        "model": results["model"]["name"],
        "window": options.window,
        "seconds": round(sum(session["wall_seconds"] for session in manifest["sessions"])),
        "seconds_in_the_model": round(sum(session["model_seconds"] for session in manifest["sessions"])),
        "data_sets": rows,
    }
    suffix = "" if options.model == "smollm2-135m" else f"_{options.model}"
    target = HERE / "results" / f"longbench_smoke{suffix}.json"
    target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main()
