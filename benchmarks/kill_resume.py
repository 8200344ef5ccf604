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
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import make_toy_model
import psutil
from forked import Forked

WORKERS = ("multiprocessing.spawn", "ray::_Remote")
TASKS = "ruler:niah_single_1,ruler:niah_multikey_2,ruler:fwe"


def run_logged(log: Path, arguments: list[str]) -> None:
    """The ordinary command line, which also writes down which batches go to the model, or to a worker."""
    from lr2eval import cli
    from lr2eval.runs.recording import RecordingLM
    from lr2eval.runs.spread import Work

    file = log.open("a", buffering=1)
    alone, handed = RecordingLM._run, Work._call

    def logged(self: Any, request_type: str, requests: Any, batch: Any) -> Any:
        file.write(json.dumps([self._shard, request_type, batch]) + "\n")
        return alone(self, request_type, requests, batch)

    def logged_call(self: Any, wanted: Any, batch: Any) -> Any:
        if batch is not None:
            file.write(json.dumps([wanted.shard, wanted.request_type, batch]) + "\n")
        return handed(self, wanted, batch)

    RecordingLM._run = logged  # type: ignore[method-assign]
    Work._call = logged_call  # type: ignore[method-assign]
    sys.argv = ["lr2eval", *arguments]
    cli.main()


def command(model: Path, out: Path, samples: int, workers: int = 0, executor: str = "processes") -> list[str]:
    """The run that is killed: three tasks, two lengths, batches of two, fp32, one thread; ``workers`` 0 is without."""
    spread = ["--workers", str(workers), "--executor", executor] if workers else []
    return [
        "run", "--model", str(model), "--tasks", TASKS, "--lengths", "768,1k", "--samples-per-task", str(samples),
        "--batch-size", "2", "--dtype", "float32", "--device", "cpu", "--offline", "--out", str(out),
        *spread,
    ]  # fmt: skip


def committed(out: Path) -> set[tuple[str, str, int]]:
    """Requests whose responses are in the store, read as any other process would."""
    from lr2eval.record.store import FILE, RunStore

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
    Forked(make_toy_model.main, model).finish("making the model")
    calm, rough = work / "calm", work / "rough"
    began = time.monotonic()
    Forked(run_logged, work / "calm.log", command(model, calm, samples)).finish("the undisturbed run")
    duration = time.monotonic() - began
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
        child = Forked(run_logged, log, command(model, rough, samples, now, executor))
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
                drivers += child.kill()  # alone: its workers have to see to their own end
                break
        if ended:
            child.finish("the resumed run")
            found = json.loads((rough / "results.json").read_text())
            digests.append(found["digest"] == expected["digest"])
            results.append(found == expected)
            rough = work / f"rough{len(results)}"  # the kills that are left hit a run of their own
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
