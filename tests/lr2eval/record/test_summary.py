from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lr2eval.benchmark import ResponseDetail, SampleInfo, Shard
from lr2eval.record.results import Interval, ShardResult
from lr2eval.record.store import StoredSample
from lr2eval.record.summary import over_lengths, refuses, shard_result
from lr2eval.stats.scores import wilson

PUBLISHED = {4096: 96.5, 8192: 95.8, 16384: 95.4, 32768: 94.8, 65536: 88.4, 131072: 66.6}
INTERVAL = Interval(low=0.0, high=100.0, confidence=0.95, method="wilson")


def result(task: str, length: int | None, score: float | None, benchmark: str = "ruler") -> ShardResult:
    return ShardResult(
        benchmark=benchmark, task=task, length=length, metric="m", n=0 if score is None else 10, score=score,
        interval=None if score is None else INTERVAL, empty=0, truncated=0, skipped=0, windows={}, prompt_tokens=0,
        new_tokens=0, data={},
    )  # fmt: skip


def test_published_row() -> None:
    shards = [result(task, length, score) for length, score in PUBLISHED.items() for task in ("vt", "cwe")]
    (found,) = over_lengths(shards)
    assert (found.tasks, found.lengths, found.threshold) == (2, list(PUBLISHED), 85.6)
    assert found.effective_length == 65536
    assert (round(found.weighted_increasing or 0, 1), round(found.weighted_decreasing or 0, 1)) == (85.5, 93.7)


def test_a_missing_length_leaves_no_weighted_average() -> None:
    (found,) = over_lengths([result("vt", length, score) for length, score in PUBLISHED.items() if length != 8192])
    assert (found.weighted_increasing, found.weighted_decreasing) == (None, None)
    assert found.effective_length == 65536


def test_only_lengths_with_every_task_count() -> None:
    shards = [result("vt", 4096, 90.0), result("cwe", 4096, 88.0), result("vt", 8192, 99.0)]
    (found,) = over_lengths(shards)
    assert (found.lengths, found.effective_length, found.tasks) == ([4096], 4096, 2)
    (found,) = over_lengths([*shards, result("cwe", 8192, None)])
    assert found.lengths == [4096]
    assert over_lengths([result("vt", 4096, 90.0), result("cwe", 8192, 88.0)]) == []


def test_the_threshold_itself_is_not_above_it() -> None:
    (found,) = over_lengths([result("vt", 4096, 85.6)])
    assert found.effective_length is None


def test_other_benchmarks_have_no_effective_length() -> None:
    assert over_lengths([result("single", 4096, 90.0, "niah"), result("mmlu_anatomy", None, 90.0, "mmlu")]) == []


def sample(number: int, score: float | None, **columns: Any) -> StoredSample:
    return StoredSample(
        id=str(number), shard="niah/single@4096", benchmark="niah", task="single", length=4096, number=number,
        prompt_hash="", answer="x", score=score, skipped=score is None, gold=(), metrics={}, columns=columns,
        choices=None, prompt_head="", prompt_tail="", excerpts=(), source=None, detail=ResponseDetail(),
    )  # fmt: skip


def shard(cells: str | None) -> Shard:
    return Shard(
        benchmark="niah", task="single", length=4096, n=4, version="1", data_hash="", metric="found", load=dict,
        describe=lambda doc: SampleInfo(()), cells=cells,
    )  # fmt: skip


def test_cells() -> None:
    rows = [sample(0, 100.0, depth=1.0), sample(1, 50.0, depth=0), sample(2, 0.0, depth=0.0), sample(3, None, depth=0)]
    found = shard_result(shard("depth"), rows)
    assert [(cell.depth, cell.n, cell.score) for cell in found.cells] == [(0.0, 2, 25.0), (1.0, 1, 100.0)]
    low, high = wilson(0.25, 2)
    assert (found.cells[0].interval.low, found.cells[0].interval.high) == pytest.approx((100 * low, 100 * high))
    assert sum(cell.n for cell in found.cells) == found.n
    assert shard_result(shard(None), rows).cells == []
    assert shard_result(shard("depth"), [sample(0, 100.0)]).cells == []


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry",
        "  I am so sorry, I do not know",
        "Sorry, I cannot answer",
        "sorry, but as an assistant I must decline",
        "I cannot find the number.",
        "I can\u2019t",
        "\n**I can't** do this",
        "I'm unable to share that",
        "I am not able to browse",
        "As an AI language model, I have no opinions",
        "As an AI, I do not",
        "As an AI developed by somebody, I must say",
        "Unfortunately, I am not able to see the text",
        "I apologize, but I cannot",
    ],
)
def test_refusals(answer: str) -> None:
    assert refuses(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "4815162",
        "sorry",  # may be a word of a word list
        "sorry, table, window, river",
        "Sorrento",
        "The text says: I cannot go on.",
        "Icannot",
        "I candidly think 7",
        "I can find it: 12",
        "As an aid to navigation, it was built in 1890",
        "As an AI researcher she wrote two books",
        "As an airline, it flies",
        "apologies, regrets, sorrow",
        "Unfortunately, the king died",
        "I'm sorrowful",
    ],
)
def test_what_is_no_refusal(answer: str) -> None:
    assert not refuses(answer)


def test_refusals_are_counted_among_generated_answers_only() -> None:
    declined = replace(sample(0, 0.0), answer="I'm sorry, I can't do that.")
    rows = [declined, sample(1, 100.0), replace(declined, id="2", score=None, skipped=True)]
    assert shard_result(shard(None), rows).refused == 1
    chosen = replace(declined, choices=((declined.answer, -1.0), ("B", -2.0)))
    assert shard_result(shard(None), [chosen]).refused == 0
