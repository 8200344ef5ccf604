"""Whatever is read of a run is verified: every change is noticed by its reader and by ``lr2eval verify``."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from lr2eval import open_run, verify
from lr2eval.benchmark import ResponseDetail
from lr2eval.comparisons.scores import read_run
from lr2eval.errors import Lr2EvalError, NotComparableError, StoreError
from lr2eval.record.base import sealed
from lr2eval.record.results import RESULTS_FILE
from lr2eval.record.store import FILE, RunStore
from lr2eval.record.verified import difference, verified_run
from lr2eval.reports.load import load
from lr2eval.workflows.compare import gate, save_baseline
from lr2eval.workflows.score import score_folder
from tests import damage
from tests.fake_runs import fake_run, ones

SHARDS = {
    "ruler/vt@4096": ones(8, 3),
    "ruler/cwe@4096": ones(8, 2),
    "niah/single@4096": ones(6, 2),
    "mmlu/law": ones(5),
}
OLD = Path(__file__).parents[2] / "assets" / "runs-9c8e5ba" / "runs" / "plain"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    depths = [{"depth": place / 2, "document": f"d{place}"} for place in (0, 0, 1, 1, 2, 2)]
    folder = fake_run(tmp_path_factory.mktemp("runs") / "run", SHARDS, columns={"niah/single@4096": depths})
    with RunStore.create(folder) as store:
        for name in SHARDS:
            store.save_plan(name, "generate_until", [[0, 2], [1]])
            store.save_batch(
                name, "generate_until", [(i, f"{i:064x}", f"text {i}", ResponseDetail()) for i in range(3)]
            )
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_a_sound_run(run: Path) -> None:
    results, manifest = verified_run(run)
    assert [shard.id for shard in results.shards] == list(SHARDS)
    assert manifest["settings"]["config"] == results.settings
    assert verify(run).sound


def test_every_change_of_the_files_is_noticed(run: Path) -> None:
    for name in (RESULTS_FILE, "manifest.json"):
        text = (run / name).read_bytes()
        for place, delete in damage.some_changes(run / name, 60):
            damage.changed(run / name, place, delete=delete)
            with pytest.raises(StoreError, match=name):
                verified_run(run)
            assert not verify(run).sound, place
            (run / name).write_bytes(text)


@pytest.mark.parametrize("folder", ["run", "old"])
def test_every_number_must_be_that_of_the_samples(whole: Path, tmp_path: Path, folder: str) -> None:
    """Whoever writes a right checksum still has to fit the samples and the manifest. An old run has no checksum."""
    run = Path(shutil.copytree(whole if folder == "run" else OLD, tmp_path / "run"))
    path = run / RESULTS_FILE
    text = path.read_bytes()
    for place in damage.places(json.loads(text)):
        part, *inside = place
        free = part not in ("shards", "summaries", "over_lengths", "settings", "digest", "complete", "samples_sha256")
        if free or "metric" in inside or ("data" in inside and folder == "run") or place == ("samples_sha256",):
            continue
        damage.changed(path, place, seal=folder == "run")
        with pytest.raises(StoreError):
            verified_run(run, unfinished=True)
        path.write_bytes(text)


def test_every_cell_of_the_samples_is_bound(run: Path) -> None:
    text = (run / FILE).read_bytes()
    for table in ("samples", "shards"):
        for column, row in damage.cells(run / FILE, table):
            damage.changed_cell(run / FILE, table, column, row)
            for reader in (open_run, read_run, lambda folder: load([folder])):
                with pytest.raises(Lr2EvalError, match=r"\w+/\w+|samples"):
                    reader(run)
            assert not verify(run).sound, (table, column)
            (run / FILE).write_bytes(text)


def test_every_cell_of_the_answers_is_bound(run: Path) -> None:
    text = (run / FILE).read_bytes()
    for table in ("responses", "batches"):
        for column, row in damage.cells(run / FILE, table):
            damage.changed_cell(run / FILE, table, column, row)
            assert not verify(run).sound, (table, column)
            (run / FILE).write_bytes(text)


@pytest.mark.parametrize("value", [None, 5, 1.5, b"ruler", "ruler"])
def test_a_cell_of_another_type_is_damage(run: Path, value: object) -> None:
    """A damaged byte can give a cell any type, also one that its column does not allow."""
    damage.without_types(run / FILE)
    text = (run / FILE).read_bytes()
    for table in ("samples", "shards", "responses", "batches", "meta"):
        for column, row in damage.cells(run / FILE, table):
            with suppress(sqlite3.IntegrityError):  # a key is never NULL
                damage.changed_cell(run / FILE, table, column, row, value)
            for reader in (open_run, read_run, lambda folder: load([folder]), _resumed):
                with suppress(Lr2EvalError):
                    reader(run)
            verify(run)
            (run / FILE).write_bytes(text)


def _resumed(run: Path) -> None:
    """What a run reads before it goes on."""
    with RunStore.create(run) as store:
        for shard in (*store.finished(), *SHARDS):
            store.shard_done(shard)
            store.plan(shard, "generate_until")
            store.responses(shard, "generate_until")
        store.check_samples(store.seals()[0])
        store.outcomes()


def test_a_changed_sample_gets_no_new_checksum(run: Path) -> None:
    """A resumed run writes its results again from the store."""
    damage.changed_cell(run / FILE, "samples", "answer", 3)
    with RunStore.read(run) as store, pytest.raises(StoreError, match=r"samples of .* were changed after"):
        store.check_samples(store.seals()[0])


def _without(run: Path, shard: str, *, summary: bool, store: bool) -> None:
    if summary:
        value = json.loads((run / RESULTS_FILE).read_text())
        value["shards"] = [each for each in value["shards"] if f"{each['benchmark']}/{each['task']}" not in shard]
        value["samples_sha256"].pop(shard)
        (run / RESULTS_FILE).write_text(json.dumps(sealed(value)))
    if store:
        with closing(sqlite3.connect(run / FILE, isolation_level=None)) as db:
            for table in ("samples", "shards"):
                db.execute(f"DELETE FROM {table} WHERE shard = ?", (shard,))


@pytest.mark.parametrize(("summary", "store"), [(True, False), (False, True), (True, True)])
def test_a_lost_shard_is_refused_by_every_reader(run: Path, tmp_path: Path, summary: bool, store: bool) -> None:
    _without(run, "ruler/cwe@4096", summary=summary, store=store)
    for reader in (open_run, lambda folder: load([folder]), lambda folder: score_folder("ruler", folder)):
        with pytest.raises(StoreError, match=r"ruler/cwe@4096|complete \(True and False\)"):
            reader(run)
    with pytest.raises(NotComparableError):
        read_run(run)
    with pytest.raises(NotComparableError):
        save_baseline(run, tmp_path / "baseline.json")
    verdict = gate([run, fake_run(tmp_path / "other", SHARDS, model="other")], out=tmp_path / "gate").gate
    assert (verdict.verdict, verdict.exit_code) == ("not comparable", 4)
    assert not verify(run).sound


def test_an_unfinished_run_may_be_behind_its_store(tmp_path: Path) -> None:
    """A killed run, or one that goes on: its results hold what was finished a moment ago."""
    run = fake_run(tmp_path / "run", {"ruler/vt@4096": ones(4)}, planned=2)
    later = fake_run(tmp_path / "later", {"ruler/vt@4096": ones(4), "planned/0": ones(3)})
    shutil.copy(later / FILE, run / FILE)
    assert verify(run).sound
    assert any("unfinished" in found.text for found in verify(run).findings)
    assert len(open_run(run).shards) == 1
    with pytest.raises(StoreError, match=r"results.json lacks planned/0.*run the same `lr2eval run` command again"):
        verified_run(run)


@pytest.mark.parametrize(
    ("stated", "found", "said"),
    [
        ({"a": [1.0, 2]}, {"a": [1.0 + 1e-12, 2.0]}, ""),
        ({"a": [1.0, 2]}, {"a": [1.0, 3]}, "a.1 (2 and 3)"),
        ({"a": 1}, {}, "a (1 and '(missing)')"),
        ({"a": True}, {"a": 1}, "a (True and 1)"),
        ({"a": [1]}, {"a": [1, 2]}, "a ([1] and [1, 2])"),
        ({"a": "x" * 99}, {"a": None}, f"a ('{'x' * 56}... and None)"),
    ],
)
def test_differences(stated: Any, found: Any, said: str) -> None:
    assert difference(stated, found, "") == said


def test_an_old_run_is_read(tmp_path: Path) -> None:
    run = Path(shutil.copytree(OLD, tmp_path / "run"))
    results, _ = verified_run(run)
    assert (results.schema_version, results.samples_sha256) == (1, None)
    assert [found.text.partition("; no ")[2].split(":")[0] for found in verify(run).findings] == [
        "checksum",
        "",
        "checksum",
    ]
