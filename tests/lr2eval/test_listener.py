"""What a listener hears of runs and searches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import lr2eval
from lr2eval.listener import with_listener

ASSET = Path(__file__).parents[1] / "assets" / "tiny-retrieval"
WORDS = {"haystack": str(ASSET / "haystack.txt"), "wording": str(ASSET / "wording.json"), "repeat": True}
SEARCH: dict[str, Any] = {
    "model": ASSET, "target_length": 512, "samples": 1, "held_out": 1, "depths": "grid", "needles": 4, "iterations": 1,
    "splits": (14,), "initial": 3, "population": 3, "parents": 2, "mutations": 1, "crossovers": 1, "dtype": "float32",
    "device": "cpu", **WORDS,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, shared_cache: Path) -> None:
    monkeypatch.setenv("LR2EVAL_CACHE", str(shared_cache))


class Ear(lr2eval.Listener):
    """Notes everything; raises after the shard named ``stop``."""

    def __init__(self, stop: str = "") -> None:
        self.heard: list[tuple[str, Any]] = []
        self.stop = stop

    def of(self, kind: str) -> list[Any]:
        return [what for name, what in self.heard if name == kind]

    def message(self, text: str) -> None:
        self.heard.append(("message", text))

    def run_started(self, shards: Sequence[lr2eval.Shard], *, together: bool = False) -> None:
        self.heard.append(("run_started", [shard.id for shard in shards]))

    def shard_kept(self, shard: lr2eval.Shard) -> None:
        self.heard.append(("shard_kept", shard.id))

    def shard_started(self, shard: lr2eval.Shard) -> None:
        self.heard.append(("shard_started", shard.id))

    def batch_done(self, samples: float, tokens: int, seconds: float) -> None:
        self.heard.append(("batch_done", samples))

    def shard_done(self, shard: lr2eval.Shard, score: float | None, n: int) -> None:
        self.heard.append(("shard_done", (shard.id, score, n)))
        if shard.id == self.stop:
            raise RuntimeError("the listener has heard enough")

    def search_started(self, total: int, after: int, iterations: int, workers: int = 1) -> None:
        self.heard.append(("search_started", (total, after, iterations)))

    def evaluated(self, seconds: float, *, known: bool) -> None:
        self.heard.append(("evaluated", (seconds, known)))

    def round_done(self, label: str, iteration: int, best_nll: float, left: int) -> None:
        self.heard.append(("round_done", (label, iteration, best_nll, left)))

    def ended(self) -> None:
        self.heard.append(("ended", None))


def quick(model: Path, out: Path) -> lr2eval.RunConfig:
    return lr2eval.RunConfig(
        model=model, tasks="facts,ruler:niah_single_1", lengths="768,1k", samples_per_task=2, limit=2, device="cpu",
        dtype="float32", offline=True, out=out,
    )  # fmt: skip


def test_a_listener_hears_a_run(toy_checkpoint: Path, tmp_path: Path) -> None:
    ear = Ear()
    done = lr2eval.run(quick(toy_checkpoint, tmp_path / "run"), listener=ear)
    shards = ["facts/facts", "ruler/niah_single_1@768", "ruler/niah_single_1@1024"]
    assert ear.heard[0] == ("message", "checking model and data")
    assert ear.of("run_started") == [shards]
    assert ear.of("shard_started") == shards
    assert ear.of("shard_done") == [(shard.id, shard.score, shard.n) for shard in done.results.shards]
    assert [n for _, _, n in ear.of("shard_done")] == [2, 2, 2]
    assert sum(ear.of("batch_done")) == pytest.approx(6)
    assert ear.heard[-1] == ("ended", None)
    assert (done.pair, list(done.models)) == (None, [""])


def test_what_a_listener_raises_ends_the_run_and_the_same_call_resumes(toy_checkpoint: Path, tmp_path: Path) -> None:
    config = quick(toy_checkpoint, tmp_path / "run")
    with pytest.raises(RuntimeError, match="heard enough"):
        lr2eval.run(config, listener=(first := Ear(stop="facts/facts")))
    assert first.heard[-1] == ("ended", None)
    part = lr2eval.open_run(tmp_path / "run")
    assert not part.results.complete
    assert list(part.shards.task) == ["facts"]
    assert len(part.samples) == 2
    done = lr2eval.run(config, listener=(second := Ear()))
    assert second.of("shard_kept") == ["facts/facts"]
    assert [name for name, _, _ in second.of("shard_done")] == ["ruler/niah_single_1@768", "ruler/niah_single_1@1024"]
    assert done.results.complete
    whole = lr2eval.run(quick(toy_checkpoint, tmp_path / "whole"))
    assert done.results.digest == whole.results.digest


@pytest.mark.parametrize("method", ["message", "batch_done", "shard_done", "ended"])
def test_an_error_of_a_listener_is_its_own(toy_checkpoint: Path, tmp_path: Path, method: str) -> None:
    """An error like those of a disk is no error of the run folder, and the user gets the very object."""
    error = OSError(28, "No space left on the listener's disk")

    def fail(*_: Any, **__: Any) -> None:
        raise error

    ear = Ear()
    setattr(ear, method, fail)
    with pytest.raises(OSError, match="the listener's disk") as caught:
        lr2eval.run(quick(toy_checkpoint, tmp_path / "run"), listener=ear)
    assert caught.value is error


def test_an_error_of_a_listener_passes_a_workflow_inside_another(tmp_path: Path) -> None:
    """Neither the inner workflow nor a handler between the two sees it."""
    seen = []

    @with_listener
    def inner(*, listener: lr2eval.Listener | None = None) -> None:
        assert listener is not None
        listener.message("now")

    @with_listener
    def outer(*, listener: lr2eval.Listener | None = None) -> None:
        try:
            inner(listener=listener)
        except Exception as error:
            seen.append(error)

    ear = Ear()
    outer(listener=ear)
    outer()
    assert ear.of("message") == ["now"]
    error = FileNotFoundError("the listener's file")

    def fail(text: str) -> None:
        raise error

    ear.message = fail  # type: ignore[method-assign]
    with pytest.raises(FileNotFoundError) as caught:
        outer(listener=ear)
    assert caught.value is error
    assert seen == []


def test_a_listener_hears_a_search(tmp_path: Path) -> None:
    ear = Ear()
    done = lr2eval.search(lr2eval.SearchConfig(**SEARCH, out=tmp_path / "search"), listener=ear)
    ((total, after, iterations),) = ear.of("search_started")
    assert iterations == 1
    assert after < total
    rounds = ear.of("round_done")
    assert [(label, iteration) for label, iteration, _, _ in rounds] == [("split 14", 0), ("split 14", 1)]
    assert rounds[-1][2] == done.result.best_nll
    assert rounds[0][3] > rounds[1][3] == 0
    assert len(ear.of("evaluated")) >= done.result.evaluations
    assert ear.heard[-1] == ("ended", None)
