"""Nobody gets a better verdict by deleting shards from the files of a comparison."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from lr2eval.base.ids import digest
from lr2eval.benchmark import ResponseDetail
from lr2eval.comparisons.baseline import save_baseline
from lr2eval.comparisons.gate_config import GateConfig
from lr2eval.comparisons.scores import read_run
from lr2eval.errors import Lr2EvalError
from lr2eval.record.base import sealed
from lr2eval.record.results import NotRun, ShardResult
from lr2eval.record.store import RunStore
from lr2eval.record.summary import over_lengths, summaries
from lr2eval.workflows import compare as workflow
from tests.fake_runs import fake_run, ones

SHARDS = ("mmlu/a", "mmlu/b", "ruler/vt@4096", "ruler/cwe@4096")
BEYOND = "ruler/vt@8192"
"""Beyond the original's window, so only the extended run has it."""
N = 250
LOST = {"pass": 0, "inconclusive": 3, "regression": 30}
"""Wrong answers of the extended model among N, and the verdict on one such shard."""
KINDS = (
    ("pass", "pass", "pass", "pass"),
    ("regression", "pass", "pass", "pass"),
    ("pass", "pass", "pass", "regression"),
    ("pass", "inconclusive", "inconclusive", "pass"),
    ("regression", "inconclusive", "regression", "inconclusive"),
)
RANK = {0: 0, 3: 1, 1: 2, 2: 3, 4: 3, 5: 3}
"""Exit code -> how bad it is; the errors are worst."""
NEEDED = ("results.json", "samples", "shards", "settings.data")
"""What a deletion must reach so that a run looks as if it had never had the shard."""
PLACES = (*NEEDED, "responses", "data")
TASKS: tuple[tuple[str, ...] | None, ...] = (None, ("ruler:vt", "mmlu"))

T = TypeVar("T")
Deletions = Mapping[tuple[str, str], Sequence[str]]
"""(run, place) -> the shards to delete there."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Sequence[str]], Path]]:
    """A folder with ``original``, ``extended`` and ``baseline.json``, by the kinds of the shards, without reports."""
    home = tmp_path_factory.mktemp("made")

    def make(kinds: Sequence[str]) -> Path:
        folder = home / "-".join(kinds)
        if not folder.exists():
            beyond = [NotRun(task="vt", length=8192, reason="above the window of the original model (4096 tokens)")]
            lost = dict(zip(SHARDS, kinds, strict=True))
            shards = {name: ones(N, LOST[kind]) for name, kind in lost.items()} | {BEYOND: ones(N)}
            before = {name: ones(N) for name in SHARDS}
            _answered(fake_run(folder / "original", before, model="original", window=4096, not_run=beyond))
            _answered(fake_run(folder / "extended", shards, model="extended"))
            save_baseline(read_run(folder / "original"), folder / "baseline.json")
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lr2eval.reports.report_html", lambda *_: "")
        yield make


def _answered(folder: Path) -> None:
    """Store responses too, as a real run does."""
    with RunStore.create(folder) as store:
        for name in (*SHARDS, BEYOND):
            store.save_batch(name, "generate", [(0, "key", "right", ResponseDetail(1, 1, "only", "stop", 0))])


def delete(folder: Path, place: str, names: Sequence[str]) -> None:
    """Delete shards from one place of a run folder."""
    if place in ("samples", "shards", "responses"):
        with closing(sqlite3.connect(folder / "samples.sqlite")) as db:
            db.execute("PRAGMA synchronous=OFF")
            db.executemany(f"DELETE FROM {place} WHERE shard=?", [(name,) for name in names])
            if place == "shards":  # with the checksum that was noted when the shard ended
                db.executemany("DELETE FROM meta WHERE key=?", [(f"samples_sha256 {name}",) for name in names])
            db.commit()
        return
    path = folder / ("results.json" if place == "results.json" else "manifest.json")
    value = json.loads(path.read_text())
    if place == "results.json":
        kept = [shard for each in value["shards"] if (shard := ShardResult.model_validate(each)).id not in names]
        value["shards"] = [shard.model_dump(mode="json") for shard in kept]
        means = summaries(kept, {"ruler": "tasks", "mmlu": "samples"})
        value["summaries"] = [each.model_dump(mode="json") for each in means]
        value["over_lengths"] = [each.model_dump(mode="json") for each in over_lengths(kept)]
    else:
        data = value["data"] if place == "data" else value["settings"]["data"]
        for name in names:
            data.pop(name, None)
    path.write_text(json.dumps(value))


def reseal(folder: Path) -> None:
    """Write the checksums again, as a careful editor would."""
    path, manifest = folder / "results.json", folder / "manifest.json"
    value, noted = json.loads(path.read_text()), json.loads(manifest.read_text())
    with RunStore.read(folder) as store:
        value["digest"] = store.seals()[1]
        value["samples_sha256"] = store.seals()[0]
    shards = {ShardResult.model_validate(shard).id for shard in value["shards"]}
    value["complete"] = shards == noted["settings"]["data"].keys()
    path.write_text(json.dumps(sealed(value)))
    manifest.write_text(json.dumps(sealed(noted)))


def delete_from_baseline(path: Path, names: Sequence[str], *, careful: bool) -> None:
    value = json.loads(path.read_text())
    for name in names:
        del value["shards"][name]
    stated = value.pop("sha256")
    path.write_text(json.dumps({**value, "sha256": digest(value) if careful else stated}))


def edited(made: Path, out: Path, deletions: Deletions, *, careful: bool = True) -> Path:
    """A copy of a comparison without the shards of ``deletions``."""
    shutil.rmtree(out, ignore_errors=True)
    folder = Path(shutil.copytree(made, out))
    for (run, place), names in deletions.items():
        if run == "baseline.json":
            delete_from_baseline(folder / run, names, careful=careful)
        else:
            delete(folder / run, place, names)
    for run in ("original", "extended"):
        if careful:
            reseal(folder / run)
    return folder


def code(folder: Path, original: str = "original", *, common: bool = False, **config: Any) -> int:
    """The exit code of the gate."""
    try:
        runs = [folder / original, folder / "extended"]
        return workflow.gate(runs, GateConfig(**config), out=folder / "gate", common=common).gate.exit_code
    except Lr2EvalError as error:
        return error.exit_code


@cache
def before(made: Path, original: str, common: bool, tasks: tuple[str, ...] | None) -> int:
    """The exit code of the gate before anything is deleted: 0, 1 or 3."""
    found = code(made, original, common=common, tasks=tasks)
    assert found in (0, 1, 3)
    return found


def everywhere(run: str, names: Sequence[str]) -> Deletions:
    return {(run, place): names for place in ([""] if run == "baseline.json" else PLACES)}


def subsets(names: Sequence[T]) -> Iterator[tuple[T, ...]]:
    for size in range(1, len(names) + 1):
        yield from combinations(names, size)


PLACE = st.sampled_from([*product(("original", "extended"), PLACES), ("baseline.json", "")])
NAMES = st.lists(st.sampled_from(SHARDS), min_size=1, unique=True)
SAME_NAMES = st.builds(dict.fromkeys, st.sets(PLACE, min_size=4), NAMES)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kinds=st.sampled_from(KINDS),
    deletions=st.one_of(SAME_NAMES, st.dictionaries(PLACE, NAMES, min_size=1)),
    careful=st.booleans(),
    original=st.sampled_from(["original", "baseline.json"]),
    common=st.booleans(),
    tasks=st.sampled_from(TASKS),
)
def test_any_deletion_from_any_file(
    made: Callable[[Sequence[str]], Path],
    tmp_path_factory: pytest.TempPathFactory,
    kinds: Sequence[str],
    deletions: Deletions,
    careful: bool,
    original: str,
    common: bool,
    tasks: tuple[str, ...] | None,
) -> None:
    # Nobody can see that a shard was deleted from everything of both runs, unless the gate names or pins it (below).
    for name in SHARDS:
        places = [(run, place) for run, place in everywhere(original, [name]) if place in ("", *NEEDED)]
        places += [("extended", place) for place in NEEDED]
        assume(not all(name in deletions.get(place, ()) for place in places))
    whole = made(kinds)
    cut = edited(whole, tmp_path_factory.getbasetemp() / "cut", deletions, careful=careful)
    after = code(cut, original, common=common, tasks=tasks)
    assert RANK[after] >= RANK[before(whole, original, common, tasks)]


@pytest.mark.parametrize("run", ["original", "extended", "baseline.json"])
def test_consistent_deletion_from_all_files_of_one_run(
    made: Callable[[Sequence[str]], Path], tmp_path: Path, run: str
) -> None:
    """A careful editor leaves a run that looks as if it had never had the shards."""
    whole = made(("regression", "pass", "inconclusive", "pass"))
    original = "baseline.json" if run == "baseline.json" else "original"
    for names in subsets(SHARDS):
        cut = edited(whole, tmp_path / "cut", everywhere(run, names))
        for common, tasks in product((False, True), TASKS):
            after = code(cut, original, common=common, tasks=tasks)
            assert RANK[after] >= RANK[before(whole, original, common, tasks)], (names, common, tasks)
            if tasks is None:
                assert after in (2, 4), (names, common)


def test_deletion_from_some_files_of_both_runs(made: Callable[[Sequence[str]], Path], tmp_path: Path) -> None:
    """Only a deletion from all files of both runs leaves nothing that contradicts it."""
    whole = made(KINDS[1])
    places = tuple(product(("original", "extended"), NEEDED))
    for chosen in subsets(places):
        cut = edited(whole, tmp_path / "cut", dict.fromkeys(chosen, SHARDS[:1]))
        assert code(cut) == (0 if chosen == places else 4), chosen


@pytest.mark.parametrize("run", ["original", "extended"])
def test_a_summary_without_a_shard_of_the_store_is_refused(
    made: Callable[[Sequence[str]], Path], tmp_path: Path, run: str
) -> None:
    whole = made(("pass",) * 4)
    for places in subsets(NEEDED):
        cut = edited(whole, tmp_path / "cut", {(run, place): SHARDS[:1] for place in places})
        # Without the summary and all samples of a shard, the run is an unfinished one. --common allows that.
        unfinished = set(places) >= {"results.json", "samples", "shards"}
        assert code(cut, tasks=["ruler"], common=True) == (0 if unfinished else 4), places


def test_deletion_from_everything_is_caught_by_naming_or_pinning(
    made: Callable[[Sequence[str]], Path], tmp_path: Path
) -> None:
    whole = made(("regression", "pass", "pass", "pass"))
    digests = {
        "original": json.loads((whole / "original" / "results.json").read_text())["digest"],
        "baseline.json": json.loads((whole / "baseline.json").read_text())["sha256"],
    }
    deleted = everywhere("extended", SHARDS[:1])
    for original, pinned in digests.items():
        cut = edited(whole, tmp_path / "cut", {**deleted, **everywhere(original, SHARDS[:1])})
        assert code(whole, original) == 1
        assert code(cut, original) == 0, "nothing in the files tells; docs/ci.md says so"
        assert code(cut, original, tasks=["mmlu:a", "mmlu:b", "ruler"]) == 2
        assert code(whole, original, baseline_digest=pinned) == 1
        assert code(cut, original, baseline_digest=pinned) == 4


def test_a_shard_beyond_the_window_may_be_missing_from_the_original(
    made: Callable[[Sequence[str]], Path], tmp_path: Path
) -> None:
    """It is listed, and its deletion changes nothing."""
    whole = made(("pass",) * 4)
    cut = edited(whole, tmp_path / "cut", everywhere("extended", [BEYOND]))
    assert (code(whole), code(cut)) == (0, 0)
    assert "Left out: 250 samples (" in json.loads((whole / "gate" / "gate.json").read_text())["paragraph"]
