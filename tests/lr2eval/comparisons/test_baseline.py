from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lr2eval.base.ids import digest
from lr2eval.comparisons.baseline import load_baseline, save_baseline
from lr2eval.comparisons.compare import compare_runs, read_all
from lr2eval.comparisons.scores import read_run
from lr2eval.errors import NotComparableError, UsageError
from tests.fake_runs import fake_run, ones

SHARDS: dict[str, list[float | None]] = {
    "mmlu/a": ones(40, 7), "ruler/vt@4096": [100.0, None, 33.3333333333, 0.0, 50.0]
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fake_run(tmp_path / "run", SHARDS, truncated={"ruler/vt@4096": [0, 0, 9, 0, 0]})


def test_round_trip(run: Path, tmp_path: Path) -> None:
    source = read_run(run)
    loaded = load_baseline(save_baseline(source, tmp_path / "baseline.json"))
    assert loaded.side.kind == "baseline"
    assert loaded.side.digest == source.side.digest
    assert loaded.headline == source.headline
    for name, shard in source.shards.items():
        found = loaded.shards[name]
        np.testing.assert_array_equal(found.scores, shard.scores)
        assert (found.ids, found.prompts, list(found.truncated)) == (shard.ids, shard.prompts, list(shard.truncated))
        assert (found.benchmark, found.task, found.length, found.metric) == (
            shard.benchmark, shard.task, shard.length, shard.metric
        )  # fmt: skip


def test_same_comparison_from_baseline_and_from_run(run: Path, tmp_path: Path) -> None:
    shards = SHARDS | {"mmlu/a": ones(40, 9)}
    other = fake_run(tmp_path / "other", shards, model="extended", truncated={"ruler/vt@4096": [0, 0, 9, 0, 0]})
    baseline = save_baseline(read_run(run), tmp_path / "baseline.json")
    from_file, from_run = ([*read_all([path, other])] for path in (baseline, run))
    assert (
        compare_runs(from_file[0], from_file[1:])[0].pairs[0].differences
        == compare_runs(from_run[0], from_run[1:])[0].pairs[0].differences
    )


def test_equal_runs_give_equal_bytes_and_the_size_is_small(tmp_path: Path) -> None:
    paths = []
    for name in "ab":
        folder = fake_run(tmp_path / name / "run", {f"mmlu/{i}": ones(250, i) for i in range(20)})
        paths.append(save_baseline(read_run(folder), tmp_path / f"{name}.json"))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size < 20 * 5000  # 20 bytes a sample: MMLU's 14,042 stay below 300 kB


def test_an_unfinished_run_is_no_baseline(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run", {"mmlu/a": ones(3)}, planned=2)
    with pytest.raises(NotComparableError, match="not finished"):
        save_baseline(read_run(folder), tmp_path / "baseline.json")
    assert not (tmp_path / "baseline.json").exists()


def test_a_changed_score_is_found(run: Path, tmp_path: Path) -> None:
    path = save_baseline(read_run(run), tmp_path / "baseline.json")
    value = json.loads(path.read_text())
    value["shards"]["mmlu/a"]["values"] = [0.0, 99.0]
    path.write_text(json.dumps(value))
    with pytest.raises(NotComparableError, match="changed after it was written"):
        load_baseline(path)


def test_a_cut_file_is_found(run: Path, tmp_path: Path) -> None:
    path = save_baseline(read_run(run), tmp_path / "baseline.json")
    path.write_text(path.read_text()[:-200])
    with pytest.raises(NotComparableError, match="incomplete"):
        load_baseline(path)


@pytest.mark.parametrize(
    ("more", "says"), [("[" * 200_000 + "]" * 200_000, "nested more than"), ("NaN", "not a JSON number")]
)
def test_a_damaged_value_is_one_line(tmp_path: Path, more: str, says: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text('{"kind": "lr2eval baseline", "schema_version": 1, "x": ' + more + "}")
    with pytest.raises(NotComparableError, match=says):
        load_baseline(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"hello", "not valid JSON"),
        (b"[1, 2]", "not a baseline"),
        (b'{"kind": "something"}', "not a baseline"),
        (b'{"kind": "lr2eval baseline", "schema_version": 9}', "schema version 9, but this lr2eval reads version 1"),
    ],
)
def test_what_is_no_baseline(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        load_baseline(path)


@pytest.mark.parametrize("key", ["side", "shards", "headline"])
def test_a_layout_of_another_lr2eval_is_one_line(run: Path, tmp_path: Path, key: str) -> None:
    path = save_baseline(read_run(run), tmp_path / "baseline.json")
    value = json.loads(path.read_text())
    del value[key], value["sha256"]
    path.write_text(json.dumps({**value, "sha256": digest(value)}))
    with pytest.raises(UsageError, match="layout") as caught:
        load_baseline(path)
    assert "\n" not in str(caught.value)


def test_shards_that_contradict_themselves(run: Path, tmp_path: Path) -> None:
    path = save_baseline(read_run(run), tmp_path / "baseline.json")
    value = json.loads(path.read_text())
    value["shards"]["mmlu/a"]["n"] = 41
    del value["sha256"]
    path.write_text(json.dumps({**value, "sha256": digest(value)}))
    with pytest.raises(UsageError, match="n is 41, but there are 40 scores"):
        load_baseline(path)
