"""Stored numbers into the rows and columns of the report. pandas arranges; nothing is averaged or rounded here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lr2eval.record.results import Interval, OverLengths, ShardResult, Summary
from lr2eval.reports import formats
from lr2eval.reports.load import Key, Run


@dataclass(frozen=True)
class Cell:
    """One score with what it takes to judge it."""

    score: float | None
    interval: Interval | None
    n: int


@dataclass(frozen=True)
class Row:
    """One task; ``cells`` follow the table's lengths, then the runs within each length."""

    name: str
    category: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class ScoreTable:
    """One benchmark, task by length by run. ``lengths`` is ``(None,)`` for a benchmark without lengths."""

    benchmark: str
    metrics: tuple[str, ...]
    lengths: tuple[int | None, ...]
    runs: tuple[Run, ...]
    rows: tuple[Row, ...]
    means: tuple[Row, ...]

    @property
    def grid(self) -> bool:
        """Whether lengths make the columns (RULER) or the table is a plain list of tasks (MMLU)."""
        return self.lengths != (None,)

    @property
    def categories(self) -> bool:
        return any(row.category for row in self.rows)


def score_tables(runs: Sequence[Run], categories: Mapping[str, str]) -> list[ScoreTable]:
    """One table per benchmark, in the order of the results. ``categories``: shard id -> category of its samples."""
    frame = pd.DataFrame(
        [
            {
                "benchmark": shard.benchmark,
                "task": shard.task,
                "length": shard.length or 0,
                "run": number,
                "metric": shard.metric,
                "category": categories.get(shard.id, ""),
                "cell": Cell(shard.score, shard.interval, shard.n),
            }
            for number, run in enumerate(runs)
            for shard in run.results.shards
        ],
        columns=["benchmark", "task", "length", "run", "metric", "category", "cell"],
    )
    return [_score_table(str(name), part, runs) for name, part in frame.groupby("benchmark", sort=False)]


def _score_table(benchmark: str, part: pd.DataFrame, runs: Sequence[Run]) -> ScoreTable:
    lengths = tuple(int(value) or None for value in sorted(part["length"].unique()))
    places = [(length or 0, run) for length in lengths for run in range(len(runs))]
    cells = part.set_index(["task", "length", "run"])["cell"].to_dict()
    order = part.drop_duplicates("task")[["category", "task"]]
    if order["category"].any():
        order = order.sort_values(["category", "task"])
    return ScoreTable(
        benchmark=benchmark,
        metrics=tuple(str(metric) for metric in part["metric"].unique()),
        lengths=lengths,
        runs=tuple(runs),
        rows=tuple(
            Row(
                name=formats.task(benchmark, task),
                category=category,
                cells=tuple(cells.get((task, *place)) for place in places),
            )
            for category, task in order.itertuples(index=False, name=None)
        ),
        means=_means(benchmark, lengths, runs),
    )


def _means(benchmark: str, lengths: Sequence[int | None], runs: Sequence[Run]) -> tuple[Row, ...]:
    stored = {
        (summary.over, summary.length, number): summary
        for number, run in enumerate(runs)
        for summary in run.results.summaries
        if summary.benchmark == benchmark
    }
    rows = []
    for over in ("tasks", "samples"):
        found = [stored.get((over, length, number)) for length in lengths for number in range(len(runs))]
        if any(found):
            cells = tuple(None if s is None else Cell(s.score, s.interval, s.n) for s in found)
            rows.append((any(s is not None and s.headline for s in found), Row(f"Mean over {over}", "", cells)))
    return tuple(row for _, row in sorted(rows, key=lambda pair: not pair[0]))


@dataclass(frozen=True)
class Tile:
    """The headline numbers of one benchmark: (length, summary of each run), lengths ascending."""

    benchmark: str
    rows: tuple[tuple[int | None, tuple[Summary | None, ...]], ...]
    over_lengths: tuple[OverLengths | None, ...]
    """RULER's effective length and weighted averages of each run."""

    @property
    def weighted(self) -> bool:
        return any(found is not None and found.weighted_increasing is not None for found in self.over_lengths)


def tiles(runs: Sequence[Run]) -> list[Tile]:
    """One tile per benchmark."""
    found = []
    for name in dict.fromkeys(summary.benchmark for run in runs for summary in run.results.summaries):
        columns = [{summary.length: summary for summary in headlines(run, name)} for run in runs]
        lengths = sorted({length for column in columns for length in column}, key=lambda length: length or 0)
        if lengths:
            rows = tuple((length, tuple(column.get(length) for column in columns)) for length in lengths)
            overs = [next((o for o in run.results.over_lengths if o.benchmark == name), None) for run in runs]
            found.append(Tile(name, rows, tuple(overs) if any(overs) else ()))
    return found


def headlines(run: Run, benchmark: str) -> tuple[Summary, ...]:
    """The benchmark's one number, at each length it has."""
    mine = [s for s in run.results.summaries if s.benchmark == benchmark and s.headline]
    return tuple(sorted(mine, key=lambda s: s.length or 0))


def sentence(run: Run) -> str:
    """The run in one plain sentence, made of stored numbers only: the shortest and the longest length of each."""
    parts = []
    for benchmark in dict.fromkeys(s.benchmark for s in run.results.summaries):
        mine = headlines(run, benchmark)
        shown = [mine[0], mine[-1]] if len(mine) > 1 else list(mine)
        if shown:
            # Part of a suite must not read like the suite: say over how many tasks the mean goes.
            tasks, over = shown[0].tasks, "score of one task"
            if tasks > 1:
                over = f"mean over {'the samples of ' if shown[0].over == 'samples' else ''}{tasks} tasks"
            parts.append(f"{formats.title(benchmark)} {over}: " + " and ".join(_said(s) for s in shown))
    return "; ".join(parts) + "." if parts else "Nothing has been scored yet."


def _said(summary: Summary) -> str:
    at = "" if summary.length is None else f" at {formats.length(summary.length)}"
    low, high = formats.score(summary.interval.low), formats.score(summary.interval.high)
    confidence = f"{summary.interval.confidence * 100:.0f}\u00a0%"
    return f"{formats.score(summary.score)}{at} (n = {formats.count(summary.n)}, {confidence} interval {low}–{high})"


@dataclass(frozen=True)
class ShardRow:
    """Everything stored about one shard of one run."""

    run: Run
    name: str
    result: ShardResult
    windows: str
    data: str


def shard_rows(runs: Sequence[Run]) -> list[ShardRow]:
    """The full record, for those who check."""
    return [
        ShardRow(
            run=run,
            name=shard.id,
            result=shard,
            windows=", ".join(f"{name} {formats.count(n)}" for name, n in shard.windows.items()),
            data="; ".join(f"{key}: {text}" for key, text in formats.facts(shard.data)),
        )
        for run in runs
        for shard in run.results.shards
    ]


@dataclass(frozen=True)
class Fact:
    """One key of the record of a run, with the value of each run beside the others."""

    key: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1


def fact_groups(runs: Sequence[Run]) -> list[tuple[str, list[Fact]]]:
    """(heading, facts) of "How it was run": the whole manifest and the identity part of the results."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for number, run in enumerate(runs):
        for heading, values in _record(run).items():
            groups.setdefault(heading, [{} for _ in runs])[number] = values
    return [(heading, found) for heading, columns in groups.items() if (found := _side_by_side(columns))]


def _record(run: Run) -> dict[str, Mapping[str, Any]]:
    manifest = dict(run.manifest)
    model = run.results.model.model_dump()
    named = {
        heading: _mapping(manifest.pop(key, {}))
        for heading, key in (
            ("Configuration", "config"),
            ("Versions", "versions"),
            ("Hardware", "hardware"),
            ("Timing", "timing"),
            ("Environment", "environment"),
            ("Data", "data"),
        )
    }
    for known in ("command", "not_run", "settings"):  # shown elsewhere in the report
        manifest.pop(known, None)
    return {
        "Identity": {
            "run folder": run.folder.name,
            "digest": run.results.digest,
            "complete": run.results.complete,
            "lr2eval": run.results.lr2eval_version,
            **{key: manifest.pop(key) for key in ("created", "finished") if key in manifest},
        },
        "Model": {key: value for key, value in model.items() if key != "rope"},
        "RoPE": model["rope"],
        "Settings that decide the samples": run.results.settings,
        **named,
        "Further": manifest,
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {"value": value}


def _side_by_side(columns: Sequence[Mapping[str, Any]]) -> list[Fact]:
    flat = [dict(formats.facts(column)) for column in columns]
    keys = dict.fromkeys(key for column in flat for key in column)
    return [Fact(key, tuple(column.get(key, formats.NOTHING) for column in flat)) for key in keys]


SUITE = "short"


PUBLISHED_SOURCE = "LongRoPE2, arXiv 2502.20082 (v1, February 2025), table 4"


PUBLISHED_COLUMNS = ("MMLU", "MMLU-Pro", "HellaSwag", "TruthfulQA", "GSM8K")


@dataclass(frozen=True)
class Published:
    """A row of the table: scores in the order of :data:`PUBLISHED_COLUMNS`, and the average printed with them."""

    model: str
    average: float
    scores: tuple[float, ...]


PUBLISHED = (
    Published("Phi3-mini, original, 2k", 63.2, (70.78, 41.17, 77.96, 47.82, 78.54)),
    Published("Phi3-mini at 128k, YaRN", 53.6, (63.22, 30.95, 75.27, 42.19, 57.39)),
    Published("Phi3-mini at 128k, NTK", 57.3, (66.43, 36.09, 76.92, 43.34, 63.99)),
    Published("Phi3-mini at 128k, LongRoPE", 58.5, (67.26, 36.28, 75.73, 46.26, 67.17)),
    Published("Phi3-mini at 128k, LongRoPE2", 61.7, (70.04, 40.30, 77.07, 47.61, 73.62)),
    Published("LLaMA3-8B, original, 8k", 56.5, (66.62, 35.87, 82.08, 44.04, 54.05)),
    Published("LLaMA3.1-8B of Meta", 57.2, (66.33, 36.79, 81.71, 45.17, 56.18)),
    Published("LLaMA3-8B at 128k, YaRN", 52.1, (62.25, 31.88, 81.25, 42.61, 42.45)),
    Published("LLaMA3-8B at 128k, NTK", 54.0, (63.84, 34.14, 82.11, 43.45, 46.92)),
    Published("LLaMA3-8B at 128k, LongRoPE", 54.6, (64.69, 33.74, 82.14, 43.65, 48.90)),
    Published("LLaMA3-8B at 128k, LongRoPE2", 55.7, (65.01, 34.61, 81.69, 46.17, 50.80)),
)


def published_rows(runs: Sequence[Run]) -> tuple[Published, ...]:
    """The published table if a run was asked for the suite, else nothing."""
    names = (str(name) for run in runs for name in run.results.settings.get("tasks", ()))
    return PUBLISHED if any(name.partition(":")[0] == SUITE for name in names) else ()


KINDS = ("truncated", "empty", "refused", "skipped")


@dataclass(frozen=True)
class ShareRow:
    """One benchmark of one run: the stored counts of its shards together, out of ``n`` scored samples.

    Skipped samples are not among ``n``.
    """

    run: Key
    benchmark: str
    n: int
    counts: tuple[int, ...]

    def text(self, kind: int) -> str:
        of = self.n + self.counts[kind] if KINDS[kind] == "skipped" else self.n
        return formats.share(self.counts[kind] / of) if of else formats.NOTHING


def share_rows(runs: Sequence[Run]) -> list[ShareRow]:
    """Benchmark by benchmark, the runs under each other."""
    names = dict.fromkeys(shard.benchmark for run in runs for shard in run.results.shards)
    rows = []
    for name in names:
        for run in runs:
            mine = [shard for shard in run.results.shards if shard.benchmark == name]
            counts = tuple(sum(getattr(shard, kind) for shard in mine) for kind in KINDS)
            if mine:
                rows.append(ShareRow(run, name, sum(shard.n for shard in mine), counts))
    return rows
