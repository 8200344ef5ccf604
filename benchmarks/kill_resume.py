"""Kill a run with SIGKILL at random moments, start it again each time, and look whether anything was lost.

``python benchmarks/kill_resume.py --kills 20`` makes a toy model, runs it once undisturbed, then once with the given
number of kills, and checks after every death: the store opens; no batch that was committed is evaluated again; and, at
the end, the run digest and ``results.json`` are those of the undisturbed run. Prints one JSON object and exits 1 when
anything differs. The tests do three kills with the same code.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
TASKS = "ruler:niah_single_1,ruler:niah_multikey_2,ruler:fwe"

# The child runs the ordinary command line; the patch only writes down which batches reach the model.
CHILD = """
import json, sys
from lr2eval import _recording, cli
log = open(sys.argv.pop(1), "a", buffering=1)
run = _recording.RecordingLM._run
def logged(self, request_type, requests, keys, batch):
    log.write(json.dumps([self._shard, request_type, batch]) + "\\n")
    return run(self, request_type, requests, keys, batch)
_recording.RecordingLM._run = logged
cli.main()
"""


def command(model: Path, out: Path, samples: int) -> list[str]:
    """The run that is killed: three tasks, two lengths, batches of two, fp32 on one thread."""
    return [
        "run", "--model", str(model), "--tasks", TASKS, "--lengths", "768,1k", "--samples-per-task", str(samples),
        "--batch-size", "2", "--dtype", "float32", "--device", "cpu", "--offline", "--out", str(out),
    ]  # fmt: skip


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The command in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(log), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )


def committed(out: Path) -> set[tuple[str, str, int]]:
    """Requests whose responses are in the store, read as any other process would."""
    from lr2eval._store import FILE, RunStore

    if not (out / FILE).exists():
        return set()
    with RunStore.create(out) as store:  # opening for writing checks the file and recovers the log
        rows = store._db.execute("SELECT shard, request_type, request FROM responses").fetchall()
    return set(rows)


def evaluated(log: Path) -> list[tuple[str, str, int]]:
    """Requests that reached the model, in order, read from the child's log (a torn last line is skipped)."""
    found = []
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            shard, request_type, batch = json.loads(line)
        except ValueError:
            continue
        found += [(shard, request_type, number) for number in batch]
    return found


def campaign(work: Path, kills: int, samples: int, seed: int) -> dict[str, object]:
    """One undisturbed run, one with ``kills`` SIGKILLs. Returns what was seen; ``ok`` says whether all held."""
    model = work / "model"
    subprocess.run([sys.executable, str(ROOT / "benchmarks" / "make_toy_model.py"), str(model)], check=True)
    calm, rough = work / "calm", work / "rough"
    began = time.monotonic()
    child = start(command(model, calm, samples), work / "calm.log")
    error = child.communicate()[1]
    duration = time.monotonic() - began
    if child.returncode:
        raise SystemExit(f"the undisturbed run failed: {error.decode()[-500:]}")
    expected = json.loads((calm / "results.json").read_text())
    rng = random.Random(seed)
    again = died = 0
    digests, results = [], []
    while died < kills or not results:
        before = committed(rough)
        log = work / f"rough-{time.monotonic_ns()}.log"
        child = start(command(model, rough, samples), log)
        assert child.stderr is not None
        try:
            # Up to the length of a whole run: start-up, batches, shard ends and the last writes are all hit.
            child.wait(timeout=rng.uniform(0.2, duration) if died < kills else None)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            died += 1
        else:
            if child.returncode:
                raise SystemExit(f"the resumed run failed: {child.stderr.read().decode()[-500:]}")
            found = json.loads((rough / "results.json").read_text())
            digests.append(found["digest"] == expected["digest"])
            results.append(found == expected)
            rough = work / f"rough{len(results)}"  # the kills that are left hit a run of their own
        child.stderr.close()
        again += len(set(evaluated(log)) & before)
    facts = {
        "kills": died,
        "runs_finished_and_compared": len(results),
        "samples_per_run": sum(shard["n"] for shard in expected["shards"]),
        "committed_requests_evaluated_again": again,
        "digests_equal": sum(digests),
        "results_equal": sum(results),
        "undisturbed_seconds": round(duration, 1),
        "seed": seed,
    }
    return {**facts, "ok": not again and all(digests) and all(results)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--samples", type=int, default=20)
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
