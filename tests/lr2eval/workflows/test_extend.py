"""``lr2eval extend`` from end to end on the tiny retrieval model, 128 to 512 words."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lr2eval.method.data import mixing
from lr2eval.method.rope import rules
from lr2eval.method.rope.source import ModelRope
from lr2eval.record.comparison import Comparison
from lr2eval.workflows import run, search, train

Run = Callable[..., Any]


ROOT = Path(__file__).parents[3]


ASSET = ROOT / "tests" / "assets" / "tiny-retrieval"
TARGET = 512
SMALL = (
    *("--set", "search.batch=1", "--set", "search.starts=1", "--set", "search.screen=1"),
    *("--set", "search.samples=2", "--set", "search.held_out=2", "--set", "search.workers=1"),
    *("--set", "evaluation.lengths=128,512"),
)


@pytest.fixture(scope="module")
def tiny_extend() -> Iterator[Any]:
    """The benchmark's module, for its documents and its configuration."""
    folder = str(ROOT / "benchmarks")
    sys.path.insert(0, folder)
    try:
        spec = importlib.util.spec_from_file_location("tiny_extend", ROOT / "benchmarks" / "tiny_extend.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_extend: Any) -> Path:
    """Documents and a configuration for the tests of this module."""
    folder = tmp_path_factory.mktemp("extend")
    tiny_extend.write_documents(folder / "documents.jsonl", 0, 8, TARGET)
    tiny_extend.write_config(folder / "extend.toml", ASSET, TARGET, folder / "documents.jsonl", steps=1, workers=1)
    text = (folder / "extend.toml").read_text()
    small = text.replace("depths = 6", "depths = 2").replace("samples_per_cell = 8", "samples_per_cell = 3")
    (folder / "extend.toml").write_text(small)
    return folder


def extend(lr2eval: Run, home: Path, *more: Any, out: Path | None = None) -> Any:
    return lr2eval("extend", "--config", home / "extend.toml", "--out", out or home / "out", *SMALL, *more)


@pytest.fixture
def finished(lr2eval: Run, home: Path) -> Path:
    """A finished extension, made once."""
    if not (home / "out" / "report.html").exists():
        done = extend(lr2eval, home)
        assert done.code == 0, done.err
        assert done.out.splitlines()[-1] == f"report: {home / 'out' / 'report.html'}"
    return home / "out"


def test_one_command_from_model_to_report(finished: Path) -> None:
    done = json.loads((finished / "extend.json").read_text())["done"]
    assert list(done) == ["data", "search", "training", "evaluation"]
    training = json.loads((finished / "training" / "training.json").read_text())
    assert (training["rows_short"], training["rows_long"]) == (4, 4)
    comparison = Comparison.model_validate_json((finished / "comparison.json").read_text())
    assert comparison.original.label == "tiny-retrieval"
    (pair,) = comparison.pairs
    assert pair.extended.label == "tiny-retrieval-512"
    # 128 is inside the window, 512 four times it: the extension brings back what the original loses there.
    rows = {(row.task, row.length): row for row in pair.differences if row.task is not None}
    long = rows["single", 512]
    assert long.n == 6
    assert long.difference > 40
    report = (finished / "report.html").read_text()
    assert "tiny-retrieval-512" in report
    assert (finished / "search" / "report.html").is_file()


def test_the_extended_model_is_a_stock_checkpoint_with_the_searched_factors(finished: Path) -> None:
    config = json.loads((finished / "tiny-retrieval-512" / "config.json").read_text())
    factors = json.loads((finished / "search" / "factors.json").read_text())
    assert config["rope_parameters"]["rope_type"] == "longrope"
    assert config["rope_parameters"]["long_factor"] == factors["long_factor"]
    assert config["max_position_embeddings"] == TARGET
    card = (finished / "tiny-retrieval-512" / "README.md").read_text()
    assert "lr2eval extend" in card
    assert factors["search"]["digest"] in card


def test_finished_steps_are_not_repeated(
    finished: Path, home: Path, lr2eval: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("done before")

    monkeypatch.setattr(search, "search", never)
    monkeypatch.setattr(mixing, "prepare_mixture", never)
    monkeypatch.setattr(train, "train", never)
    monkeypatch.setattr(run, "run", never)
    again = extend(lr2eval, home)
    assert again.code == 0, again.err
    assert [line.partition(":")[0] for line in again.err.splitlines() if "already done" in line] == [
        "data",
        "search",
        "training",
        "evaluation",
    ]
    assert again.out.splitlines()[-1] == f"report: {finished / 'report.html'}"


def test_a_step_that_failed_is_where_it_goes_on(
    finished: Path, home: Path, lr2eval: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With given factors; the training dies the first time."""
    factors = finished / "search" / "factors.json"
    out = tmp_path / "out"
    calls = []
    real = train.train

    def dies_once(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("the machine is gone")
        return real(*arguments, **named)

    monkeypatch.setattr(train, "train", dies_once)
    died = extend(lr2eval, home, "--factors", factors, out=out)
    assert died.code == 70
    assert "the machine is gone" in died.error
    assert list(json.loads((out / "extend.json").read_text())["done"]) == ["data"]
    done = extend(lr2eval, home, "--factors", factors, out=out)
    assert done.code == 0, done.err
    assert "data: already done" in done.err
    assert not (out / "search").exists(), "given factors need no search"
    one, two = ((folder / "training" / "training.json").read_text() for folder in (finished, out))
    assert json.loads(one)["digest"] == json.loads(two)["digest"], "the same factors and rows train the same model"


def test_another_configuration_is_refused_with_the_keys(finished: Path, home: Path, lr2eval: Run) -> None:
    refused = extend(lr2eval, home, "--set", "training.seed=5")
    assert refused.code == 2
    assert "training.seed: was 0, now 5" in refused.err


def test_dry_run_says_the_steps_and_writes_nothing(home: Path, lr2eval: Run, tmp_path: Path) -> None:
    done = extend(lr2eval, home, "--dry-run", out=tmp_path / "out")
    assert done.code == 0, done.err
    assert "factors: gradient search" in done.err
    assert "training: 128 to 512, on tiny" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--set", "data.sources=[]"), "--data is missing; give text, JSONL or Parquet files"),
        (("--set", "iterations=3"), "write table.key=value"),
        (("--set", "search.iteration=3"), "iteration: unknown option; did you mean iterations?"),
        (("--set", "search.strategy=evolution"), "--strategy evolution does not use starts, steps, batch"),
        (("--set", "search.splits=14"), "--strategy gradient does not use splits; omit"),
        (("--set", "data.minimum=3"), "data.minimum"),
        (("--set", "training.optimizer.rate=3"), "optimizer.rate: unknown option"),
        (("--set", "evaluation.tasks=niah:sigle"), "single"),
        (("--set", "evaluation.length=3"), "did you mean lengths?"),
        (("--target-length", "128"), "--target-length 128: the model's window is already 128"),
        (("--data", "absent.jsonl"), "absent.jsonl"),
    ],
)
def test_mistakes_in_any_step_are_found_before_the_first(
    home: Path, lr2eval: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], said: str
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may start")

    for module, name in ((search, "search"), (train, "train")):
        monkeypatch.setattr(module, name, never)
    done = extend(lr2eval, home, *more, out=tmp_path / "out")
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()[-1:]) == 1
    assert done.err.strip().splitlines()[-1].startswith("error: ")


def test_factors_of_other_windows_are_refused_first(home: Path, lr2eval: Run, tmp_path: Path) -> None:
    rope = ModelRope.read(ASSET).original()
    file = tmp_path / "factors.json"
    file.write_text(json.dumps(rules.yarn(rope, 1024).to_json()))
    done = extend(lr2eval, home, "--factors", file, out=tmp_path / "out")
    assert done.code == 2
    assert "target_window is 1,024 tokens, but this extension needs 512" in done.err


def test_no_long_documents_are_refused_before_the_search(
    home: Path, lr2eval: Run, tmp_path: Path, tiny_extend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (home / "documents.jsonl").read_text().splitlines()
    short = [line for line in lines if len(json.loads(line)["input_ids"]) <= 128]
    (tmp_path / "short.jsonl").write_text("\n".join(short) + "\n")
    tiny_extend.write_config(tmp_path / "extend.toml", ASSET, TARGET, tmp_path / "short.jsonl", steps=1, workers=1)
    monkeypatch.setattr(search, "search", lambda *_, **__: pytest.fail("the data is no good"))
    done = extend(lr2eval, tmp_path, out=tmp_path / "out")
    assert done.code == 2
    assert "long" in done.err.splitlines()[-1]
