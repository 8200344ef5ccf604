from __future__ import annotations

from typing import Any

import pytest

from lr2eval.benchmark import ResponseDetail, SampleInfo, Shard
from lr2eval.errors import RunFailedError
from lr2eval.record.summary import shard_result, summaries
from lr2eval.runs.scoring import CONTEXT, EDGE, scored_samples


def shard(**changes: Any) -> Shard:
    values: dict[str, Any] = {
        "benchmark": "ruler", "task": "vt", "length": 1024, "n": 2, "version": "1", "data_hash": "h",
        "metric": "m", "load": lambda: None, "data": {"haystack": "noise"},
        "describe": lambda doc: SampleInfo((doc["gold"],), {"depth": doc["depth"]}, (doc["mark"],), ("f.jsonl", 9)),
    }  # fmt: skip
    return Shard(**{**values, **changes})


def record(
    number: int, *, prompt: str = "prompt", answer: str = "42", score: float = 1.0, **changes: Any
) -> dict[str, Any]:
    values = {
        "doc_id": number,
        "doc": {"gold": "42", "depth": 0.5, "mark": "needle"},
        "arguments": [(prompt, {"until": []})],
        "resps": [[answer]],
        "filter": "none",
        "metrics": ["m"],
        "m": score,
    }
    return {**values, **changes}


DETAILS = {0: [ResponseDetail(100, 3)], 1: [ResponseDetail(90, 2)]}


def test_generation_sample() -> None:
    prompt = "a" * 2000 + "needle" + "b" * 2000
    (got,) = scored_samples(shard(n=1), [record(0, prompt=prompt, score=0.25)], DETAILS, "generate_until", 0)
    assert (got.answer, got.score, got.gold, got.columns) == ("42", 25.0, ("42",), {"depth": 0.5})
    assert (got.prompt_head, got.prompt_tail) == ("a" * EDGE, "b" * EDGE)
    assert got.excerpts == (("a" * CONTEXT, "needle", "b" * CONTEXT),)
    assert got.source == ("f.jsonl", 9)
    assert got.detail == ResponseDetail(100, 3)


def test_tokens_taken_out_by_the_benchmark_count_as_truncated() -> None:
    """With those that the backend took; a skipped sample lost nothing."""
    cut = shard(describe=lambda doc: SampleInfo(("42",), truncated_tokens=30), n=1)
    for detail, lost in ((ResponseDetail(100, 3, truncated_tokens=4), 34), (ResponseDetail(finish="skipped"), 0)):
        (got,) = scored_samples(cut, [record(0)], {0: [detail]}, "generate_until", 0)
        assert got.detail.truncated_tokens == lost


def test_short_prompts_are_kept_whole() -> None:
    (got,) = scored_samples(shard(n=1), [record(0, prompt="x" * EDGE * 2)], DETAILS, "generate_until", 0)
    assert got.prompt_head + got.prompt_tail == "x" * EDGE * 2


def test_choice_sample_answers_the_likeliest() -> None:
    details = {0: [ResponseDetail(100, 0, "short", "choice"), ResponseDetail(101, 0, "short", "choice")]}
    row = record(0, arguments=[("Q", " A"), ("Q", " B")], resps=[[(-1.0, True)], [(-2.0, False)]])
    (got,) = scored_samples(shard(n=1), [row], details, "multiple_choice", 0)
    assert (got.answer, got.choices) == ("A", (("A", -1.0), ("B", -2.0)))
    assert got.detail.prompt_tokens == 101


def test_identity_depends_on_position_prompt_hash_on_prompt() -> None:
    a, b = scored_samples(shard(), [record(0), record(1)], DETAILS, "generate_until", 0)
    assert a.id != b.id
    assert a.prompt_hash == b.prompt_hash
    (other,) = scored_samples(shard(), [record(0)], DETAILS, "generate_until", 1)
    assert other.id != a.id


def test_several_filters_make_one_sample() -> None:
    rows = [record(0, filter="strict", score=0.0), record(0, filter="flexible", score=1.0)]
    (got,) = scored_samples(shard(n=1), rows, DETAILS, "generate_until", 0)
    assert got.score == 0.0
    assert got.metrics == {"m,strict": 0.0, "m,flexible": 1.0}


def test_broken_text_becomes_storable() -> None:
    (got,) = scored_samples(shard(n=1), [record(0, answer="x\ud800y")], DETAILS, "generate_until", 0)
    assert got.answer == "x\ufffdy"


@pytest.mark.parametrize("bad", [float("nan"), "text", None, (1, 2)])
def test_a_metric_that_is_no_score_is_refused(bad: Any) -> None:
    with pytest.raises(RunFailedError, match="is not the score of one sample"):
        scored_samples(shard(), [record(0, m=bad)], DETAILS, "generate_until", 0)


def test_missing_metric_is_refused() -> None:
    with pytest.raises(RunFailedError, match="does not report the metric 'm', only acc"):
        scored_samples(shard(), [record(0, metrics=["acc"], acc=1)], DETAILS, "generate_until", 0)


def test_skipped_samples_are_counted_not_scored() -> None:
    details = {0: [ResponseDetail(100, 3, "short", "stop")], 1: [ResponseDetail(finish="skipped")]}
    samples = scored_samples(shard(), [record(0), record(1)], details, "generate_until", 0)
    result = shard_result(shard(), samples)
    assert (result.n, result.skipped, result.score) == (1, 1, 100.0)
    assert result.windows == {"short": 1}


def test_shard_result_counts() -> None:
    details = {0: [ResponseDetail(100, 3, "short", "stop")], 1: [ResponseDetail(50, 9, "long", "stop", 7)]}
    rows = [record(0, score=1.0), record(1, score=0.0, answer=" \n")]
    result = shard_result(shard(), scored_samples(shard(), rows, details, "generate_until", 0))
    assert (result.score, result.empty, result.truncated, result.windows) == (50.0, 1, 1, {"short": 1, "long": 1})
    assert (result.prompt_tokens, result.new_tokens) == (150, 12)
    assert result.interval is not None
    assert result.interval.low < 50 < result.interval.high


def test_summaries_average_over_tasks_and_over_samples() -> None:
    one = shard_result(shard(), scored_samples(shard(), [record(0), record(1)], DETAILS, "generate_until", 0))
    other = shard(task="cwe", n=1)
    two = shard_result(other, scored_samples(other, [record(0, score=0.25)], DETAILS, "generate_until", 0))
    rows = {row.over: row for row in summaries([one, two], {"ruler": "tasks"})}
    assert rows["tasks"].score == pytest.approx((100 + 25) / 2)
    assert rows["samples"].score == pytest.approx((100 + 100 + 25) / 3)
    assert (rows["tasks"].headline, rows["samples"].headline) == (True, False)
    assert (rows["tasks"].n, rows["tasks"].tasks) == (3, 2)


def test_unbounded_metrics_get_no_interval() -> None:
    result = shard_result(shard(), scored_samples(shard(), [record(0, score=37.0)], DETAILS, "generate_until", 0))
    assert result.score == 3700.0
    assert result.interval is None
    assert summaries([result], {}) == []
