"""From stored samples to ``results.json``: shard results and the means over shards."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from lr2eval.benchmark import Shard
from lr2eval.record.results import NAMES, CellResult, Interval, OverLengths, ShardResult, Summary
from lr2eval.record.store import Scored, StoredSample
from lr2eval.stats.scores import RULER_THRESHOLD, effective_length, mover_mean, weighted_averages, wilson

CONFIDENCE = 0.95

_REFUSAL = re.compile(
    r"""[\s*_"'#>]*(
        (i'm|i\ am)\ (so\ |very\ |really\ |truly\ )?sorry\b
      | (i'm\ |i\ am\ )?sorry,?\ (but\ )?(i|as\ an)\b
      | (my\ apologies,?|i\ apologi[sz]e,?|unfortunately,?)\ (but\ )?
        i('m|\ am|\ can't|\ cannot|\ can\ not|\ do\ not|\ don't)\b
      | i\ (cannot|can't|can\ not|won't|will\ not|am\ not\ able\ to|am\ unable\ to)\b
      | i'm\ (not\ able|unable)\ to\b
      | as\ an?\ (ai|artificial\ intelligence|large\ language\ model|language\ model)
        (\ (language\ )?(model|assistant|chatbot|system))?(\ (developed|created|trained|made)\ by\ [^,]{1,40})?
        ,?\ (i\b|my\b|it\b)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
"""How chat models begin when they decline, in English. Only the beginning counts: a quoted "I cannot" is an answer."""


def shard_result(shard: Shard | ShardResult, samples: Iterable[StoredSample | Scored]) -> ShardResult:
    """Score, interval and shares of one finished shard. From a :class:`ShardResult` only its names and facts are taken,
    and the result has the cells of the column that gives those of ``shard``."""
    rows = [sample.scored if isinstance(sample, StoredSample) else sample for sample in samples]
    column = shard.cells if isinstance(shard, Shard) else _column_of(shard.cells, rows)
    scored = [row for row in rows if not row.skipped and row.score is not None]
    scores = [row.score / 100 for row in scored if row.score is not None]
    mean = math.fsum(scores) / len(scores) if scores else None
    return ShardResult(
        **{name: getattr(shard, name) for name in NAMES},
        n=len(scores),
        score=None if mean is None else _percent(mean),
        interval=None if mean is None or not _bounded(scores) else _interval(wilson(mean, len(scores)), "wilson"),
        empty=sum(not row.answer.strip() for row in scored),
        refused=sum(not row.chosen and refuses(row.answer) for row in scored),
        truncated=sum(row.truncated_tokens > 0 for row in scored),
        skipped=sum(row.skipped for row in rows),
        windows=dict(sorted(Counter(row.window for row in scored).items())),
        prompt_tokens=sum(row.prompt_tokens for row in scored),
        new_tokens=sum(row.new_tokens for row in scored),
        data=dict(shard.data),
        cells=_cells(scored, column) if column and _bounded(scores) else [],
    )


def refuses(answer: str) -> bool:
    """Whether an answer begins with one of the usual English refusals, typographic apostrophes and all."""
    plain = answer[:200].replace("\u2019", "'").replace("\u02bc", "'")
    return _REFUSAL.match(" ".join(plain.split())) is not None


def _column_of(cells: Sequence[CellResult], rows: Sequence[Scored]) -> str | None:
    """The column whose values ``cells`` are for: results name no column, and a plug-in may have any."""
    depths = {cell.depth for cell in cells}
    names = dict.fromkeys(name for row in rows for name in row.columns) if cells else ()
    for name in names:
        values = [row.columns.get(name) for row in rows if row.score is not None]
        if {float(value) for value in values if isinstance(value, int | float)} == depths:
            return name
    return "depth" if cells else None


def _cells(scored: Sequence[Scored], column: str) -> list[CellResult]:
    """Score by value of a sample column, ascending; samples without a value belong to no cell."""
    groups: dict[float, list[float]] = defaultdict(list)
    for row in scored:
        depth = row.columns.get(column)
        if isinstance(depth, int | float) and row.score is not None:
            groups[float(depth)].append(row.score / 100)
    cells = []
    for depth, scores in sorted(groups.items()):
        mean, n = math.fsum(scores) / len(scores), len(scores)
        cells.append(CellResult(depth=depth, n=n, score=_percent(mean), interval=_interval(wilson(mean, n), "wilson")))
    return cells


def summaries(shards: Sequence[ShardResult], headline: Mapping[str, Literal["tasks", "samples"]]) -> list[Summary]:
    """Means of each benchmark at each length, over tasks (each task counts the same) and over samples."""
    groups: dict[tuple[str, int | None], list[ShardResult]] = defaultdict(list)
    for shard in shards:
        if shard.n and shard.interval is not None:
            groups[shard.benchmark, shard.length].append(shard)
    rows = []
    for (benchmark, length), members in groups.items():
        means = [member.score / 100 for member in members if member.score is not None]
        ns = [member.n for member in members]
        total = sum(ns)
        by_sample = math.fsum(mean * n for mean, n in zip(means, ns, strict=True)) / total
        for over, mean, interval in (
            ("tasks", math.fsum(means) / len(means), _interval(mover_mean(means, ns), "mover-wilson")),
            ("samples", by_sample, _interval(wilson(min(1.0, by_sample), total), "wilson")),
        ):
            rows.append(
                Summary(
                    benchmark=benchmark,
                    length=length,
                    over=over,
                    headline=headline.get(benchmark, "samples") == over,
                    score=_percent(mean),
                    interval=interval,
                    n=total,
                    tasks=len(members),
                )
            )
    return rows


def over_lengths(shards: Sequence[ShardResult]) -> list[OverLengths]:
    """RULER's effective length and weighted averages, over the lengths at which all its tasks were scored.

    A length without a score for each task (an unfinished run, every sample skipped) would average other tasks.
    """
    scores: dict[int, dict[str, float]] = defaultdict(dict)
    tasks = set()
    for shard in shards:
        if shard.benchmark == "ruler" and shard.length is not None:
            tasks.add(shard.task)
            if shard.score is not None:
                scores[shard.length][shard.task] = shard.score
    whole = {length: found for length, found in sorted(scores.items()) if len(found) == len(tasks)}
    if not whole:
        return []
    means = {length: math.fsum(found.values()) / len(found) for length, found in whole.items()}
    weighted = weighted_averages(means)
    return [
        OverLengths(
            benchmark="ruler",
            tasks=len(tasks),
            lengths=list(means),
            threshold=RULER_THRESHOLD,
            effective_length=effective_length(means),
            weighted_increasing=None if weighted is None else round(weighted[0], 10),
            weighted_decreasing=None if weighted is None else round(weighted[1], 10),
        )
    ]


def _bounded(scores: Sequence[float]) -> bool:
    return all(0.0 <= score <= 1.0 for score in scores)


def _interval(limits: tuple[float, float], method: str) -> Interval:
    return Interval(low=_percent(limits[0]), high=_percent(limits[1]), confidence=CONFIDENCE, method=method)


def _percent(value: float) -> float:
    # Ten digits: enough for any n, and free of the last-bit noise of different summation orders.
    return round(100 * value, 10)
