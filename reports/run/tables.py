"""Stored numbers into the rows and columns of the report. Nothing is averaged or rounded here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lr2eval.record.results import CellResult, OverLengths, ShardResult, Summary
from lr2eval.reports import formats
from lr2eval.reports.load import LoadedRun

ScoreCell = ShardResult | Summary | CellResult
"""What has a score, an interval and the number of samples behind them."""
CellT = TypeVar("CellT")


@dataclass(frozen=True)
class TableRow(Generic[CellT]):
    """One task, or a mean; ``cells`` follow the table's columns."""

    name: str
    category: str
    cells: Sequence[CellT | None]


@dataclass(frozen=True)
class TaskTable(Generic[CellT]):
    """One benchmark, task by length. ``lengths`` is ``(None,)`` for a benchmark without lengths."""

    benchmark: str
    lengths: Sequence[int | None]
    rows: Sequence[TableRow[CellT]]

    @property
    def grid(self) -> bool:
        """Whether lengths make the columns (RULER) or the table is a plain list of tasks (MMLU)."""
        return [*self.lengths] != [None]

    @property
    def categories(self) -> bool:
        return any(row.category for row in self.rows)


@dataclass(frozen=True)
class ScoreTable(TaskTable[ScoreCell]):
    """Scores; the cells of a row are those of all runs within each length."""

    metrics: Sequence[str]
    runs: Sequence[LoadedRun]
    means: Sequence[TableRow[ScoreCell]]


def score_tables(runs: Sequence[LoadedRun], categories: Mapping[str, str]) -> list[ScoreTable]:
    """One table per benchmark, in the order of the results. ``categories``: shard id -> category of its samples."""
    names = dict.fromkeys(shard.benchmark for run in runs for shard in run.results.shards)
    return [_score_table(name, runs, categories) for name in names]


def _score_table(benchmark: str, runs: Sequence[LoadedRun], categories: Mapping[str, str]) -> ScoreTable:
    shards = {
        (shard.task, shard.length, number): shard
        for number, run in enumerate(runs)
        for shard in run.results.shards
        if shard.benchmark == benchmark
    }
    tasks: dict[str, str] = {}
    for shard in shards.values():
        tasks.setdefault(shard.task, categories.get(shard.id, ""))
    if any(tasks.values()):
        tasks = dict(sorted(tasks.items(), key=lambda item: (item[1], item[0])))
    lengths = sorted({length for _, length, _ in shards}, key=lambda length: length or 0)
    columns = [(length, number) for length in lengths for number in range(len(runs))]
    return ScoreTable(
        benchmark=benchmark,
        metrics=[*dict.fromkeys(shard.metric for shard in shards.values())],
        lengths=lengths,
        runs=runs,
        rows=[
            TableRow(formats.task(benchmark, task), category, [shards.get((task, *column)) for column in columns])
            for task, category in tasks.items()
        ],
        means=_means(benchmark, columns, runs),
    )


def _means(
    benchmark: str, columns: Sequence[tuple[int | None, int]], runs: Sequence[LoadedRun]
) -> list[TableRow[ScoreCell]]:
    stored = {
        (summary.over, summary.length, number): summary
        for number, run in enumerate(runs)
        for summary in run.results.summaries
        if summary.benchmark == benchmark
    }
    rows = []
    for over in ("tasks", "samples"):
        found = [stored.get((over, *column)) for column in columns]
        if any(found):
            headline = any(summary is not None and summary.headline for summary in found)
            rows.append((not headline, TableRow[ScoreCell](f"Mean over {over}", "", found)))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


@dataclass(frozen=True)
class Tile:
    """The headline numbers of one benchmark: (length, summary of each run), lengths ascending."""

    benchmark: str
    rows: Sequence[tuple[int | None, Sequence[Summary | None]]]
    over_lengths: Sequence[OverLengths | None]
    """RULER's effective length and weighted averages of each run."""


def tiles(runs: Sequence[LoadedRun]) -> list[Tile]:
    """One tile per benchmark."""
    found = []
    for name in dict.fromkeys(summary.benchmark for run in runs for summary in run.results.summaries):
        columns = [{summary.length: summary for summary in headlines(run, name)} for run in runs]
        lengths = sorted({length for column in columns for length in column}, key=lambda length: length or 0)
        if lengths:
            overs = [next((o for o in run.results.over_lengths if o.benchmark == name), None) for run in runs]
            rows = [(length, [column.get(length) for column in columns]) for length in lengths]
            found.append(Tile(name, rows, overs if any(overs) else ()))
    return found


def headlines(run: LoadedRun, benchmark: str) -> list[Summary]:
    """The benchmark's one number, at each length it has."""
    mine = [s for s in run.results.summaries if s.benchmark == benchmark and s.headline]
    return sorted(mine, key=lambda s: s.length or 0)


def sentence(run: LoadedRun) -> str:
    """The run in one plain sentence, made of stored numbers only: the shortest and the longest length of each."""
    parts = []
    for benchmark in dict.fromkeys(s.benchmark for s in run.results.summaries):
        if shown := headlines(run, benchmark):
            # Part of a suite must not read like the suite: say over how many tasks the mean goes.
            tasks, over = shown[0].tasks, "one task"
            if tasks > 1:
                over = f"mean over {'the samples of ' if shown[0].over == 'samples' else ''}{tasks} tasks"
            ends = shown[:1] + shown[1:][-1:]
            parts.append(f"{formats.title(benchmark)}, {over}: " + " and ".join(_said(s) for s in ends))
    return "; ".join(parts) + "." if parts else "Nothing has been scored yet."


def _said(summary: Summary) -> str:
    at = "" if summary.length is None else f" at {formats.length(summary.length)}"
    low, high = formats.score(summary.interval.low), formats.score(summary.interval.high)
    confidence = formats.level(summary.interval.confidence)
    return f"{formats.score(summary.score)}{at} (n = {formats.count(summary.n)}, {confidence} interval {low}–{high})"


def fact_groups(runs: Sequence[LoadedRun]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """(heading, [(key, value of each run)]) of "How it was run": the manifest and the identity in the results."""
    records = [_record(run) for run in runs]
    found = []
    for heading in dict.fromkeys(heading for record in records for heading in record):
        columns = [dict(formats.facts(record.get(heading, {}))) for record in records]
        names = dict.fromkeys(name for column in columns for name in column)
        if names:
            rows = [(name, [column.get(name, formats.NOTHING) for column in columns]) for name in names]
            found.append((heading, rows))
    return found


def _record(run: LoadedRun) -> dict[str, Mapping[Any, Any]]:
    results, model = run.results, run.results.model.model_dump()
    elsewhere = ("command", "not_run", "settings")  # shown in other places of the report
    manifest = {key: value for key, value in run.manifest.items() if key not in elsewhere}
    groups: dict[str, Mapping[Any, Any]] = {
        "Identity": {
            "run folder": run.folder.name,
            "digest": results.digest,
            "complete": results.complete,
            "lr2eval": results.lr2eval_version,
            **{key: value for key, value in manifest.items() if not isinstance(value, Mapping | list)},
        },
        "RoPE": model.pop("rope"),
        "Model": model,
        "Settings that decide the samples": results.settings,
    }
    for key, value in manifest.items():
        if isinstance(value, Mapping | list):
            groups[key.replace("_", " ").capitalize()] = dict(enumerate(value, 1)) if isinstance(value, list) else value
    return groups
