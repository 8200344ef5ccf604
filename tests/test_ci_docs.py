"""The workflow and the files of ``docs/ci.md``, run as they stand there on a small model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.xdist_group("workflow")
DOC = Path(__file__).parents[1] / "docs" / "ci.md"


TOY = {"TASKS": "ruler:niah_single_1", "LENGTHS": "1k", "MODEL": "extended/"}


def block(kind: str, holding: str) -> str:
    (found,) = [b for b in re.findall(rf"```{kind}\n(.*?)```", DOC.read_text(encoding="utf-8"), re.S) if holding in b]
    return found


def environment(folder: Path, cache: Path) -> dict[str, str]:
    """An environment in which `lr2eval` is this tree's."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    script = tools / "lr2eval"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lr2eval "$@"\n')
    script.chmod(0o755)
    return os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(DOC.parents[1]),
        "LR2EVAL_CACHE": str(cache),
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        **TOY,
    }


def bash(command: str, workspace: tuple[Path, dict[str, str]]) -> subprocess.CompletedProcess[str]:
    folder, environment = workspace
    # As GitHub runs a step: bash that stops at the first failure.
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def prepared(toy_checkpoint: Path, shared_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A checkout with both models after the commands of "Once", with the toy's tasks, and the lines they printed."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("original", "extended"):
        shutil.copytree(toy_checkpoint, folder / name)
    config = json.loads((folder / "extended" / "config.json").read_text())
    (folder / "extended" / "config.json").write_text(json.dumps(config | {"extended": True}))  # another fingerprint
    commands = re.findall(r"^\$ (.+)$", block("console", "baseline save"), re.M)
    assert [command.split()[1] for command in commands] == ["run", "baseline"]
    run = commands[0].replace("mmlu,ruler:niah", TOY["TASKS"]).replace("4k", TOY["LENGTHS"])
    assert run != commands[0]
    for command in (run, commands[1]):
        done = bash(command, (folder, environment(folder, shared_cache)))
        assert done.returncode == 0, done.stderr
    printed = re.search(r'^baseline_digest = "[0-9a-f]{64}"\nbaseline_model = "[0-9a-f]{64}"$', done.stdout, re.M)
    assert printed
    return folder, printed[0]


@pytest.fixture
def workspace(prepared: tuple[Path, str], shared_cache: Path, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A copy of that checkout with its gate.toml, and the environment of the workflow."""
    folder = Path(shutil.copytree(prepared[0], tmp_path / "checkout"))
    pinned = block("toml", "baseline_digest").replace(
        'baseline_digest = "DIGEST"\nbaseline_model = "MODEL"', prepared[1]
    )
    assert prepared[1] in pinned
    (folder / "gate.toml").write_text(pinned)
    return folder, environment(folder, shared_cache)


def steps() -> dict[str, str]:
    workflow = yaml.safe_load(block("yaml", "long-context gate"))
    assert set(workflow["env"]) == set(TOY)
    found = {step["name"]: step["run"] for step in workflow["jobs"]["gate"]["steps"] if "run" in step}
    assert found.pop("Install") == "pip install lr2eval"
    assert list(found) == ["Evaluate the extended model", "Gate"]
    return found


def test_the_workflow_end_to_end(workspace: tuple[Path, dict[str, str]]) -> None:
    folder = workspace[0]
    shutil.rmtree(folder / "runs")
    shutil.rmtree(folder / "original")
    evaluate, gate = steps().values()
    done = bash(evaluate, workspace)
    assert done.returncode == 0, done.stderr
    done = bash(gate, workspace)
    # A random model finds no needle: nothing to retain, so the share asks for samples; the margin of the needles holds.
    verdicts = json.loads((folder / "gate" / "gate.json").read_text())
    assert done.returncode == verdicts["exit_code"] == 3, done.stdout + done.stderr
    assert {check["name"]: check["verdict"] for check in verdicts["checks"]} == {
        "ruler": "inconclusive",
        "ruler:niah": "pass",
    }
    assert "::warning title=lr2eval gate%3A ruler inconclusive::" in done.stdout
    assert (folder / "summary.md").read_text().startswith("## ? lr2eval gate: INCONCLUSIVE")
    assert {"junit.xml", "report.html", "comparison.json"} <= {path.name for path in (folder / "gate").iterdir()}
    # With the margin alone the same runs pass.
    text = (folder / "gate.toml").read_text().replace("min_retention = 0.985", "margin = 4.0")
    (folder / "gate.toml").write_text(text)
    done = bash(gate, workspace)
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_baseline_than_the_pinned_one_stops_the_workflow(workspace: tuple[Path, dict[str, str]]) -> None:
    path = workspace[0] / "gate.toml"
    path.write_text(re.sub(r'(?<=baseline_digest = ")\w+', "0123456789abcdef", path.read_text()))
    shutil.copytree(workspace[0] / "runs" / "original", workspace[0] / "runs" / "extended")
    done = bash(steps()["Gate"], workspace)
    assert done.returncode == 4
    assert "the gate pins 0123456789ab" in " ".join(done.stdout.split())


def test_the_key_table_is_complete() -> None:
    from lr2eval.comparisons.gate_config import GateConfig

    documented = set(re.findall(r"^\| `\[?(\w+)", DOC.read_text(encoding="utf-8"), re.M))
    assert documented == set(GateConfig.model_fields)
    assert set(tomllib.loads(block("toml", "baseline_digest"))) <= set(GateConfig.model_fields)
