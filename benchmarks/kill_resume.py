"""Kill a run with SIGKILL at random moments, start it again each time, and look whether anything was lost.

``python benchmarks/kill_resume.py --kills 20`` makes a toy model, runs it once undisturbed, then once with the given
number of kills, and checks after every death: the store opens; no batch that was committed is evaluated again; and, at
the end, the run digest and ``results.json`` are those of the undisturbed run. Prints one JSON object and exits 1 when
anything differs. The tests do three kills with the same code.

With ``--workers N`` (and ``--executor ray``) the undisturbed run has none, and the disturbed one has them: half of the
kills hit a worker, which the run must survive, the others the driver alone, whose workers have to end by themselves; it
is followed by one with another number of workers, 1 to N.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
WORKERS = ("multiprocessing.spawn", "ray::_Remote")
TASKS = "ruler:niah_single_1,ruler:niah_multikey_2,ruler:fwe"

# The child runs the ordinary command line; the patch only writes down which batches go to the model, or to a worker.
CHILD = """
import json, sys
from lr2eval import _pool, _recording, cli
log = open(sys.argv.pop(1), "a", buffering=1)
run = _recording.RecordingLM._run
def logged(self, request_type, requests, keys, batch):
    log.write(json.dumps([self._shard, request_type, batch]) + "\\n")
    return run(self, request_type, requests, keys, batch)
_recording.RecordingLM._run = logged
call = _pool.Work._call
def handed(self, wanted, batch):
    if batch is not None:
        log.write(json.dumps([wanted.shard, wanted.request_type, batch]) + "\\n")
    return call(self, wanted, batch)
_pool.Work._call = handed
if __name__ == "__main__":
    cli.main()
"""


def command(model: Path, out: Path, samples: int, workers: int = 0, executor: str = "processes") -> list[str]:
    """The run that is killed: three tasks, two lengths, batches of two, fp32, one thread; ``workers`` 0 is without."""
    spread = ["--workers", str(workers), "--executor", executor] if workers else []
    return [
        "run", "--model", str(model), "--tasks", TASKS, "--lengths", "768,1k", "--samples-per-task", str(samples),
        "--batch-size", "2", "--dtype", "float32", "--device", "cpu", "--offline", "--out", str(out),
        *spread,
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


def worker_of(driver: int, rng: random.Random) -> psutil.Process | None:
    """One of the processes that hold a model for this driver, if it has any yet."""
    try:
        below = psutil.Process(driver).children(recursive=True)
        found = [each for each in below if any(name in " ".join(each.cmdline()) for name in WORKERS)]
    except psutil.Error:
        return None
    return rng.choice(found) if found else None


def campaign(
    work: Path, kills: int, samples: int, seed: int, workers: int = 0, executor: str = "processes"
) -> dict[str, object]:
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
    again = drivers = hit = 0
    longest = duration * (2 if workers else 1)  # workers, and a cluster, have to start too
    digests, results = [], []
    while drivers + hit < kills or not results:
        before = committed(rough)
        log = work / f"rough-{time.monotonic_ns()}.log"
        # Ray runs with one worker too; processes with one are this very process.
        now = rng.randint(1, workers) if workers else 0
        child = start(command(model, rough, samples, now, executor), log)
        assert child.stderr is not None
        ended = False
        while not ended:
            left = drivers + hit < kills
            try:
                # Up to the length of a whole run: start-up, batches, shard ends and the last writes are all hit.
                child.wait(timeout=rng.uniform(0.2, longest) if left else None)
                ended = True
            except subprocess.TimeoutExpired:
                if now and rng.random() < 0.5:
                    while (victim := worker_of(child.pid, rng)) is None and child.poll() is None:
                        time.sleep(0.1)  # none is there yet
                    with contextlib.suppress(psutil.Error):
                        if victim is not None:
                            victim.kill()
                            hit += 1
                    continue
                child.kill()  # alone: its workers have to see to their own end
                child.wait()
                drivers += 1
                break
        if ended:
            if child.returncode:
                raise SystemExit(f"the resumed run failed: {child.stderr.read().decode()[-500:]}")
            found = json.loads((rough / "results.json").read_text())
            digests.append(found["digest"] == expected["digest"])
            results.append(found == expected)
            rough = work / f"rough{len(results)}"  # the kills that are left hit a run of their own
        child.stderr.close()
        again += len(set(evaluated(log)) & before)
    facts = {
        "workers": workers,
        "executor": executor if workers else "in-process",
        "kills": drivers + hit,
        "of_drivers": drivers,
        "of_workers": hit,
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
    parser.add_argument("--workers", type=int, default=0, help="at most; 0 runs without any")
    parser.add_argument("--executor", choices=("processes", "ray"), default="processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        facts = campaign(
            Path(work), arguments.kills, arguments.samples, arguments.seed, arguments.workers, arguments.executor
        )
    text = json.dumps(facts, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    return 0 if facts["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
