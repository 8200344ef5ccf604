"""lr2eval and lm-eval on the same model, prompts and answers, task by task: wall and CPU time, tokens read, memory.

    python benchmarks/end_to_end.py --data-dir DATA [--lengths 2k,4k] [--samples 10] [--repeat 3] [--dtype float32]

Each side is a process of its own that has loaded the model. They take turns, task by task, so that a busy machine slows
both. lr2eval runs a task as ``lr2eval run`` does (plan, batches, store, scores, results); lm-eval runs the same task
object with its own ``hf`` model and its own ``evaluate``. Loading, start-up and making data are not counted. Memory is
the peak of the process, model and libraries included. ``--batch-size`` holds for both; with ``--auto``, lr2eval also
runs with the batches that it plans by itself, which is what users get. Writes
``benchmarks/results/end_to_end_LABEL.json``; ``--table`` prints the tables of all such files.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from machine import facts

RESULTS = Path(__file__).parent / "results"
SHORT = ("mmlu:anatomy,mmlu:astronomy,mmlu:philosophy,mmlu:sociology", "short:hellaswag", "short:gsm8k")
AIMS = "wall", "cpu", "tokens", "peak_mb"


class Side:
    """One process: reads the name of a shard on each line, runs it, and prints what it took."""

    def __init__(self, given: argparse.Namespace) -> None:
        import torch

        from lr2eval.runs.config import RunConfig
        from lr2eval.workflows.run import prepare_run

        torch.set_num_threads(given.threads)
        self.given, self.tokens, self.forwards = given, 0, 0
        ours = given.side != "lm_eval"
        batch = "auto" if given.side == "auto" else given.batch_size
        common = {"model": given.model, "data_dir": given.data_dir, "offline": True, "dtype": given.dtype,
                  "device": "cpu", "seed": 0, "batch_size": batch}  # fmt: skip
        ruler = {"tasks": given.tasks, "lengths": given.lengths, "samples_per_task": given.samples}
        short = {"tasks": ",".join(SHORT), "limit": given.questions, "options": {"short": {"hellaswag_shots": 0}}}
        asked = [RunConfig.load(common | each) for each in ([ruler] if given.samples else [])]
        asked += [RunConfig.load(common | each) for each in ([short] if given.questions else [])]
        runs = [prepare_run(each).models[""] for each in asked]
        self.shards = {shard.id: (run, shard) for run in runs for shard in run.shards}
        self.lm = self._load(runs[0], ours)
        forward = self.lm.model.forward

        @functools.wraps(forward)  # generate looks at the signature
        def counted(*args: Any, **inputs: Any) -> Any:
            self.tokens += (args[0] if args else inputs["input_ids"]).numel()
            self.forwards += 1
            return forward(*args, **inputs)

        self.lm.model.forward = counted
        self.work = self._ours if ours else self._theirs

    def _load(self, run: Any, ours: bool) -> Any:
        if not ours:
            from lm_eval.models.huggingface import HFLM

            return HFLM(pretrained=str(run.checkpoint.folder), dtype=run.dtype, device="cpu",
                        batch_size=self.given.batch_size)  # fmt: skip
        from lr2eval.runs import runner
        from lr2eval.runs.backend import load_backend

        lm = load_backend(run.checkpoint, run.config.model_copy(update={"dtype": run.dtype}))
        runner.load_backend = lambda *_: lm
        return lm

    def _ours(self, run: Any, shard: Any) -> list[Any]:
        from lr2eval.backends.requests import TokenCache
        from lr2eval.listener import Listener
        from lr2eval.record.store import RunStore
        from lr2eval.runs.runner import execute

        self.lm.tok_encode = TokenCache(self.lm.prompts.encode_rendered)  # as in a process that has just begun
        with tempfile.TemporaryDirectory() as work:
            execute(replace(run, shards=(shard,)), Path(work) / "run", [], Listener())
            with RunStore.read(Path(work) / "run") as store:
                return list(store.samples(shard.id))

    def _theirs(self, run: Any, shard: Any) -> list[Any]:
        from lm_eval.evaluator import evaluate

        from lr2eval.benchmark import ResponseDetail
        from lr2eval.runs.scoring import scored_samples

        task = shard.load()
        task.set_fewshot_seed(run.config.seed)
        name = task.config.task
        logged = evaluate(self.lm, {"tasks": {name: task}, "groups": {}, "group_map": {}}, bootstrap_iters=0)
        details: Any = defaultdict(lambda: [ResponseDetail()])
        return scored_samples(shard, logged["samples"][name], details, task.OUTPUT_TYPE, run.config.seed)

    def serve(self) -> None:
        """Answer until the input ends."""
        out, sys.stdout = sys.stdout, sys.stderr
        print(json.dumps({"shards": list(self.shards)}), file=out, flush=True)
        for line in sys.stdin:
            run, shard = self.shards[line.strip()]
            self.tokens = self.forwards = 0
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
            wall, cpu = time.perf_counter(), time.process_time()
            samples = self.work(run, shard)
            took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            status = Path("/proc/self/status").read_text()
            peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
            said = [[each.prompt_hash, each.answer, each.score] for each in samples]
            print(json.dumps({**took, "peak_mb": peak, "tokens": self.tokens, "forwards": self.forwards,
                              "said": said}), file=out, flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default="ruler")
    parser.add_argument("--lengths", default="2k,4k")
    parser.add_argument("--samples", type=int, default=10, help="of each RULER task at each length; 0: no RULER")
    parser.add_argument("--questions", type=int, default=20, help="of each short task; 0: none")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--auto", action="store_true")
    parser.add_argument("--label", default="")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--side", default="")
    given = parser.parse_args()
    if given.table:
        for path in sorted(RESULTS.glob("end_to_end_*.json")):
            print(f"\n{json.loads(path.read_text())['what']}\n\n{table(path)}")
        return 0
    if given.side:
        Side(given).serve()
        return 0
    sides = ["lr2eval", "lm_eval", *(["auto"] if given.auto else [])]
    running = {side: _start(side) for side in sides}
    offered = {side: json.loads(_line(process))["shards"] for side, process in running.items()}
    shards = offered["lm_eval"]
    before, rows = facts(), []
    for shard in shards:
        taken: dict[str, list[Any]] = {side: [] for side in sides}
        for repeat in range(given.repeat):
            for side in sides if repeat % 2 == 0 else sides[::-1]:
                running[side].stdin.write(shard + "\n")
                running[side].stdin.flush()
                taken[side].append(json.loads(_line(running[side])))
        row = {"shard": shard, "n": len(taken["lm_eval"][0]["said"])}
        for side in sides:
            row[side] = {key: round(statistics.median(each[key] for each in taken[side]), 2) for key in AIMS}
            row[side]["runs"] = {key: [round(each[key], 2) for each in taken[side]] for key in ("wall", "cpu")}
            row[side]["score"] = round(statistics.mean(score for _, _, score in taken[side][0]["said"]), 2)
            pairs = list(zip(taken[side][0]["said"], taken["lm_eval"][0]["said"], strict=True))
            assert all(a[0] == b[0] for a, b in pairs), f"{shard}: other prompts"
            row[side]["same_answers"] = sum(a[1] == b[1] for a, b in pairs)
        rows.append(row)
        print(_shown(row, sides), flush=True)
        what = f"{given.model}, {given.dtype}, {given.threads} threads, batches of {given.batch_size}"
        outcome = {
            "what": what,
            "repeat": given.repeat,
            "machine": before,
            "totals": _totals(rows, sides),
            "rows": rows,
        }
        if given.label:
            (RESULTS / f"end_to_end_{given.label}.json").write_text(json.dumps(outcome, indent=1) + "\n")
    for name, total in _totals(rows, sides).items():
        print(name, total)
    return 0


def _start(side: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a side ended before its time")
    return line


def _kind(shard: str) -> str:
    name = shard.partition("/")[0]
    return f"ruler@{shard.partition('@')[2]}" if name == "ruler" else name


def _totals(rows: list[dict[str, Any]], sides: list[str]) -> dict[str, Any]:
    """For each benchmark, lm-eval's time and tokens over ours (above 1: we are ahead), and the higher peaks."""
    found = {}
    for kind in dict.fromkeys(_kind(row["shard"]) for row in rows):
        own = [row for row in rows if _kind(row["shard"]) == kind]
        found[kind] = {"n": sum(row["n"] for row in own)}
        for side in [side for side in sides if side != "lm_eval"]:
            times = {
                key: round(sum(row["lm_eval"][key] for row in own) / sum(row[side][key] for row in own), 2)
                for key in ("wall", "cpu", "tokens")
            }
            worst = min(row["lm_eval"]["wall"] / row[side]["wall"] for row in own)
            memory = max(row[side]["peak_mb"] / row["lm_eval"]["peak_mb"] for row in own)
            same = sum(row[side]["same_answers"] for row in own)
            found[kind][side] = {
                **times,
                "slowest_task": round(worst, 2),
                "most_memory": round(memory, 2),
                "same": same,
            }
    return found


def _shown(row: dict[str, Any], sides: list[str]) -> str:
    parts = [f"{row['shard']:38} n={row['n']:<3}"]
    for side in sides:
        at = row[side]
        took = f"{side} {at['wall']:.1f} s, {at['cpu']:.1f} CPU s, {at['peak_mb']:.0f} MB"
        parts.append(f"{took}, {at['tokens']:.0f} tokens, same {at['same_answers']}")
    return " | ".join(parts)


def table(path: Path) -> str:
    """Markdown: one line a task, medians, ratios of lm-eval to ours."""
    saved = json.loads(path.read_text())
    sides = [side for side in ("lr2eval", "auto") if side in saved["rows"][0]]
    lines = ["| | n | " + " | ".join(f"{side}: wall | CPU | tokens | memory | same answers" for side in sides) + " |"]
    lines.append("|---|---|" + "---|" * (5 * len(sides)))
    for row in saved["rows"]:
        cells = [row["shard"], str(row["n"])]
        for side in sides:
            cells += [f"{row['lm_eval'][key] / row[side][key]:.2f}" for key in ("wall", "cpu", "tokens")]
            cells += [f"{row[side]['peak_mb'] / row['lm_eval']['peak_mb']:.2f}", str(row[side]["same_answers"])]
        lines.append("| " + " | ".join(cells) + " |")
    for kind, total in saved["totals"].items():
        cells = [f"**{kind}**", str(total["n"])]
        for side in sides:
            cells += [f"{total[side][key]:.2f}" for key in ("wall", "cpu", "tokens", "most_memory")]
            cells.append(str(total[side]["same"]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
