"""Run folders with chosen scores, written through the same models and store as real ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lr2eval.base.ids import digest, sample_id, text_hash
from lr2eval.benchmark import ResponseDetail, Shard
from lr2eval.record.base import write_record
from lr2eval.record.folder import write_manifest
from lr2eval.record.results import ModelFacts, NotRun, Results
from lr2eval.record.store import RunStore, StoredSample
from lr2eval.record.summary import over_lengths, shard_result, summaries

Scores = Sequence[float | None]


def fake_run(
    folder: Path,
    shards: Mapping[str, Scores],
    *,
    model: str = "model",
    seed: int = 0,
    prompts: str = "prompt",
    truncated: Mapping[str, Sequence[int]] | None = None,
    columns: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    metrics: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    tokenizer: str = "tokenizer",
    planned: int | None = None,
    not_run: Sequence[NotRun] = (),
    window: int = 131_072,
    texts: Mapping[str, Any] | None = None,
) -> Path:
    """A run whose samples of shard ``ruler/vt@4096`` score ``shards["ruler/vt@4096"]`` (0..100, ``None``: skipped).

    ``texts``: cells of every sample, such as its ``answer``. ``planned``: number of shards the run should have had;
    more than there are make it unfinished.
    """
    folder.mkdir(parents=True)
    described = {name: _shard(name, len(scores), (metrics or {}).get(name, "acc")) for name, scores in shards.items()}
    with RunStore.create(folder) as store:
        for name, scores in shards.items():
            shard = described[name]
            lost, given = (truncated or {}).get(name, ()), (columns or {}).get(name, ())
            store.save_scores(
                name,
                [
                    replace(
                        _sample(
                            shard, i, score, seed, prompts,
                            lost[i] if lost else 0, given[i] if given else {},
                        ),
                        **(texts or {}),
                    )
                    for i, score in enumerate(scores)
                ],
            )  # fmt: skip
        found = [shard_result(described[name], list(store.samples(name))) for name in shards]
        results = Results(
            lr2eval_version="0.1.0",
            digest=store.seals()[1],
            samples_sha256=store.seals()[0],
            complete=planned is None or planned == len(shards),
            model=ModelFacts(
                name=model,
                fingerprint=digest(model),
                tokenizer_fingerprint=tokenizer,
                architecture="LlamaForCausalLM",
                parameters=1000,
                dtype="float32",
                window=window,
                original_window=None,
                rope_type="default",
                rope={},
            ),
            settings={
                "seed": seed, "samples_per_task": 100, "limit": None, "chat": False, "truncation": "error",
                "window_policy": "exact", "dtype": "float32", "batch_size": "auto", "backend": "hf", "options": {},
                **(settings or {}),
            },
            shards=found,
            summaries=summaries(found, {"ruler": "tasks", "niah": "tasks", "mmlu": "samples"}),
            over_lengths=over_lengths(found),
            not_run=list(not_run),
        )  # fmt: skip
    write_record(folder / "results.json", results)
    data = dict.fromkeys((*shards, *(f"planned/{i}" for i in range((planned or 0) - len(shards)))), "data")
    kept = {"config": results.settings, "model": digest(model), "tokenizer": tokenizer, "data": data}
    known = {name: {"hash": "data"} for name in shards}
    write_manifest(folder, {"settings": kept, "command": ["lr2eval", "run"], "sessions": [], "data": known})
    return folder


def ones(n: int, zeros: int = 0, *, at: int = 0) -> list[float | None]:
    """``n`` scores of 100 with ``zeros`` of 0 from place ``at`` on."""
    return [0.0 if at <= i < at + zeros else 100.0 for i in range(n)]


def _shard(name: str, n: int, metric: str) -> Shard:
    benchmark, _, rest = name.partition("/")
    task, _, length = rest.partition("@")
    return Shard(
        benchmark=benchmark, task=task, length=int(length) if length else None, n=n, version="1", data_hash="data",
        metric=metric, load=lambda: None, describe=lambda doc: None,  # type: ignore[arg-type,return-value]
        cells="depth" if benchmark == "niah" else None,
    )  # fmt: skip


def _sample(
    shard: Shard, number: int, score: float | None, seed: int, prompts: str, truncated: int, columns: Mapping[str, Any]
) -> StoredSample:
    return StoredSample(
        id=sample_id(shard.version, f"{shard.benchmark}/{shard.task}", shard.length, number, seed),
        shard=shard.id, benchmark=shard.benchmark, task=shard.task, length=shard.length, number=number,
        prompt_hash=text_hash(f"{prompts} {shard.id} {number} {seed}"),
        answer="" if score is None else "right" if score == 100 else "wrong", score=score, skipped=score is None,
        gold=("right",), metrics={} if score is None or math.isnan(score) else {"acc,none": score / 100},
        columns=dict(columns), choices=None, prompt_head="Question", prompt_tail="", excerpts=(), source=None,
        detail=ResponseDetail(prompt_tokens=10, new_tokens=1, window="only", finish="stop", truncated_tokens=truncated),
    )  # fmt: skip
