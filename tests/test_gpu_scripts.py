"""What waits for a GPU, rehearsed on a CPU: every stage runs, the numbers mean nothing. And what else can go wrong."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "gpu"))
import checks
import day
import pack

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu" / "day.py"
NOT_BASE = ("pytest", "hypothesis", "gguf", "liger_kernel", "ray", "vllm", "jieba", "playwright", "statsmodels")
"""Packages of this environment that a base installation lacks."""


@pytest.mark.xdist_group("rehearsal")
def test_the_rehearsal_runs_every_check(tmp_path: Path) -> None:
    """With nothing but the base packages, and without touching the caches of this user."""
    for name in NOT_BASE:
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('{name} is no base package')\n")
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--rehearse", "--out", str(out), "--home", str(tmp_path / "home")],
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((out / "day.json").read_text())
    found = {(stage, check["check"]): check["verdict"] for stage, check in day.every(result)}
    wanted = {(stage.name, check.name): check for stage in day.STAGES for check in _checks(stage.name)}
    assert list(found) == list(wanted)
    assert set(found.values()) <= {"pass", "measured", "not here"}
    for key, check in wanted.items():
        assert found[key] != "not here" or check.gpu_only, key
        assert check.measures or found[key] != "measured", key
    assert result["rehearsal"]
    assert "the numbers mean nothing" in done.stdout
    assert len(list(out.iterdir())) <= 8  # what may come back from a borrowed machine


def _checks(stage: str) -> list[checks.Check]:
    import importlib

    found: list[checks.Check] = importlib.import_module(stage).CHECKS
    return found


def test_checks_have_names_of_their_own_and_fit_their_stage() -> None:
    assert sum(stage.seconds for stage in day.STAGES) <= day.TOTAL - 30  # the rest: taking in parts, starting Python
    for stage in day.STAGES:
        made = _checks(stage.name)
        assert len({check.name for check in made}) == len(made)
        needed = sum(check.seconds for check in made)
        assert needed <= 1.5 * stage.seconds, f"{stage.name}: {needed:.0f} s of checks"


# Parts


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parts of a tiny model; ``day.PARTS`` and ``pack.PARTS`` point there."""
    source = tmp_path / ".gpu"
    for module in (day, pack):
        monkeypatch.setattr(module, "PARTS", source)
    monkeypatch.setattr(pack, "ROOT", tmp_path)
    for number, content in ((1, b"first half, "), (2, b"second half")):
        folder = pack.fresh(f"model-{number}")
        (folder / f"{day.MODEL}.{number}of2").write_bytes(content)
        pack.seal(folder)
    (pack.fresh("data") / "data.tar.xz").write_bytes(b"data")
    pack.seal(source / "data")
    return source


def test_parts_that_come_one_by_one_are_joined(parts: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    later = parts / "model-2"
    later.rename(tmp_path / "later")
    assert day.take_in(parts, home) == ["data", "model-1"]
    with pytest.raises(day.PartError, match=r"smollm2-135m\.gguf\.2of2 is missing; make it .make gpu-model."):
        day.join_model(home)
    (parts / "model-1").rename(tmp_path / "gone")  # a machine may lose what an earlier call brought
    (tmp_path / "later").rename(later)
    assert day.take_in(parts, home) == ["data", "model-1", "model-2"]
    day.join_model(home)
    assert (home / day.MODEL).read_bytes() == b"first half, second half"
    assert (home / "data.tar.xz").read_bytes() == b"data"


def test_a_damaged_part_is_not_taken_in(parts: Path, tmp_path: Path) -> None:
    (parts / "model-2" / f"{day.MODEL}.2of2").write_bytes(b"second halF")
    with pytest.raises(day.PartError, match=r"gguf\.2of2: sha256 is \w+\.\.\., expected .* damaged"):
        day.take_in(parts, tmp_path / "home")
    (parts / "model-2" / f"{day.MODEL}.2of2").unlink()
    with pytest.raises(day.PartError, match="is missing; make the part again"):
        day.take_in(parts, tmp_path / "home")


def test_a_newer_part_replaces_an_older_one(parts: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    day.take_in(parts, home)
    (parts / "data" / "data.tar.xz").write_bytes(b"newer")
    pack.seal(parts / "data")
    day.take_in(parts, home)
    assert (home / "parts" / "data" / "data.tar.xz").read_bytes() == b"newer"


def test_a_part_that_is_too_large_is_refused(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "LIMIT", 8)
    with pytest.raises(SystemExit, match=r"model-1 has .* a part may have"):
        pack.seal(parts / "model-1")


def test_the_kit_holds_what_the_machine_lacks() -> None:
    """What the base packages, Liger and gguf ask for is on the machine or in the kit. The kit holds nothing else."""
    there, kit = set(pack.names("machine.txt")), {name.removesuffix(" (source)") for name in pack.names("kit.txt")}
    pinned = {_plain(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert kit <= pinned
    assert not kit & there
    wanted = [("lr2eval", need) for need in metadata.requires("lr2eval") or [] if "extra ==" not in need]
    wanted += [("the model", "gguf"), ("stage 2", "liger-kernel")]
    asked: dict[str, set[str]] = {"lr2eval": {""}}
    needed: set[str] = set()
    while wanted:
        by, text = wanted.pop()
        need = Requirement(text)
        if need.marker and not any(need.marker.evaluate(_LINUX | {"extra": extra}) for extra in asked.get(by, {""})):
            continue
        name = _plain(need.name)
        assert name in there | kit, f"{by} needs {name}, which is neither on the machine nor in the kit"
        if name in there or name in needed:
            continue
        needed.add(name)
        asked[name] = {"", *need.extras}
        if name != "liger-kernel":  # not installed here; it asks for torch and triton
            wanted += [(name, each) for each in metadata.requires(name) or []]
    assert kit == needed


_LINUX = {
    "python_version": "3.12", "python_full_version": "3.12.3", "sys_platform": "linux", "platform_system": "Linux",
    "platform_machine": "x86_64", "implementation_name": "cpython", "os_name": "posix",
}  # fmt: skip


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_kit_is_for_machines_without_the_project(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert day.install_kit(tmp_path / "home", sys.executable) is None  # this environment has everything
    monkeypatch.setattr(day, "installed", lambda: False)
    with pytest.raises(day.PartError, match="not installed here, and the part kit is missing; make it"):
        day.install_kit(tmp_path / "home", sys.executable)
    (pack.fresh("kit") / "thing-1-py2-none-any.whl").write_bytes(b"no wheel")
    pack.seal(parts / "kit")
    day.take_in(parts, tmp_path / "home")
    with pytest.raises(day.PartError, match=r"the kit cannot be installed: ERROR: thing-1-py2-none-any\.whl is not"):
        day.install_kit(tmp_path / "home", sys.executable)


def test_tasks_are_found_without_an_installation(tmp_path: Path) -> None:
    day.describe_project(tmp_path)
    [found] = metadata.distributions(path=[str(tmp_path)])
    assert found.metadata["Name"] == "lr2eval"
    assert found.version == metadata.version("lr2eval")
    names = {entry.name for entry in found.entry_points if entry.group == "lr2eval.tasks"}
    assert names == {entry.name for entry in metadata.entry_points(group="lr2eval.tasks")}


# Running


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """``scripts(code)``: run a stage with this code for half a second; returns what came of it."""

    def run(code: str, seconds: float = 0.5) -> dict[str, Any]:
        monkeypatch.setattr(day, "GRACE", 0.2)
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        stage = day.Stage("one", "a stage", seconds)
        return day.run_stage(stage, seconds, out, [sys.executable, "-c", code], os.environ)

    return run


WRITES = """
import json, sys, time
path = sys.argv[sys.argv.index("--json") + 1]
open(path, "w").write(json.dumps([{"check": "first", "verdict": "pass", "said": "fine", "seconds": 0.1}]))
"""


def test_a_stage_that_hangs_is_ended_and_keeps_what_it_wrote(scripts: Callable[..., dict[str, Any]]) -> None:
    deaf = "\nimport signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)"
    found = scripts(WRITES + deaf, 3.0)
    assert [(check["check"], check["verdict"]) for check in found["checks"]] == [
        ("first", "pass"), ("the whole stage", "FAIL"),
    ]  # fmt: skip
    assert found["checks"][1]["said"] == "ended at its limit of 3 s"


def test_a_stage_that_breaks_says_why(scripts: Callable[..., dict[str, Any]]) -> None:
    found = scripts(WRITES + "\nraise RuntimeError('no such kernel')", 30.0)
    assert [check["verdict"] for check in found["checks"]] == ["pass", "FAIL"]
    assert "RuntimeError: no such kernel" in found["checks"][1]["said"]


def test_without_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, str(SCRIPT), "--stages", "backend", "--home", str(tmp_path / "home")]
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: no GPU; `--rehearse` runs everything")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "x", "--stages", "backend,speed"], "--stages speed: no such stage; there are backend, training"),
        ([], "--out is missing"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.fixture
def run_day(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, list[str]]]:
    """``run_day()``: (exit code, stages that ran) of a day on a machine with a GPU; stages only note their names."""

    def run() -> tuple[int, list[str]]:
        ran = []

        def stage(made: day.Stage, *_: Any) -> dict[str, Any]:
            ran.append(made.name)
            check = {"check": "c", "verdict": "pass", "said": "fine", "seconds": 0.0}
            return {"stage": made.name, "title": made.title, "limit": 1.0, "seconds": 1.0, "checks": [check]}

        monkeypatch.setattr(day, "run_stage", stage)
        monkeypatch.setattr(day, "facts", lambda env: {"device": "NVIDIA H100"})
        arguments = argparse.Namespace(
            out=tmp_path / "out", home=tmp_path / "home", rehearse=False, seconds=600.0, only=[]
        )
        return day.day(arguments, day.STAGES), ran

    return run


OTHERS = ["backend", "training", "throughput"]
"""Stages that need no real model."""


def test_stages_go_on_after_a_missing_part_and_the_exit_code_tells(
    parts: Path, tmp_path: Path, run_day: Callable[[], tuple[int, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The second half of the model never came."""
    (parts / "model-2" / day.SUMS).unlink()
    assert run_day() == (1, OTHERS)
    said = capsys.readouterr()
    assert "error: the model's part smollm2-135m.gguf.2of2 is missing" in said.err
    assert "FAIL      the whole stage: the model's part smollm2-135m.gguf.2of2 is missing" in said.out
    assert json.loads((tmp_path / "out" / "day.json").read_text())["device"] == "NVIDIA H100"


def test_a_damaged_model_does_not_cost_the_kit(
    parts: Path, tmp_path: Path, run_day: Callable[[], tuple[int, list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare machine has its packages from the kit only, and every stage needs them."""
    (parts / "data" / "data.tar.xz").write_bytes(b"damaged")
    (pack.fresh("kit") / "a.whl").write_bytes(b"")
    pack.seal(parts / "kit")
    used = []

    def install(home: Path, python: str) -> Path:
        used.append(home / "parts" / "kit" / "a.whl")
        return home / "site"

    monkeypatch.setattr(day, "install_kit", install)
    assert run_day() == (1, OTHERS)
    assert [path.exists() for path in used] == [True]
    [stage] = [each for each in json.loads((tmp_path / "out" / "day.json").read_text())["stages"]
               if each["stage"] == "real_model"]  # fmt: skip
    assert "data/data.tar.xz: sha256 is" in stage["checks"][0]["said"]


def test_a_preparation_that_breaks_is_the_failure_of_its_stage(
    run_day: Callable[[], tuple[int, list[str]]], capsys: pytest.CaptureFixture[str]
) -> None:
    """These halves make no GGUF file."""
    assert run_day() == (1, OTHERS)
    assert re.search(
        r"FAIL      the whole stage: the preparation ended with exit code 1: .*sha256 \w+\.\.\., expected",
        capsys.readouterr().out,
    )


# Single checks


def _stage(tmp_path: Path, device: str = "cpu", seconds: float = 60, rehearse: bool = False) -> checks.Stage:
    import time

    return checks.Stage(device, rehearse, tmp_path, tmp_path, time.monotonic() + seconds)


def test_what_a_check_says(tmp_path: Path) -> None:
    def fails(stage: checks.Stage) -> str:
        raise AssertionError("3 of 20\nmore")

    def not_here(stage: checks.Stage) -> str:
        stage.needs_gpu("the kernel")
        return "never"

    stage = _stage(tmp_path)
    assert checks.answer(checks.Check("a", lambda _: "fine"), stage) == {"verdict": "pass", "said": "fine"}
    measured = checks.answer(checks.Check("a", lambda _: ("2 s", {"seconds": 2}), measures=True), stage)
    assert measured == {"verdict": "measured", "said": "2 s", "numbers": {"seconds": 2}}
    assert checks.answer(checks.Check("a", fails), stage) == {"verdict": "FAIL", "said": "AssertionError: 3 of 20"}
    assert checks.answer(checks.Check("a", not_here), stage)["said"] == "the kernel needs a GPU"
    late = checks.answer(checks.Check("a", fails, seconds=90), stage)
    assert late["verdict"] == "no time"


def test_a_gpu_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = type("Properties", (), {"total_memory": 24 << 30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
    stage = _stage(tmp_path, "cuda")
    found = checks.answer(checks.Check("a", lambda _: "never", gib=70), stage)
    assert found == {"verdict": "not here", "said": "needs 70 GiB, this GPU has 24 GiB"}
    assert checks.answer(checks.Check("a", lambda _: "fine", gib=20), stage)["verdict"] == "pass"


# The documentation


def test_the_page_shows_the_committed_results() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text()
    assert text.split(day.BEGIN)[1].split(day.END)[0].strip() == day.document(), (
        "run python benchmarks/gpu/day.py --document docs/gpu.md"
    )


def test_results_name_their_device() -> None:
    for path in day.RESULTS.glob("*.json"):
        result = json.loads(path.read_text())
        assert not result["rehearsal"]
        assert result["device"]
