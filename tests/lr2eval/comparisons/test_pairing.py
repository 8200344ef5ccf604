from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from lr2eval.base.visible import labels
from lr2eval.comparisons.pairing import caveats, pair
from lr2eval.comparisons.scores import RunScores, read_run
from lr2eval.errors import NotComparableError, UsageError
from lr2eval.record.results import NotRun
from tests.fake_runs import fake_run, ones

MMLU = "mmlu/mmlu_anatomy"
VT = "ruler/vt@4096"


def runs(tmp_path: Path, before: dict[str, object], after: dict[str, object]) -> tuple[RunScores, RunScores]:
    fake_run(tmp_path / "a", model="original", **before)  # type: ignore[arg-type]
    fake_run(tmp_path / "b", model="extended", **after)  # type: ignore[arg-type]
    return read_run(tmp_path / "a"), read_run(tmp_path / "b")


def test_pairs_by_id_whatever_the_order_of_the_rows(tmp_path: Path) -> None:
    scores = [0.0, 100.0, 50.0, 100.0]
    original, extended = runs(tmp_path, {"shards": {MMLU: scores}}, {"shards": {MMLU: scores[::-1]}})
    shard = extended.shards[MMLU]
    turned = RunScores(
        extended.side,
        {MMLU: type(shard)(**{**shard.__dict__, "ids": shard.ids[::-1], "prompts": shard.prompts[::-1],
                              "scores": shard.scores[::-1], "truncated": shard.truncated[::-1]})},
        extended.headline,
    )  # fmt: skip
    (found,), left_out = pair(original, turned, common=False)
    # Row i of the turned run is the sample 3 - i, whose score there is scores[i]: partners keep together.
    assert [*zip(found.original, found.extended, strict=True)] == [(1.0, 0.0), (0.5, 1.0), (1.0, 0.5), (0.0, 1.0)]
    assert left_out == []


def test_skipped_samples_are_left_out_and_counted(tmp_path: Path) -> None:
    original, extended = runs(tmp_path, {"shards": {VT: [100.0, None, 0.0]}}, {"shards": {VT: [100.0, 100.0, 100.0]}})
    (found,), left_out = pair(original, extended, common=False)
    assert found.original.tolist() == [1.0, 0.0]
    assert [(item.what, item.n) for item in left_out] == [(VT, 1)]


def test_depths_stay_with_their_samples_where_some_are_skipped(tmp_path: Path) -> None:
    name = "niah/single@4096"
    columns = {name: [{"depth": depth, "document": f"d{depth}"} for depth in (0.0, 0.5, 1.0)]}
    original, extended = runs(
        tmp_path,
        {"shards": {name: [None, 100.0, 0.0]}, "columns": columns},
        {"shards": {name: ones(3)}, "columns": columns},
    )
    (found,), _ = pair(original, extended, common=False)
    assert (found.depths, found.documents) == ([0.5, 1.0], ["d0.5", "d1.0"])


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ({"seed": 1}, {}, "seed 1 and 0"),
        ({"prompts": "other"}, {}, "10 of 10 samples have different prompts"),
        ({"tokenizer": "other"}, {}, "different tokenizers"),
        ({"settings": {"window_policy": "budget"}}, {}, "--window-policy"),
        ({"settings": {"truncation": "middle"}}, {}, "--truncation"),
        ({"metrics": {MMLU: "exact"}}, {}, "scored by exact"),
        ({"truncated": {MMLU: [0] * 9 + [7]}}, {}, "1 prompts were shortened to different lengths"),
        ({"planned": 2}, {}, "original: the run is not finished"),
        ({}, {"planned": 2}, "extended: the run is not finished"),
        ({"shards": {MMLU: ones(12)}, "settings": {"limit": 12}}, {"settings": {"limit": 10}}, "limit 12 and 10"),
        ({"shards": {MMLU: ones(10), VT: ones(5)}}, {}, f"extended has no scores for {VT}"),
        ({"shards": {VT: ones(5)}}, {}, "has no scores for"),
    ],
)
def test_refusals_name_the_reason_in_one_line(
    tmp_path: Path, before: dict[str, object], after: dict[str, object], says: str
) -> None:
    original, extended = runs(tmp_path, {"shards": {MMLU: ones(10)}, **before}, {"shards": {MMLU: ones(10)}, **after})
    with pytest.raises(NotComparableError) as caught:
        pair(original, extended, common=False)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


def test_common_leaves_out_what_only_one_run_has_and_says_so(tmp_path: Path) -> None:
    original, extended = runs(
        tmp_path,
        {"shards": {MMLU: ones(12), VT: ones(5)}, "planned": 3},
        {"shards": {MMLU: ones(10)}, "truncated": {MMLU: [3] + [0] * 9}},
    )
    (found,), left_out = pair(original, extended, common=True)
    assert len(found.original) == 9
    assert {(item.what, item.n) for item in left_out} == {(VT, 5), (MMLU, 2), (MMLU, 1)}


def test_lengths_only_the_extended_model_ran_are_named_not_refused(tmp_path: Path) -> None:
    reason = "above the window of the original model (4096 tokens)"
    original, extended = runs(
        tmp_path,
        {"shards": {VT: ones(5)}, "not_run": [NotRun(task="vt", length=8192, reason=reason)]},
        {"shards": {VT: ones(5), "ruler/vt@8192": ones(5)}},
    )
    found, left_out = pair(original, extended, common=False)
    assert [shard.name for shard in found] == [VT]
    assert [(item.what, item.reason) for item in left_out] == [("ruler/vt@8192", reason)]


def test_no_common_shard_even_when_common_is_asked(tmp_path: Path) -> None:
    original, extended = runs(tmp_path, {"shards": {VT: ones(5)}}, {"shards": {MMLU: ones(5)}})
    with pytest.raises(NotComparableError, match="no sample in common"):
        pair(original, extended, common=True)


def test_scores_outside_the_scale_are_refused(tmp_path: Path) -> None:
    original, extended = runs(tmp_path, {"shards": {MMLU: [120.0, 0.0]}}, {"shards": {MMLU: [100.0, 0.0]}})
    with pytest.raises(NotComparableError, match=r"outside 0\.\.100"):
        pair(original, extended, common=False)


def test_settings_caveats(tmp_path: Path) -> None:
    original, extended = runs(
        tmp_path, {"shards": {MMLU: ones(2)}, "settings": {"dtype": "bfloat16"}}, {"shards": {MMLU: ones(2)}}
    )
    assert caveats(original.side, extended.side) == ["dtype: bfloat16 for original, float32 for extended"]


def test_a_changed_score_is_found(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "a", {MMLU: ones(10, 5)})
    with sqlite3.connect(folder / "samples.sqlite") as db:
        db.execute("UPDATE samples SET score = 100")
    with pytest.raises(
        NotComparableError,
        match=r"samples.sqlite: results.json and the samples of mmlu/mmlu_anatomy differ in score \(50.0 and 100.0\)",
    ):
        read_run(folder)


def test_lost_rows_are_found(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "a", {MMLU: ones(10)})
    with sqlite3.connect(folder / "samples.sqlite") as db:
        db.execute("DELETE FROM samples WHERE number > 4")
    with pytest.raises(NotComparableError, match=r"samples of mmlu/mmlu_anatomy differ in n \(10 and 5\)"):
        read_run(folder)


@pytest.mark.parametrize("cut", ["samples.sqlite", "results.json"])
def test_a_cut_file_is_one_line(tmp_path: Path, cut: str) -> None:
    folder = fake_run(tmp_path / "a", {MMLU: ones(100)})
    path = folder / cut
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(NotComparableError) as caught:
        read_run(folder)
    assert cut in str(caught.value)
    assert "\n" not in str(caught.value)


def test_results_of_another_schema_version_are_named(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "a", {MMLU: ones(3)})
    text = (folder / "results.json").read_text().replace('"schema_version": 2', '"schema_version": 7')
    (folder / "results.json").write_text(text)
    with pytest.raises(NotComparableError, match="schema version 7, but this lr2eval reads versions 1 and 2"):
        read_run(folder)


def test_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "a", {MMLU: [100.0, math.nan]})
    with pytest.raises(NotComparableError, match="has no score"):
        read_run(folder)


def test_no_run_folder_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"has no results\.json"):
        read_run(tmp_path)


def test_labels_tell_runs_apart() -> None:
    assert labels(["m", "n"], ["a", "b"]) == ["m", "n"]
    assert labels(["m", "m"], ["a", "b"]) == ["m (a)", "m (b)"]
    assert labels(["m", "m"], ["a", "a"]) == ["m (a) #1", "m (a) #2"]


def test_scores_come_out_as_stored(tmp_path: Path) -> None:
    source = read_run(fake_run(tmp_path / "a", {VT: [100.0, 0.0, 33.3, None]}))
    np.testing.assert_array_equal(source.shards[VT].scores, [100.0, 0.0, 33.3, np.nan])
