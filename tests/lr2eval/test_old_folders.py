"""Folders that 9c8e5ba wrote, before the files of the project moved: they are read, and their work goes on.

``benchmarks/evidence.py`` made them. It also shows that today's code makes the same ones from scratch.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from lr2eval import open_run, verify
from lr2eval.method.search.journal import Journal

ASSETS = Path(__file__).parents[1] / "assets"
OLD = ASSETS / "runs-9c8e5ba"
EVIDENCE: dict[str, Any] = json.loads((OLD / "evidence.json").read_text())
RUNS = ("plain", "workers", "pair/original", "pair/extended")

Run = Callable[..., Any]

_spec = importlib.util.spec_from_file_location("evidence", Path(__file__).parents[2] / "benchmarks" / "evidence.py")
assert _spec is not None
assert _spec.loader is not None
evidence = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(evidence)


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folders, where the test works; with the model that the search and the training began from."""
    home = tmp_path / "old"
    shutil.copytree(OLD, home)
    shutil.copytree(ASSETS / "tiny-retrieval", home / "tiny-retrieval")
    monkeypatch.chdir(home)
    return home


def command(folder: Path) -> list[str]:
    """The command that the manifest of a folder keeps, without the program's name."""
    _, *words = json.loads((folder / "manifest.json").read_text())["command"]
    return words


@pytest.mark.parametrize("name", RUNS)
def test_runs_open(name: str) -> None:
    run = open_run(OLD / "runs" / name)
    assert run.results.digest == EVIDENCE["runs"][f"runs/{name}"]["digest"]
    assert len(run.shards) == len(run.results.shards) > 0
    assert len(run.samples) == run.shards.n.sum() > 0


@pytest.mark.parametrize("folder", ["runs/plain", "runs/workers", "search"])
def test_reports_are_rendered_again(folder: str, old: Path, lr2eval: Run) -> None:
    done = lr2eval("report", folder, "--out", "page.html")
    assert done.code == 0, done.err
    record = json.loads((old / folder / ("search.json" if folder == "search" else "results.json")).read_text())
    assert record["digest"][:16] in (old / "page.html").read_text(encoding="utf-8")


SCORES = ("n", "original", "extended", "difference")


def test_a_comparison_has_the_same_scores(old: Path, lr2eval: Run) -> None:
    """Schema 3 pools lengths beyond the original's window apart, and continuity makes its intervals a little wider."""
    assert lr2eval("compare", "runs/pair/original", "runs/pair/extended", "--out", "again").code == 0
    again, before = (json.loads((old / name / "comparison.json").read_text()) for name in ("again", "compare"))
    assert (before["schema_version"], again["schema_version"]) == (1, 3)
    assert close(evidence.comparable(again["original"]), evidence.comparable(before["original"]))
    now, then = (
        {
            (row["level"], row["benchmark"], row["task"], row["length"]): [
                row[key] for key in (*SCORES, "binary", "lost", "gained", "clusters", "design_effect")
            ]
            for row in found["pairs"][0]["differences"]
            if row["level"] in ("length", "shard") or row["benchmark"] == "facts"
        }
        for found in (again, before)
    )
    assert close({str(key): value for key, value in now.items()}, {str(key): value for key, value in then.items()})
    assert len(now) == 12


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (("runs/pair/original", "runs/pair/extended", "--margin", "20"), "gate"),
        (("runs/pair/extended", "runs/pair/original", "--margin", "20"), "gate-loss"),
        (("baseline.json", "runs/pair/extended", "--tasks", "facts"), "gate-baseline"),
    ],
)
def test_a_gate_has_the_same_verdict_on_what_fits_the_window(
    words: tuple[str, ...], kept: str, old: Path, lr2eval: Run
) -> None:
    lr2eval("gate", *words, "--out", "again")
    again, before = (json.loads((old / name / "gate.json").read_text()) for name in ("again", kept))
    now, then = (next(each for each in found["checks"] if each["name"] == "facts") for found in (again, before))
    assert [now[key] for key in ("verdict", "criterion", *SCORES)] == [
        then[key] for key in ("verdict", "criterion", *SCORES)
    ]


def close(one: Any, two: Any) -> bool:
    """Equal but for the last digits of numbers, which another processor may round otherwise."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(close(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(close, one, two))
    if isinstance(one, float) and isinstance(two, float):
        return math.isclose(one, two, rel_tol=1e-9, abs_tol=1e-9)
    return bool(one == two)


def test_a_baseline_is_the_same(old: Path, lr2eval: Run) -> None:
    assert lr2eval("baseline", "save", "runs/pair/original", "--out", "again.json").code == 0
    assert (old / "again.json").read_bytes() == (old / "baseline.json").read_bytes()


@pytest.mark.parametrize("name", ["plain", "workers"])
def test_a_finished_run_is_read_and_asks_nothing(
    name: str, old: Path, lr2eval: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is left to ask")

    monkeypatch.setattr("lr2eval.runs.runner.load_backend", never)
    path = old / "runs" / name / "results.json"
    before = evidence.of_json(path, schema_version=1)["sha256_without_version"]
    done = lr2eval(*command(old / "runs" / name))
    assert done.code == 0, done.err
    assert json.loads(path.read_text())["schema_version"] == 2
    assert evidence.of_json(path, schema_version=1)["sha256_without_version"] == before
    assert verify(path.parent).sound


def test_another_configuration_is_refused_with_the_keys(old: Path, lr2eval: Run) -> None:
    done = lr2eval(*command(old / "runs" / "plain"), "--seed", "5")
    assert done.code == 2
    assert "config.seed: was 0, now 5" in done.error


NEW_RULES = {"cope", "resonance", "resonance-yarn"}


def test_a_search_goes_on_from_its_journal(old: Path, lr2eval: Run) -> None:
    """Nothing is evaluated twice and no number changes. New rules, and rules at other temperatures, are added."""
    path = old / "search" / "search.json"
    with Journal.read(old / "search") as journal:
        known = journal.rows()
    before = json.loads(path.read_text())
    done = lr2eval(*command(old / "search"))
    assert done.code == 0, done.err
    after = json.loads(path.read_text())
    with Journal.read(old / "search") as journal:
        assert journal.rows()[: len(known)] == known
    added = {rule["name"] for rule in after["rules"]} - {rule["name"] for rule in before["rules"]}
    assert {name for name in added if "@" not in name} == NEW_RULES
    assert [rule for rule in after["rules"] if rule["name"] not in added] == before["rules"]
    for key in ("factors", "attention_factor", "best_nll", "evaluations", "split", "power", "d_rcd", "fingerprint"):
        assert after[key] == before[key]
    assert [each["factors"] for each in after["splits"]] == [each["factors"] for each in before["splits"]]
    assert verify(old / "search").sound


def test_a_training_goes_on_to_the_same_weights(old: Path, lr2eval: Run) -> None:
    """From the checkpoint of step 2 of 4, as if the machine had died after it."""
    train, model = old / "train", old / "train" / "model" / "model.safetensors"
    before = load_file(model)
    shutil.rmtree(train / "checkpoints" / "step-000004")
    shutil.rmtree(model.parent)
    (train / "training.json").unlink()
    done = lr2eval(*command(train))
    assert done.code == 0, done.err
    assert "resuming after step 2 of 4" in done.err
    # It was begun before attention was chosen, and goes on with what it had.
    assert "attention: sdpa" in done.err
    assert json.loads((train / "training.json").read_text())["recipe"]["attention"] is None
    after = load_file(model)
    assert after.keys() == before.keys()
    # Bit for bit on one machine (benchmarks/evidence.py); another processor may round otherwise.
    assert all(np.allclose(after[name], before[name], rtol=1e-4, atol=1e-6) for name in before)


@pytest.mark.parametrize(
    ("file", "key", "words"),
    [
        ("runs/plain/results.json", "schema_version", ("report", "runs/plain")),
        ("baseline.json", "schema_version", ("compare", "baseline.json", "runs/pair/extended")),
    ],
)
def test_another_schema_is_refused_with_both_versions(
    file: str, key: str, words: tuple[str, ...], old: Path, lr2eval: Run
) -> None:
    value = json.loads((old / file).read_text())
    assert value[key] == 1
    (old / file).write_text(json.dumps(value | {key: 7}))
    done = lr2eval(*words)
    assert done.code != 0
    assert re.search(r"\b7\b.*\b1\b", done.error), done.error


def test_another_store_is_refused_with_both_versions(old: Path) -> None:
    import sqlite3

    with sqlite3.connect(old / "runs" / "plain" / "samples.sqlite") as db:
        db.execute("UPDATE meta SET value='7' WHERE key='store_version'")
    db.close()
    with pytest.raises(Exception, match="store version 7, but this lr2eval reads version 1"):
        len(open_run(old / "runs" / "plain").samples)
