"""The models that come with the package, run as a newcomer runs them: no network, no data, the demo's own tasks."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.errors import CheckpointError
from lr2eval.model import names

Call = Callable[..., Any]
PAIR = ("--model", "demo-longrope2", "--baseline", "demo")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a network call")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def scores(folder: Path) -> dict[tuple[str, int | None], float]:
    results = json.loads((folder / "results.json").read_text())
    return {(row["task"], row["length"]): row["score"] for row in results["shards"]}


def test_both_are_there_and_small() -> None:
    assert names.built_in() == ("demo", "demo-longrope2")
    for name in names.built_in():
        folder = names.locate(name)
        assert sum(path.stat().st_size for path in folder.iterdir()) < 8_000_000
        config = json.loads((folder / "config.json").read_text())
        assert (config["model_type"], config["vocab_size"]) == ("llama", 2048)


def test_every_file_has_a_checksum() -> None:
    known = json.loads((names.BUILT_IN / names.CHECKSUMS).read_text())
    assert {name: set(files) for name, files in known.items()} == {
        name: {path.name for path in (names.BUILT_IN / name).iterdir()} for name in names.built_in()
    }


@pytest.mark.parametrize("damage", ["changed", "lost"])
def test_a_tampered_weight_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    copy = tmp_path / "models"
    shutil.copytree(names.BUILT_IN, copy)
    monkeypatch.setattr(names, "BUILT_IN", copy)
    file = copy / "demo" / "model.safetensors"
    if damage == "lost":
        file.unlink()
    else:
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"demo/model\.safetensors: .*install lr2eval again") as caught:
        names.locate("demo")
    assert "\n" not in str(caught.value)
    assert names.locate("demo-longrope2") == copy / "demo-longrope2", "the other one is as it was"


@pytest.mark.usefixtures("no_network")
def test_the_demo_finds_needles_in_its_window_and_loses_them_beyond(lr2eval: Call, tmp_path: Path) -> None:
    tasks = "ruler:niah_single_1,ruler:niah_multikey_1,facts"
    asked = ("--tasks", tasks, "--lengths", "512,2048", "--samples-per-task", "10", "--limit", "60")
    done = lr2eval("run", *PAIR, *asked, "--set", "beyond_window=true", "--offline", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    original, extended = scores(tmp_path / "run" / "original"), scores(tmp_path / "run" / "extended")
    assert original["niah_single_1", 512] >= 90
    assert original["niah_multikey_1", 512] >= 80
    assert original["facts", None] >= 85
    # At 1024 most needles lie within reach of the question; twice that is too far for any.
    assert original["niah_single_1", 2048] <= 10
    assert original["niah_multikey_1", 2048] <= 10
    assert extended["niah_single_1", 512] >= 90
    assert extended["niah_single_1", 2048] >= 80
    assert extended["niah_multikey_1", 2048] >= 70
    assert extended["facts", None] >= 85
    for words in ("Does the long window work?", "What did it cost on short inputs?", "Verdict: "):
        assert words in done.out
    report = (tmp_path / "run" / "report.html").read_text()
    assert "demo-filler" in report, "which text the needles were hidden in"

    again = lr2eval("run", *PAIR, *asked, "--set", "beyond_window=true", "--offline", "--out", tmp_path / "again")
    assert again.code == 0
    for part in ("original", "extended"):
        first, second = (tmp_path / name / part / "results.json" for name in ("run", "again"))
        assert first.read_text() == second.read_text(), "the same numbers every time"


@pytest.mark.usefixtures("no_network")
def test_a_bare_benchmark_is_what_the_demo_was_made_for(lr2eval: Call) -> None:
    planned = lr2eval("run", "--model", "demo-longrope2", "--tasks", "ruler,niah,facts", "--offline", "--dry-run")
    assert planned.code == 0, planned.err
    for task in ("cwe", "fwe", "qa_1", "qa_2"):
        assert f"not run: {task}: not listed in the model's lr2eval.json" in planned.err
    assert "not run: niah_single_1" not in planned.err
    for length in ("512", "1k", "2k", "4k", "8k"):
        assert f" {length} " in planned.err


@pytest.mark.usefixtures("no_network")
def test_other_tasks_run_when_named(lr2eval: Call, tmp_path: Path) -> None:
    asked = ("--tasks", "ruler:fwe,ruler:cwe", "--lengths", "2k", "--samples-per-task", "1", "--offline")
    done = lr2eval("run", "--model", "demo-longrope2", *asked, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert set(scores(tmp_path / "run")) == {("fwe", 2048), ("cwe", 2048)}
    assert max(scores(tmp_path / "run").values()) <= 50, "it was never taught to count words"


@pytest.mark.parametrize(("model", "window"), [("demo", "512"), ("demo-longrope2", "8k")])
def test_a_length_above_the_window_is_refused(lr2eval: Call, model: str, window: str) -> None:
    done = lr2eval("run", "--model", model, "--tasks", "ruler:niah_single_1", "--lengths", "16k", "--offline")
    assert done.code == 2
    assert f"choose --lengths up to {window}" in done.error


def test_the_extended_one_says_how_it_was_made() -> None:
    folder = names.locate("demo-longrope2")
    made = json.loads((folder / "rope_factors.json").read_text())
    assert made["command"][:2] == ["lr2eval", "extend"]
    assert made["source"]["name"] == "demo"
    assert made["training"]
    assert "demo-filler" not in made["command"]
    card = (folder / "README.md").read_text()
    assert "512 tokens" in card
    assert "8,192 tokens" in card
