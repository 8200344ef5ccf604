"""What a comparison reads of a run: ids, prompt hashes and scores, from a run folder or a committed baseline file.

A folder that was changed by hand, or that lost part of itself, is refused here: the digest over its samples must be
the one in ``results.json``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lr2eval.errors import NotComparableError, StoreError, UsageError
from lr2eval.record.comparison import Side
from lr2eval.record.results import RESULTS_FILE, Results, ShardResult, read_results
from lr2eval.record.store import RunStore
from lr2eval.stats.paired import Array

Headline = Literal["tasks", "samples"]

MANIFEST = "manifest.json"
ID_DIGITS = 12
"""Hex digits of ids and prompt hashes that decide: 48 bits, enough within a shard, and all a baseline keeps."""


@dataclass(frozen=True)
class ShardScores:
    """The samples of one shard, in order. ``scores`` ``(n,)`` on the 0..100 scale, NaN where skipped."""

    benchmark: str
    task: str
    length: int | None
    metric: str
    ids: Sequence[str]
    prompts: Sequence[str]
    scores: Array
    truncated: Sequence[int]
    depths: Sequence[float | None] = ()
    documents: Sequence[str | None] = ()
    """Which samples share a document (columns of the sample; empty: none does)."""
    items: Sequence[str | None] = ()
    """What each sample asks, equal at every window it is asked at (empty: each length has questions of its own)."""

    @property
    def n(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Source:
    """One side of a comparison, read whole."""

    side: Side
    shards: Mapping[str, ShardScores]
    headline: Mapping[str, Headline]
    not_run: Mapping[str, str] = field(default_factory=dict)
    """Shard or task that was asked for and did not run -> reason."""


def read_run(folder: Path, label: str) -> Source:
    """Read a run folder. :class:`UsageError` if it is none, :class:`NotComparableError` if it is damaged."""
    if not (folder / RESULTS_FILE).is_file():
        what = "no such folder" if not folder.exists() else f"holds no {RESULTS_FILE}"
        raise UsageError(f"{folder}: {what}; give the folder of a run (or a file of `lr2eval baseline save`)")
    try:
        results = read_results(folder)
        with RunStore.read(folder) as store:
            shards = {shard.id: _shard(shard, store) for shard in results.shards}
            found = store.digest()
    except (StoreError, ValueError, TypeError) as error:
        raise NotComparableError(
            f"{error}" if isinstance(error, StoreError) else f"{folder}: damaged ({error})"
        ) from error
    if found != results.digest:
        raise NotComparableError(
            f"{folder}: its samples have digest {found[:12]}, its results.json says {results.digest[:12]}, so one "
            "of the two was changed; restore the folder from a copy or run again"
        )
    return Source(
        side=side_of(results, label, folder.name, "run"),
        shards=shards,
        headline=headlines(results),
        not_run={
            f"{item.task}{'' if item.length is None else f'@{item.length}'}": item.reason for item in results.not_run
        },
    )


def side_of(results: Results, label: str, source: str, kind: Literal["run", "baseline"]) -> Side:
    """Who a run is, for the comparison's record."""
    return Side(
        label=label,
        source=source,
        kind=kind,
        digest=results.digest,
        complete=results.complete,
        lr2eval_version=results.lr2eval_version,
        model=results.model,
        settings=results.settings,
    )


def headlines(results: Results) -> dict[str, Headline]:
    """What the one number of each benchmark counts the same: its tasks or its samples."""
    return {summary.benchmark: summary.over for summary in results.summaries if summary.headline}


def labels(models: Sequence[str], folders: Sequence[str]) -> list[str]:
    """What to call each run: its model's name, with the folder's where two share one, a number if need be."""
    named = [m if models.count(m) == 1 else f"{m} ({f})" for m, f in zip(models, folders, strict=True)]
    return [n if named.count(n) == 1 else f"{n} #{i}" for i, n in enumerate(named, 1)]


def _shard(shard: ShardResult, store: RunStore) -> ShardScores:
    rows = list(store.scores(shard.id))
    scored = sum(score is not None for _, _, score, _, _ in rows)
    if scored != shard.n:
        raise StoreError(
            f"{store.path}: {scored} scored samples of {shard.id}, of which results.json counts {shard.n}; restore the "
            "run folder from a copy"
        )
    columns: list[Mapping[str, Any]] = [row[4] for row in rows]
    depths = [_number(column.get("depth")) for column in columns] if shard.cells else []
    documents, items = _texts(columns, "document"), _texts(columns, "item")
    return ShardScores(
        benchmark=shard.benchmark,
        task=shard.task,
        length=shard.length,
        metric=shard.metric,
        ids=[row[0][:ID_DIGITS] for row in rows],
        prompts=[row[1][:ID_DIGITS] for row in rows],
        scores=np.array([math.nan if row[2] is None else row[2] for row in rows], float),
        truncated=[row[3] for row in rows],
        depths=depths,
        documents=documents,
        items=items,
    )


def _texts(columns: Sequence[Mapping[str, Any]], key: str) -> list[str | None]:
    """A column as texts; empty where no sample has it."""
    found = [column.get(key) for column in columns]
    return [None if value is None else str(value) for value in found] if any(v is not None for v in found) else []


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
