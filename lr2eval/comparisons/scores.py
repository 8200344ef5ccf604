"""What a comparison needs from a run: ids, prompt hashes and scores, from a run folder or a baseline file.

A folder whose files do not agree (``lr2eval/record/verified.py``) is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lr2eval.errors import DiskError, NotComparableError, StoreError, UsageError
from lr2eval.record.comparison import Level, Side
from lr2eval.record.opened import RunFolder
from lr2eval.record.results import NAMES, RESULTS_FILE, ShardResult
from lr2eval.record.store import FILE, Scored
from lr2eval.record.verified import verified_run
from lr2eval.stats.paired import Array

Headline = Literal["tasks", "samples"]

ID_DIGITS = 12
"""Hex digits of ids and prompt hashes that are compared: 48 bits, enough within a shard. A baseline keeps no more."""


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
    """The document of each sample (empty if the task has none). Samples of one document are not independent."""
    items: Sequence[str | None] = ()
    """Names of the questions, the same at every window (empty if each length has different questions)."""

    @property
    def n(self) -> int:
        return len(self.ids)

    @property
    def scored(self) -> int:
        """Samples that were not skipped."""
        return int((~np.isnan(self.scores)).sum())


@dataclass(frozen=True)
class RunScores:
    """All scores of one run, read from its folder or from a baseline file."""

    side: Side
    shards: Mapping[str, ShardScores]
    headline: Mapping[str, Headline]
    """Benchmark -> what counts the same in its headline number."""
    not_run: Mapping[str, str] = field(default_factory=dict)
    """Shard or task that was requested but not run -> reason."""
    run: RunFolder | None = None
    """The folder as it was verified; ``None`` for a baseline file."""

    def weighting(self, level: Level, benchmark: str) -> Headline:
        """What counts the same in a mean at ``level``."""
        return self.headline.get(benchmark, "samples") if level in ("benchmark", "length") else "tasks"


def read_run(folder: Path) -> RunScores:
    """Read a run folder; its label is the name of the model.

    Raises :class:`UsageError` if it is not a run folder, :class:`NotComparableError` if it is damaged.
    """
    if not (folder / RESULTS_FILE).is_file():
        what = f"has no {RESULTS_FILE}" if folder.exists() else "no such folder"
        raise UsageError(f"{folder}: {what}; give the folder of a run or a file from `lr2eval baseline save`")
    try:
        shards: dict[str, ShardScores] = {}
        results, manifest = verified_run(
            folder, use=lambda shard, rows: shards.update({shard.id: _shard(shard, rows, folder)})
        )
    except DiskError:
        raise  # which says nothing about the run
    except StoreError as error:
        raise NotComparableError(str(error)) from error
    side = Side(
        label=results.model.name,
        source=folder.name,
        kind="run",
        **{name: getattr(results, name) for name in ("digest", "complete", "lr2eval_version", "model", "settings")},
    )
    headline = {summary.benchmark: summary.over for summary in results.summaries if summary.headline}
    not_run = {item.task + ("" if item.length is None else f"@{item.length}"): item.reason for item in results.not_run}
    return RunScores(side, shards, headline, not_run, RunFolder(folder, manifest, results))


def _shard(shard: ShardResult, rows: Sequence[Scored], folder: Path) -> ShardScores:
    if lost := next((row for row in rows if row.score is None and not row.skipped), None):
        raise StoreError(f"{folder / FILE}: sample {lost.id[:12]} of {shard.id} has no score (NaN?); run again")
    columns = [row.columns for row in rows]
    return ShardScores(
        **{name: getattr(shard, name) for name in NAMES},
        ids=[row.id[:ID_DIGITS] for row in rows],
        prompts=[row.prompt_hash[:ID_DIGITS] for row in rows],
        scores=np.array([math.nan if row.score is None else row.score for row in rows], float),
        truncated=[row.truncated_tokens for row in rows],
        depths=[_number(each.get("depth")) for each in columns] if shard.cells else [],
        documents=_texts(columns, "document"),
        items=_texts(columns, "item"),
    )


def _texts(columns: Sequence[Mapping[str, Any]], key: str) -> list[str | None]:
    """A column as texts; empty if no sample has it."""
    found = [None if (value := column.get(key)) is None else str(value) for column in columns]
    return found if any(value is not None for value in found) else []


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
