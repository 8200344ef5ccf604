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

DOC = Path(__file__).parents[2] / "docs" / "ci.md"
TOY = {"TASKS": "ruler:niah_single_1", "LENGTHS": "1k", "MODEL": "extended/"}


def block(kind: str, holding: str) -> str:
    (found,) = [b for b in re.findall(rf"```{kind}\n(.*?)```", DOC.read_text(encoding="utf-8"), re.S) if holding in b]
    return found


@pytest.fixture
def workspace(tmp_path: Path, toy_checkpoint: Path, shared_cache: Path) -> tuple[Path, dict[str, str]]:
    """A checkout with both models, and an environment in which `lr2eval` is this tree's."""
    for name in ("original", "extended"):
        shutil.copytree(toy_checkpoint, tmp_path / name)
    tools = tmp_path / "tools"
    tools.mkdir()
    script = tools / "lr2eval"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lr2eval "$@"\n')
    script.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(DOC.parents[1]),
        "LR2EVAL_CACHE": str(shared_cache),
        "GITHUB_ACTIONS": "true",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        **TOY,
    }
    return tmp_path, environment


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


def baseline(workspace: tuple[Path, dict[str, str]], digest: str | None = None) -> None:
    """The commands of "Once", with the toy's tasks, then its gate.toml with the digest it printed."""
    commands = re.findall(r"^\$ (.+)$", block("console", "baseline save"), re.M)
    assert [command.split()[1] for command in commands] == ["run", "baseline"]
    run = commands[0].replace("mmlu,ruler:niah", TOY["TASKS"]).replace("4k", TOY["LENGTHS"])
    assert run != commands[0]
    for command in (run, commands[1]):
        done = bash(command, workspace)
        assert done.returncode == 0, done.stderr
    printed = re.search(r"digest ([0-9a-f]{64})", done.stdout)
    assert printed
    text = block("toml", "baseline_digest").replace("DIGEST", digest or printed[1][:16])
    (workspace[0] / "gate.toml").write_text(text)


def steps() -> dict[str, str]:
    workflow = yaml.safe_load(block("yaml", "long-context gate"))
    assert set(workflow["env"]) == set(TOY)
    found = {step["name"]: step["run"] for step in workflow["jobs"]["gate"]["steps"] if "run" in step}
    assert found.pop("Install") == "pip install lr2eval"
    assert list(found) == ["Evaluate the extended model", "Gate"]
    return found


def test_the_workflow_end_to_end(workspace: tuple[Path, dict[str, str]]) -> None:
    baseline(workspace)
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
    baseline(workspace, digest="0123456789abcdef")
    shutil.copytree(workspace[0] / "runs" / "original", workspace[0] / "runs" / "extended")
    done = bash(steps()["Gate"], workspace)
    assert done.returncode == 4
    assert "the gate pins 0123456789ab" in " ".join(done.stdout.split())


def test_the_key_table_is_complete() -> None:
    from lr2eval._gate_config import GateConfig

    documented = set(re.findall(r"^\| `\[?(\w+)", DOC.read_text(encoding="utf-8"), re.M))
    assert documented == set(GateConfig.model_fields)
    assert set(tomllib.loads(block("toml", "baseline_digest"))) <= set(GateConfig.model_fields)
