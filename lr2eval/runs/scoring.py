"""From lm-eval's per-document records to the samples the store keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lr2eval.base.ids import digest, sample_id, text_hash
from lr2eval.benchmark import ResponseDetail, SampleInfo, Shard
from lr2eval.errors import RunFailedError
from lr2eval.record.store import StoredSample

EDGE = 600
"""Characters of the prompt kept at each end; the whole prompt stays in the data file."""
CONTEXT = 160
"""Characters kept on either side of a marked string."""


def scored_samples(
    shard: Shard,
    records: Sequence[Mapping[str, Any]],
    details: Mapping[int, Sequence[ResponseDetail]],
    output_type: str,
    seed: int,
) -> list[StoredSample]:
    """One stored sample per document. ``records`` are the logged samples of lm-eval's ``evaluate``.

    A task with several filters (gsm8k: strict and flexible) logs a document once per filter. The first filter with the
    shard's metric gives the score; ``metrics`` keeps the others.
    """
    by_document: dict[int, list[Mapping[str, Any]]] = {}
    for record in records:
        by_document.setdefault(record["doc_id"], []).append(record)
    return [
        _sample(shard, number, group, details[number], output_type, seed)
        for number, group in sorted(by_document.items())
    ]


def _sample(
    shard: Shard,
    number: int,
    records: Sequence[Mapping[str, Any]],
    details: Sequence[ResponseDetail],
    output_type: str,
    seed: int,
) -> StoredSample:
    record = next((r for r in records if shard.metric in r["metrics"]), records[0])
    if shard.metric not in record["metrics"]:
        raise RunFailedError(
            f"{shard.id}: the task does not report the metric {shard.metric!r}, only {', '.join(record['metrics'])}"
        )
    info = shard.describe(record["doc"])
    skipped = any(detail.finish == "skipped" for detail in details)
    prompt = _text(record["arguments"][0][0])
    answer, choices = _answer(record, output_type, info)
    head, tail = (prompt, "") if len(prompt) <= 2 * EDGE else (prompt[:EDGE], prompt[-EDGE:])
    return StoredSample(
        id=sample_id(shard.version, f"{shard.benchmark}/{shard.task}", shard.length, number, seed),
        shard=shard.id,
        benchmark=shard.benchmark,
        task=shard.task,
        length=shard.length,
        number=number,
        prompt_hash=_prompt_hash(record["arguments"], output_type),
        answer="" if skipped else _text(answer),
        score=None if skipped else _score(record[shard.metric], shard),
        skipped=skipped,
        gold=info.gold,
        metrics={} if skipped else _metrics(records),
        columns=dict(info.columns),
        choices=None if skipped else choices,
        prompt_head=head,
        prompt_tail=tail,
        excerpts=tuple(_excerpt(prompt, mark) for mark in info.marks if mark and mark in prompt),
        source=info.source,
        detail=_merge(details, 0 if skipped else info.truncated_tokens),
    )


def _text(value: Any) -> str:
    """Text that any file can hold: a lone surrogate (broken byte sequence) becomes the replacement character."""
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _prompt_hash(arguments: Sequence[Sequence[Any]], output_type: str) -> str:
    """Generation: hash of the text the model continues. Choices: hash of all (context, choice) pairs."""
    if output_type == "generate_until":
        return text_hash(str(arguments[0][0]))
    return digest([[text_hash(str(part)) for part in pair] for pair in arguments])


def _answer(
    record: Mapping[str, Any], output_type: str, info: SampleInfo
) -> tuple[str, tuple[tuple[str, float], ...] | None]:
    if output_type == "multiple_choice":
        pairs = [
            (str(arguments[1]).strip(), float(responses[0][0]))
            for arguments, responses in zip(record["arguments"], record["resps"], strict=True)
        ]
        return max(pairs, key=lambda pair: pair[1])[0], tuple(pairs)
    if output_type == "generate_until":
        return str(record["resps"][0][0]), None
    return " ".join(f"{value!r}" for value in record["resps"][0]), None


def _score(value: Any, shard: Shard) -> float:
    # Some lm-eval metrics are collected as tuples for their aggregation; such a task has no per-sample score.
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return round(float(value) * shard.scale, 10)
    raise RunFailedError(f"{shard.id}: metric {shard.metric!r} gives {value!r}, which is not the score of one sample")


def _metrics(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        f"{name},{record['filter']}": record[name]
        for record in records
        for name in record["metrics"]
        if isinstance(record[name], str | bool | int | float)
    }


def _merge(details: Sequence[ResponseDetail], truncated: int) -> ResponseDetail:
    """One detail per sample: a multiple-choice sample is as long as its longest request.

    ``truncated``: tokens that the benchmark cut before a backend saw the prompt.
    """
    longest = max(details, key=lambda detail: detail.prompt_tokens)
    return replace(
        longest,
        new_tokens=sum(detail.new_tokens for detail in details),
        truncated_tokens=truncated + max(detail.truncated_tokens for detail in details),
        prefill_chunk=0,  # the manifest has it
    )


def _excerpt(prompt: str, mark: str) -> tuple[str, str, str]:
    before, _, after = prompt.partition(mark)
    return before[-CONTEXT:], mark, after[:CONTEXT]
