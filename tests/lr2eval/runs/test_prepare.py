"""The number type that ``--dtype auto`` stands for: the faster one, and the same when a run is resumed elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lr2eval import run
from lr2eval.commands.plan import print_plan
from lr2eval.errors import UsageError
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.record.folder import read_manifest
from lr2eval.runs.config import RunConfig
from lr2eval.workflows.run import prepare_run

Pretend = Any


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """A function that says how many times as long as float32 anything else takes."""

    def make(slowdown: float) -> None:
        for module in ("lr2eval.model.checkpoint", "lr2eval.commands.plan"):
            monkeypatch.setattr(f"{module}.slowdown", lambda dtype: slowdown)

    return make


@pytest.fixture(scope="module")
def half(toy_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose configuration asks for bfloat16. Do not change it in place."""
    folder = tmp_path_factory.mktemp("half") / "toy"
    shutil.copytree(toy_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    return folder


def config(model: Path, out: Path, **given: Any) -> RunConfig:
    quick = {"tasks": "ruler:fwe", "lengths": "768", "samples_per_task": 1, "offline": True, "device": "cpu"}
    return RunConfig.load({"model": model, "out": out, **quick, **given})


def notes(asked: RunConfig) -> list[str]:
    said: list[str] = []
    print_plan(prepare_run(asked), said.append)
    return [line for line in said if "dtype" in line]


def test_auto_is_the_faster_type_and_the_plan_says_so(half: Path, tmp_path: Path, processor: Pretend) -> None:
    asked = config(half, tmp_path / "run")
    processor(0.5)
    assert Checkpoint.open(half).fitting_dtype("cpu") == "bfloat16"
    assert prepare_run(asked).models[""].dtype == "bfloat16"
    assert notes(asked) == []
    processor(5.0)
    assert prepare_run(asked).models[""].settings["config"]["dtype"] == "float32"
    assert notes(asked) == [
        "--dtype auto: float32. This processor takes 5.0 times as long with the model's own bfloat16."
    ]


def test_only_a_cpu_is_asked(half: Path, processor: Pretend) -> None:
    processor(5.0)
    assert Checkpoint.open(half).fitting_dtype("cuda") == "bfloat16"


def test_a_model_without_room_in_float32_keeps_its_type(
    half: Path, processor: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor(5.0)
    monkeypatch.setattr("psutil.virtual_memory", type("Memory", (), {"available": 1000}))
    assert Checkpoint.open(half).fitting_dtype("cpu") == "bfloat16"


def test_the_slow_type_is_used_if_asked_for_with_a_warning(half: Path, tmp_path: Path, processor: Pretend) -> None:
    asked = config(half, tmp_path / "run", dtype="bfloat16")
    processor(5.0)
    assert prepare_run(asked).models[""].dtype == "bfloat16"
    assert notes(asked) == [
        "warning: --dtype bfloat16 is slow here: this processor takes 5.0 times as long as with float32"
    ]
    processor(0.5)
    assert notes(asked) == []


def test_a_run_resumed_on_another_processor_keeps_its_type(half: Path, tmp_path: Path, processor: Pretend) -> None:
    asked = config(half, tmp_path / "run")
    processor(5.0)
    first = run(asked)
    assert first.results.model.dtype == "float32"
    processor(0.5)
    assert notes(asked) == ["--dtype auto: float32, as this run began"]
    assert run(asked).results.digest == first.results.digest
    manifest = read_manifest(tmp_path / "run")
    assert manifest is not None
    assert manifest["settings"]["config"]["dtype"] == "float32"
    with pytest.raises(UsageError, match=r"config\.dtype: was \"float32\", now \"bfloat16\""):
        run(config(half, tmp_path / "run", dtype="bfloat16"))
