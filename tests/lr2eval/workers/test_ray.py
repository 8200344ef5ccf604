"""Workers of a Ray cluster: one for all tests here, with this process as its driver."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lr2eval.base import machine
from lr2eval.errors import BackendError, CheckpointError, RunFailedError, UsageError
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.workers.ray import Ray, _connect
from lr2eval.workers.settings import Workers
from tests.lr2eval.runs.test_spread import SPREAD, undivided
from tests.lr2eval.workers.test_pool import Squares, built
from tests.lr2eval.workflows.test_search import ASSET, SMALL, folder

__all__ = ["folder", "undivided"]  # fixtures
ROOT = Path(__file__).parents[3]


ray = pytest.importorskip("ray", reason="ray is not installed; pip install 'lr2eval[ray]'")
pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("default"), pytest.mark.xdist_group("processes")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a local cluster with room for three workers."""
    os.environ["LR2EVAL_CACHE"] = str(tmp_path_factory.mktemp("cache"))  # workers have the cluster's environment
    try:
        _connect(None, 3)
    except (UsageError, RunFailedError) as error:  # seen on a machine with five jobs a core
        pytest.skip(f"Ray did not start on this machine: {error}")
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
    del os.environ["LR2EVAL_CACHE"]


def pool(folder: Path, workers: int = 2) -> Ray[int | str, tuple[int | str, int]]:
    return Ray(partial(Squares, folder=folder), workers)


@pytest.mark.usefixtures("cluster")
def test_items_have_their_results_and_dead_workers_are_replaced(tmp_path: Path) -> None:
    with pool(tmp_path) as executor:
        assert {number for _, number in executor.run(["wait for another"] * 2)} == {0, 1}
        assert sorted(executor.run(range(9))) == [(i, i * i) for i in range(9)]
        assert len(built(tmp_path)) == 2, "built once each, with all they keep"
        found = list(executor.run([1, "die once", 2, 3]))
        assert sorted(map(str, found)) == sorted(map(str, [(1, 1), ("die once", -1), (2, 4), (3, 9)]))
        for left in tmp_path.glob("waiting-*"):
            left.unlink()
        assert {number for _, number in executor.run(["wait for another"] * 2)} == {0, 1}, "the dead one was replaced"
        assert len(built(tmp_path)) == 3
        with pytest.raises(BackendError, match="an item that cannot be done; choose another"):
            list(executor.run(["raise"]))
        with pytest.raises(RunFailedError, match=r"3 workers died over the same item \(.*died.*\).*--workers"):
            list(executor.run(["die"]))
        assert list(executor.run([4])) == [(4, 16)], "the pool goes on"
    assert ray.is_initialized(), "a cluster that was there stays"


@pytest.mark.usefixtures("cluster")
def test_a_worker_with_other_versions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = machine.versions()
    monkeypatch.setattr(machine, "versions", lambda: {**real, "transformers": "4.0.1"})
    expected = rf"has transformers {real['transformers']}, this process has 4\.0\.1; install the same version"
    with pool(tmp_path) as executor, pytest.raises(UsageError, match=expected):
        list(executor.run([1]))


@pytest.mark.usefixtures("cluster")
def test_gpus_that_no_machine_has_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--gpus-per-worker 2: no machine of the cluster has more than 0"):
        Ray(partial(Squares, folder=tmp_path), 1, gpus_per_worker=2)
    with pytest.raises(UsageError, match=r"--gpus-per-worker 1: the device is cpu; add --device cuda"):
        Workers(2, "ray", 1).pool(lambda _: Squares(0, tmp_path), Checkpoint.open(ASSET), "cpu")


def test_two_workers_search_the_same_history(
    cluster: str, folder: Path, lr2eval: Callable[..., Any], tmp_path: Path
) -> None:
    two = lr2eval("search", *SMALL, "--out", tmp_path / "two", "--executor", "ray", "--workers", 2)
    assert two.code == 0, two.err
    for name in ("search.json", "factors.json"):
        assert (tmp_path / "two" / name).read_bytes() == (folder / name).read_bytes()


def test_an_evaluation_has_the_same_digest(
    cluster: str, lr2eval: Callable[..., Any], toy_checkpoint: Path, undivided: Path, tmp_path: Path
) -> None:
    ray_workers = ("--executor", "ray", "--workers", 2, "--out", tmp_path / "two")
    done = lr2eval("run", "--model", toy_checkpoint, *SPREAD, *ray_workers)
    assert done.code == 0, done.err
    assert (tmp_path / "two" / "results.json").read_bytes() == (undivided / "results.json").read_bytes()
    session = json.loads((tmp_path / "two" / "manifest.json").read_text())["sessions"][0]
    assert (session["workers"], session["executor"], session["worker_deaths"]) == (2, "ray", 0)


def test_another_process_joins_by_address(cluster: str, tmp_path: Path) -> None:
    code = (
        "import sys; from functools import partial; from pathlib import Path; from lr2eval.workers.ray import Ray\n"
        "from tests.lr2eval.workers.test_pool import Squares\n"
        f"with Ray(partial(Squares, folder=Path({str(tmp_path)!r})), 2, address={cluster!r}) as executor:\n"
        "    print(sorted(executor.run(range(4))))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str([(i, i * i) for i in range(4)]), done.stderr
    with pytest.raises(UsageError, match="is already connected to a cluster"):
        Ray(partial(Squares, folder=tmp_path), 1, address=cluster)


@pytest.mark.usefixtures("cluster")
def test_another_model_at_the_same_path_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    from lr2eval.workers.settings import ModelLoader

    def prepare(checkpoint: Checkpoint) -> str:
        return ModelLoader(Workers(2, "ray"), lambda _: Squares(0, tmp_path), checkpoint, "cpu").prepare(0)

    checkpoint = Checkpoint.open(ASSET)
    assert prepare(checkpoint) == "cpu"
    with pytest.raises(CheckpointError, match="has a different model at this path"):
        prepare(replace(checkpoint, fingerprint="0" * 64))
    with pytest.raises(CheckpointError, match=r"no such folder.*at the same path"):
        prepare(replace(checkpoint, folder=tmp_path / "gone"))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere.invalid:6379", "ray", "127.0.0.1:port"])
def test_nobody_at_the_address(lr2eval: Callable[..., Any], tmp_path: Path, address: str) -> None:
    if ray.is_initialized():
        ray.shutdown()
    found = lr2eval("search", *SMALL, "--out", tmp_path, "--executor", "ray", "--set", f"ray.address={address}")
    assert found.code == 2
    assert found.error.startswith(f"ray.address={address}: no Ray cluster answers there")


def test_without_the_package(lr2eval: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = lr2eval("search", *SMALL, "--out", tmp_path, "--executor", "ray")
    assert (found.code, found.error) == (2, "--executor ray: ray is not installed; pip install 'lr2eval[ray]'")
