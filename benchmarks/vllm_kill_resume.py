"""Kill a vLLM run with SIGKILL, its driver or its engine, start it again each time, and look whether anything was lost.

``.venv-vllm/bin/python benchmarks/vllm_kill_resume.py --kills 10`` makes a tiny longrope checkpoint, runs it on the
Hugging Face backend, then on vLLM with kills at random moments between two answers: in turn the driver and every
process of the engine. A dead engine must end the run with exit code 5; engines of a dead driver must leave; the run
that is resumed in the end must have the ids, prompts and answers of the Hugging Face run. Prints one JSON object and
exits 1 when anything differs. The tests do two kills with the same code.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

TASKS = "ruler:niah_single_1,ruler:fwe"
ORIGINAL, WINDOW = 800, 2048


def command(model: Path, out: Path, backend: str, samples: int) -> list[str]:
    """Two tasks, one length inside the original window and one beyond; two requests at once."""
    engine = ["vllm.kv_cache_memory_bytes=67108864", "vllm.enforce_eager=true", "vllm.max_num_seqs=2"]
    return [
        sys.executable, "-m", "lr2eval", "run", "--model", str(model), "--tasks", TASKS, "--lengths", "768,1k",
        "--samples-per-task", str(samples), "--dtype", "float32", "--offline", "--backend", backend, "--out", str(out),
        *(f"--set={option}" for option in engine if backend == "vllm"),
    ]  # fmt: skip


def start(arguments: list[str], processes: bool = True) -> subprocess.Popen[str]:
    """The run, its engine in processes of its own or, sooner there, in the run's."""
    multiprocessing = {"VLLM_ENABLE_V1_MULTIPROCESSING": str(int(processes))}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **multiprocessing}
    return subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )


def answered(out: Path) -> int:
    """Responses in the store, read as any other process would."""
    from lr2eval.errors import StoreError
    from lr2eval.record.store import RunStore

    try:
        with RunStore.read(out) as store:
            return int(store._db.execute("SELECT count(*) FROM responses").fetchone()[0])
    except (StoreError, sqlite3.OperationalError):  # not there yet, or without its tables
        return 0


def kill(child: subprocess.Popen[str], victim: str) -> bool:
    """SIGKILL the victim; whether what should follow does: exit code 5 in one line, or no engine left behind."""
    family = psutil.Process(child.pid).children(recursive=True)
    if victim == "driver":
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        left = psutil.wait_procs(family, timeout=120)[1]
        for process in left:
            print(f"left behind: {process}", file=sys.stderr)
        return not left
    for process in family:
        process.kill()
    error = child.communicate(timeout=300)[1].strip().splitlines()
    return child.returncode == 5 and error[-1].startswith("error: ") and "Traceback" not in "".join(error)


def campaign(work: Path, kills: int, samples: int, seed: int) -> dict[str, object]:
    """One run on the Hugging Face backend, one on vLLM with kills; what was seen."""
    from lr2eval.record.store import RunStore
    from tests.vllm_models import vllm_checkpoint

    model = vllm_checkpoint(work / "model", ORIGINAL, WINDOW)
    subprocess.run(command(model, work / "hf", "hf", samples), check=True, capture_output=True, cwd=ROOT)
    total, out = 4 * samples, work / "vllm"
    rng = random.Random(seed)
    died: dict[str, int] = {"driver": 0, "engine": 0}
    proper, lost = 0, 0
    for number in range(kills):
        victim = ("engine", "driver")[number % 2]
        before = answered(out)
        # The last answers are left for the last start.
        goal = before + rng.randint(1, max(1, (total - before - 1) // (kills - number + 1)))
        child = start(command(model, out, "vllm", samples))
        while child.poll() is None and answered(out) < goal:
            time.sleep(0.01)
        if child.poll() is not None:
            said = child.communicate()[1].strip().splitlines()[-1:]
            at = f"{answered(out)} of {total} answers"
            raise SystemExit(f"kill {number}: the run ended by itself with {child.returncode} and {at}: {said}")
        time.sleep(rng.uniform(0, 0.5))
        seen = answered(out)
        proper += kill(child, victim)
        died[victim] += 1
        lost += max(0, seen - answered(out))
    child = start(command(model, out, "vllm", samples), processes=False)
    error = child.communicate()[1]
    if child.returncode:
        raise SystemExit(f"the resumed run failed: {error[-500:]}")
    with RunStore.read(work / "hf") as a, RunStore.read(out) as b:
        pairs = list(zip(a.samples(), b.samples(), strict=True))
    equal = sum((x.id, x.prompt_hash, x.answer) == (y.id, y.prompt_hash, y.answer) for x, y in pairs)
    facts: dict[str, object] = {
        "kills": died,
        "ended_as_they_should": proper,
        "answers_lost": lost,
        "samples": len(pairs),
        "ids_prompts_answers_equal_to_hf": equal,
        "windows": sorted({y.detail.window for _, y in pairs}),
        "seed": seed,
    }
    return {**facts, "ok": proper == kills and not lost and equal == len(pairs) == total}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--samples", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        facts = campaign(Path(work), arguments.kills, arguments.samples, arguments.seed)
    text = json.dumps(facts, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    return 0 if facts["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
