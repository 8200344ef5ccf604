from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sqlite3
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.record.comparison import Comparison
from lr2eval.reports.load import load
from tests.fake_runs import fake_run, ones
from tests.reports.hostile import ACTS, OBEYED

Run = Callable[..., Any]
BEFORE = {"mmlu/mmlu_anatomy": ones(300), "ruler/vt@4096": ones(300)}


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return fake_run(tmp_path / "original", BEFORE, model="original")


def extended(tmp_path: Path, lost: int = 0, **kwargs: Any) -> Path:
    shards = BEFORE | {"ruler/vt@4096": ones(300, lost)}
    return fake_run(tmp_path / f"extended{lost}", shards, model="extended", **kwargs)


def test_compare_writes_all_four(original: Path, tmp_path: Path, lr2eval: Run) -> None:
    out = tmp_path / "out"
    got = lr2eval("compare", original, extended(tmp_path, 30), "--out", out)
    assert got.code == 0, got.err
    assert {path.name for path in out.iterdir()} == {
        "comparison.json", "comparison.csv", "comparison.md", "report.html"
    }  # fmt: skip
    assert "-10.00" in got.out
    stored = json.loads((out / "comparison.json").read_text())
    assert stored["pairs"][0]["extended"]["label"] == "extended"


def test_the_same_command_gives_the_same_bytes(original: Path, tmp_path: Path, lr2eval: Run) -> None:
    other = extended(tmp_path, 30)
    for name in ("one", "two"):
        lr2eval("compare", original, other, "--out", tmp_path / name)
    for file in ("comparison.json", "comparison.csv", "comparison.md", "report.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("command", ["compare", "gate"])
@pytest.mark.parametrize("before", [True, False])
def test_a_full_disk_leaves_all_old_files_or_none(
    original: Path, tmp_path: Path, lr2eval: Run, monkeypatch: pytest.MonkeyPatch, command: str, before: bool
) -> None:
    out = tmp_path / "out"
    if before:
        lr2eval(command, original, extended(tmp_path), "--out", out)
    old = {path.name: path.read_bytes() for path in out.iterdir()} if before else {}
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr("os.fsync", full)
    got = lr2eval(command, original, extended(tmp_path, 30), "--out", out)
    assert got.code == 5
    assert "No space left on device; free some space" in got.error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == old


@pytest.mark.parametrize(("lost", "code", "verdict"), [(0, 0, "pass"), (30, 1, "regression"), (3, 3, "inconclusive")])
def test_gate_exit_codes_and_files(
    original: Path, tmp_path: Path, lr2eval: Run, lost: int, code: int, verdict: str
) -> None:
    out = tmp_path / "out"
    got = lr2eval("gate", original, extended(tmp_path, lost), "--out", out)
    assert got.code == code, got.err + got.out
    assert got.out.startswith(verdict.upper())
    assert {"gate.json", "junit.xml", "summary.md", "comparison.json", "report.html"} <= {p.name for p in out.iterdir()}
    assert json.loads((out / "gate.json").read_text())["verdict"] == verdict
    failures = ET.fromstring((out / "junit.xml").read_text()).get("failures")
    assert failures == ("0" if code == 0 else "1")


def test_gate_of_what_cannot_be_compared_still_writes_its_files(original: Path, tmp_path: Path, lr2eval: Run) -> None:
    out = tmp_path / "out"
    got = lr2eval("gate", original, extended(tmp_path, seed=1), "--out", out)
    assert got.code == 4
    assert got.out.startswith("NOT COMPARABLE: ")
    assert "seed 0 and 1" in got.out.replace("\n", " ")
    assert ET.fromstring((out / "junit.xml").read_text()).get("errors") == "1"
    assert not (out / "report.html").exists()


def test_gate_on_a_tampered_run_is_not_comparable(original: Path, tmp_path: Path, lr2eval: Run) -> None:
    other = extended(tmp_path, 30)
    with sqlite3.connect(other / "samples.sqlite") as db:
        db.execute("UPDATE samples SET score = 100")
    got = lr2eval("gate", original, other, "--out", tmp_path / "out")
    assert got.code == 4


def test_gate_with_a_committed_baseline_and_config(original: Path, tmp_path: Path, lr2eval: Run) -> None:
    saved = lr2eval("baseline", "save", original, "--out", tmp_path / "baseline.json")
    assert saved.code == 0, saved.err
    digest = json.loads((original / "results.json").read_text())["digest"]
    assert digest in saved.out
    shutil.rmtree(original)  # CI has no run of the original
    (tmp_path / "gate.toml").write_text(f'margin = 2\nbaseline = "baseline.json"\nbaseline_digest = "{digest[:16]}"\n')
    other = extended(tmp_path, 1)
    got = lr2eval("gate", other, "--config", tmp_path / "gate.toml", "--out", tmp_path / "out")
    assert got.code == 0, got.err + got.out
    assert "pin its checksum" in got.out.replace("\n", " ")
    for key in ("baseline_digest", "baseline_model"):
        (tmp_path / "gate.toml").write_text(f'baseline = "baseline.json"\n{key} = "00000000"\n')
        got = lr2eval("gate", other, "--config", tmp_path / "gate.toml", "--out", tmp_path / "out")
        assert got.code == 4
        assert "the gate pins 00000000" in got.out.replace("\n", " ")
    (tmp_path / "gate.toml").write_text(
        "\n".join(['baseline = "baseline.json"', "margin = 2", *saved.out.splitlines()[2:4]])
    )
    got = lr2eval("gate", other, "--config", tmp_path / "gate.toml", "--out", tmp_path / "out")
    assert got.code == 0, got.err + got.out
    assert "pin its checksum" not in got.out.replace("\n", " ")


def test_the_same_model_is_judged_only_when_asked(original: Path, tmp_path: Path, lr2eval: Run) -> None:
    got = lr2eval("gate", original, original, "--out", tmp_path / "out")
    assert got.code == 4
    assert "are the same model" in got.out.replace("\n", " ")
    (tmp_path / "gate.toml").write_text("same_model = true\n")
    for asked in (["--same-model"], ["--config", tmp_path / "gate.toml"]):
        got = lr2eval("gate", original, original, *asked, "--out", tmp_path / "out")
        assert got.code == 0, got.out
        assert "note: both runs are of the same model" in got.out
    got = lr2eval("compare", original, original, "--out", tmp_path / "out")
    assert got.code == 0
    assert "note: both runs are of the same model" in got.out


def test_models_that_answer_alike_are_told_apart(original: Path, tmp_path: Path, lr2eval: Run) -> None:
    """Their runs have one digest. The report takes each side from its own folder, whatever the order."""
    other = extended(tmp_path)
    out = tmp_path / "out"
    assert lr2eval("gate", original, other, "--out", out).code == 0
    comparison = Comparison.model_validate_json((out / "comparison.json").read_text())
    runs = load([other, original], comparison)
    assert [(run.label, run.results.model.name) for run in runs] == [("original", "original"), ("extended", "extended")]


def test_what_is_left_out_is_said_everywhere(original: Path, tmp_path: Path, lr2eval: Run, monkeypatch: Any) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    other = fake_run(tmp_path / "b", {"mmlu/mmlu_anatomy": ones(300)}, model="extended")
    out = tmp_path / "out"
    got = lr2eval("gate", original, other, "--common", "--out", out)
    assert got.code == 4
    got = lr2eval("gate", original, other, "--common", "--tasks", "mmlu", "--out", out)
    assert got.code == 0, got.out
    said = "Left out: 300 samples (gate.json lists them)."
    assert f"::notice title=lr2eval gate%3A left out::{said}" in got.out
    assert said in (out / "junit.xml").read_text()
    assert said in re.sub(r"[\\`]", "", (out / "summary.md").read_text())
    assert said in (out / "report.html").read_text()
    assert json.loads((out / "gate.json").read_text())["left_out"][0]["what"] == "ruler/vt@4096"


def test_github_gets_annotations_and_a_summary(
    original: Path, tmp_path: Path, lr2eval: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("earlier step\n")
    got = lr2eval("gate", original, extended(tmp_path, 30), "--out", tmp_path / "out")
    assert "::error title=lr2eval gate%3A ruler regression::" in got.out
    written = (tmp_path / "summary.md").read_text()
    assert written.startswith("earlier step\n")
    assert "lr2eval gate: REGRESSION" in written


def test_a_summary_that_cannot_be_written_does_not_lose_the_verdict(
    original: Path, tmp_path: Path, lr2eval: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    got = lr2eval("gate", original, extended(tmp_path, 30), "--out", tmp_path / "out")
    assert got.code == 1
    assert got.out.startswith("REGRESSION: ")
    assert got.err.startswith("warning: the job summary was not written: GITHUB_STEP_SUMMARY=")
    assert len(got.err.splitlines()) == 1


def test_names_give_no_orders_to_a_terminal_or_a_ci(
    tmp_path: Path, lr2eval: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.chdir(tmp_path)  # the baseline lies there
    evil = "x\n::error::y\x1b[31m\x9b\u202e##[error]z"
    first = fake_run(tmp_path / f"a{evil}", BEFORE, model=evil)
    second = fake_run(tmp_path / f"b{evil}", BEFORE | {"mmlu/mmlu_anatomy": ones(300, 90)}, model=f"{evil} 2")
    for arguments in (
        ("compare", first, second), ("gate", first, second), ("gate", first, second, "--tasks", evil),
        ("compare", first, tmp_path / f"no{evil}"), ("report", second), ("baseline", "save", first),
        ("gate", first, fake_run(tmp_path / f"c{evil}", BEFORE, model=evil, seed=1)),
    ):  # fmt: skip
        out = () if arguments[0] in ("report", "baseline") else ("--out", tmp_path / f"out{evil}")
        got = lr2eval(*arguments, *out)
        assert got.code in (0, 1, 2, 4)
        own = [
            line for line in got.out.splitlines() if re.match("::(error|notice|warning) title=lr2eval gate%3A", line)
        ]
        assert len(own) == (0 if got.code == 2 or arguments[0] != "gate" else 1 if got.code == 4 else 2)
        rest = "\n".join(line for line in got.out.splitlines() if line not in own)
        for printed in (rest, got.err, *(line[2:] for line in own)):
            assert not ACTS.search(printed)
            assert not OBEYED.search(printed)


def test_outside_github_no_annotation(original: Path, tmp_path: Path, lr2eval: Run, monkeypatch: Any) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    got = lr2eval("gate", original, extended(tmp_path), "--out", tmp_path / "out")
    assert "::" not in got.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare", "A"], "at least two runs"),
        (["compare", "A", "nowhere"], "no such folder"),
        (["gate", "A"], "the original and the extended run"),
        (["gate", "A", "A", "A"], "3 runs were given"),
        (["gate", "A", "A", "--min-retention", "98.5"], "--min-retention 98.5"),
        (["gate", "A", "A", "--same-model", "--tasks", "hellaswag"], "nothing with this name"),
        (["gate", "E", "A"], "E: has no scored samples"),
        (["compare", "E", "A"], "E: has no scored samples"),
        (["baseline", "save", "E"], "E: has no scored samples"),
        (["gate", "S", "A"], "S: has no scored samples"),
        (["report", "nowhere"], "nowhere: no such folder"),
        (["report", "."], ".: has no results.json"),
        (["gate", "A", "A", "--config", "nowhere.toml"], "nowhere.toml"),
        (["compare", "A", "A", "--out", "A"], "is the folder of a run"),
        (["baseline", "save", "nowhere"], "not a run folder"),
    ],
)
def test_usage_errors_are_one_line(original: Path, lr2eval: Run, arguments: list[str], says: str, tmp_path: Path,
                                   monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    fake_run(tmp_path / "E", {}, model="empty")
    fake_run(tmp_path / "S", {"mmlu/mmlu_anatomy": [None]}, model="all skipped")
    got = lr2eval(*(original if argument == "A" else argument for argument in arguments))
    assert got.code == 2
    assert says in got.error


def test_an_unfinished_run_only_when_asked(original: Path, tmp_path: Path, lr2eval: Run) -> None:
    other = fake_run(tmp_path / "b", {"mmlu/mmlu_anatomy": ones(300)}, model="extended", planned=2)
    got = lr2eval("compare", original, other, "--out", tmp_path / "out")
    assert got.code == 4
    assert "--common" in got.error
    got = lr2eval("compare", original, other, "--common", "--out", tmp_path / "out")
    assert got.code == 0
    assert "left out: ruler/vt@4096, 300 samples" in got.out


def test_brackets_in_names_are_no_markup(original: Path, tmp_path: Path, lr2eval: Run) -> None:
    other = fake_run(tmp_path / "b", BEFORE, model="[red]model[/red] [/nothing]")
    got = lr2eval("compare", original, other, "--out", tmp_path / "out")
    assert got.code == 0, got.err
    assert "[red]model[/red]" in got.out
