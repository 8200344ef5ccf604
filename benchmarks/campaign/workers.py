"""SIGKILL for worker processes, Ray workers, vLLM engines, and for drivers whose workers have to end by themselves."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import random
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from .kills import KIND, Planned, after, wait_for
from .process import Forked, environment
from .shim import Disturbance, Mode
from .subjects import BY_NAME, SPREAD, Reference, read_reference
from .table import Finding

WORKERS = ("multiprocessing.spawn", "ray::_Remote")
"""What the command lines of processes that hold a model have in them."""
PATIENCE = 240.0
KINDS = {"run with two workers": 6, "run with Ray workers": 5}
VLLM = "run with a vLLM engine"
VLLM_KILLS = 5


def plan(seed: int) -> list[Planned]:
    """Most hit a worker, which the run must survive; every third hits the driver, which must be resumable."""
    found: list[Planned] = []
    for subject, kills in KINDS.items():
        rng = random.Random(f"workers {seed} {subject}")
        for number in range(kills):
            place, name = rng.uniform(0.1, 0.6), f"kill {subject} {number}"
            found.append((subject, name, partial(_trial, subject, name, place, number % 3 == 2)))
    return found


def skipped() -> dict[str, str]:
    """Subjects that cannot be tried here, and why."""
    return {} if importlib.util.find_spec("ray") else {"run with Ray workers": "ray is not installed"}


def _trial(
    subject: str, name: str, place: float, driver: bool, examples: Path, references: Path, home: Path
) -> list[dict[str, Any]]:
    """A driver dies, or one of its workers; the result must be that of a run without workers."""
    plain, reference = BY_NAME[SPREAD], read_reference(references / f"{SPREAD}.json")
    ray = "Ray" in subject
    words = (*plain.words, "--workers", "2", *(("--executor", "ray") if ray else ()))
    work = home / "kill"
    plain.prepare(examples, work)
    at = 1 + int(place * reference.calls)
    process = Forked(words, work, Disturbance(Mode.KILL, at) if driver else Disturbance(Mode.COUNT))
    family: list[psutil.Process] = []
    if driver:
        while process.poll() is None:
            family = _children(process.pid) or family
            time.sleep(0.02)
        problem = None if process.poll() == -9 else f"ended with {process.poll()} before it was killed"
        left = psutil.wait_procs(family, timeout=90)[1]
        if left and problem is None:
            problem = f"{len(left)} processes outlive their driver"
        for each in left:
            with contextlib.suppress(psutil.Error):
                each.kill()
    else:
        problem = _kill_a_worker(process, at)
    done = process.wait(PATIENCE)
    if driver and problem is None:
        done = Forked(words, work).wait(PATIENCE)
    problem = problem or after(plain, work, Reference(**{**vars(reference), "code": 0}), [], done)
    detail = f"{'driver' if driver else 'worker'} at write {at}: {done.err.strip()[-300:]}" if problem else ""
    return [Finding(KIND, subject, problem, name, f"lr2eval {' '.join(words)}"[:200], detail).to_json()]


def _kill_a_worker(process: Forked, at: int) -> str | None:
    """SIGKILL one worker as soon as there is one and its driver has made ``at`` writes."""
    wait_for(process, at, PATIENCE)
    while process.poll() is None:
        for each in _children(process.pid):
            with contextlib.suppress(psutil.Error):
                if any(name in " ".join(each.cmdline()) for name in WORKERS):
                    each.kill()
                    return None
        time.sleep(0.05)
    return "the run ended before a worker could be killed"


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def vllm(python: str, kills: int, seed: int) -> list[Finding]:
    """``benchmarks/vllm_kill_resume.py`` under a Python that has vLLM: its engines and drivers are killed in turn."""
    script = Path(__file__).parents[1] / "vllm_kill_resume.py"
    words = [python, str(script), "--kills", str(kills), "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment(Path(cache)))
    try:
        facts = json.loads(done.stdout)
        problem = None if facts["ok"] else f"not as it should be: {facts}"
    except ValueError:
        problem = f"the benchmark ended with {done.returncode}"
    repeat = f"python benchmarks/vllm_kill_resume.py --kills {kills} --seed {seed}"
    return [
        Finding(KIND, VLLM, problem if not number else None, repeat, repeat, done.stderr[-300:] if problem else "")
        for number in range(kills)
    ]
