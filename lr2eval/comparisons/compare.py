"""Make a comparison from the scores of runs: the rows of all levels, with every number that is shown later."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from lr2eval._version import __version__
from lr2eval.base.visible import labels
from lr2eval.comparisons.baseline import load_baseline
from lr2eval.comparisons.pairing import PairedShard, TwoWindows, caveats, matched, pair, pair_windows
from lr2eval.comparisons.scores import Headline, RunScores, read_run
from lr2eval.errors import NotComparableError, UsageError
from lr2eval.record.comparison import (
    CellDifference,
    Comparison,
    Difference,
    EffectiveLength,
    Gain,
    Level,
    Pair,
    Rank,
    RatioInterval,
)
from lr2eval.record.results import Interval
from lr2eval.stats.paired import (
    Paired,
    changed,
    difference_interval,
    effective_range,
    holm,
    retention_interval,
)
from lr2eval.stats.scores import RULER_THRESHOLD, effective_length, mover_mean

CONFIDENCE = 0.95
RANKING_BOUND = 0.975
"""Confidence of each bound of the 95 % intervals of a ranking."""

Key = tuple[Level, str, str | None, int | None, bool]
"""(level, benchmark, task, length, whether beyond the original's window) of a row."""


@dataclass(frozen=True)
class PairedRuns:
    """The original and one extended model: the pairs of scores, and the record of their comparison."""

    original: RunScores
    extended: RunScores
    shards: Sequence[PairedShard]
    record: Pair


def read_all(paths: Sequence[Path]) -> list[RunScores]:
    """Read run folders, with distinct labels. The first path may be a baseline file."""
    for path in paths[1:]:
        if path.is_file():
            raise UsageError(f"{path}: only the original may be a baseline file; give the folder of a run here")
    runs = [load_baseline(path) if path.is_file() else read_run(path) for path in paths]
    names = labels([run.side.model.name for run in runs], [run.side.source for run in runs])
    return [
        replace(run, side=run.side.model_copy(update={"label": name})) for run, name in zip(runs, names, strict=True)
    ]


def compare_runs(
    original: RunScores,
    extended: Sequence[RunScores],
    *,
    confidence: float = CONFIDENCE,
    common: bool = False,
    noise: Sequence[RunScores] = (),
) -> tuple[Comparison, list[PairedRuns]]:
    """Compare each extended run with the original on the same samples.

    ``confidence`` applies to each end of an interval. With ``common``, what only one run has is left out; otherwise it
    is an error. ``noise`` are repeats of the original; their differences show what changes without any change of the
    model. Raises :class:`NotComparableError` with the first reason.
    """
    if not 0.5 < confidence < 1:
        raise UsageError(f"--confidence {confidence}: must be between 0.5 and 1, for example 0.95")
    floor, window = _noise_floor(original, noise), original.side.model.window
    pairs = []
    for run in extended:
        shards, left_out = pair(original, run, common=common)
        items, unpaired_items = pair_windows(original, run)
        record = Pair(
            extended=run.side,
            differences=_rows(shards, window, run, confidence, floor),
            left_out=left_out + unpaired_items,
            caveats=caveats(original.side, run.side),
            gains=_gains(items, run, confidence),
        )
        pairs.append(PairedRuns(original, run, shards, record))
    comparison = Comparison(
        lr2eval_version=__version__,
        confidence=confidence,
        original=original.side,
        pairs=[each.record for each in pairs],
        effective_lengths=[found for run in (original, *extended) if (found := _effective_length(run, confidence))],
        noise_runs=[run.side.source for run in noise],
    )
    return comparison, pairs


def pool(shards: Sequence[PairedShard], over: Headline, weights: Mapping[str, float] | None = None) -> Paired:
    """The pairs of several shards together. Each shard (``tasks``) or each sample (``samples``) counts the same.

    ``weights`` (task -> relative weight, 1 if absent) multiply these. The samples of one document, at any length, are
    one cluster.
    """
    sizes = np.array([len(shard.original) for shard in shards])
    share = np.array([(weights or {}).get(shard.task, 1.0) for shard in shards], float)
    per_sample = share / sizes if over == "tasks" else share
    w = np.repeat(per_sample, sizes)
    w *= len(w) / w.sum()
    documents = [(s.benchmark, d) for s in shards for d in (s.documents or [None] * len(s.original))]
    numbers: dict[object, int] = {}
    clusters = None
    if any(d is not None for _, d in documents):
        # A sample without a document is a cluster by itself.
        keys: Iterable[object] = (d if d[1] is not None else i for i, d in enumerate(documents))
        clusters = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    return Paired(
        original=np.concatenate([shard.original for shard in shards]),
        extended=np.concatenate([shard.extended for shard in shards]),
        weights=None if np.allclose(w, 1.0, rtol=0, atol=1e-12) else w,
        clusters=clusters,
    )


def groups(shards: Sequence[PairedShard], window: int) -> dict[Key, list[PairedShard]]:
    """The shards of each row, those within the original's ``window`` first, then by level, benchmarks first.

    Gains beyond the window must not hide a loss within it, so no row has both. A level that would repeat another one
    is omitted.
    """
    lengths: dict[tuple[str, str, bool], int] = Counter((s.benchmark, s.task, s.beyond(window)) for s in shards)
    found: dict[Key, list[PairedShard]] = {}
    for shard in shards:
        benchmark, beyond = shard.benchmark, shard.beyond(window)
        keys: list[Key] = [("benchmark", benchmark, None, None, beyond)]
        if shard.length is not None:
            keys.append(("length", benchmark, None, shard.length, beyond))
        if lengths[benchmark, shard.task, beyond] > 1:
            keys.append(("task", benchmark, shard.task, None, beyond))
        for key in (*keys, ("shard", benchmark, shard.task, shard.length, beyond)):
            found.setdefault(key, []).append(shard)
    order = ("benchmark", "length", "task", "shard")
    return dict(sorted(found.items(), key=lambda item: (item[0][-1], order.index(item[0][0]))))


def _rows(
    shards: Sequence[PairedShard], window: int, run: RunScores, confidence: float, floor: Mapping[Key, float]
) -> list[Difference]:
    rows = [_row(key, members, run, confidence, floor.get(key)) for key, members in groups(shards, window).items()]
    adjusted: dict[int, float] = {}
    for level in ("task", "shard"):
        places = [i for i, row in enumerate(rows) if row.level == level]
        adjusted |= dict(zip(places, holm([rows[i].p_changed for i in places]), strict=True))
    return [row.model_copy(update={"p_holm": adjusted.get(i)}) for i, row in enumerate(rows)]


def _gains(tasks: Sequence[TwoWindows], run: RunScores, confidence: float) -> list[Gain]:
    """For each benchmark and pair of windows its mean, then its data sets, Holm-adjusted over all of them."""

    def gain(level: Level, members: Sequence[TwoWindows]) -> Gain:
        first = members[0]
        key = level, first.benchmark, first.task if level == "task" else None, first.length, True
        row = _row(key, members, run, confidence)
        return Gain(**row.model_dump(), window=first.window, cut=sum(member.cut for member in members))

    rows = [gain("task", [task]) for task in tasks]
    adjusted = holm([row.p_changed for row in rows])
    totals: dict[tuple[str, int, int | None], tuple[list[TwoWindows], list[Gain]]] = {}
    for task, row, p in zip(tasks, rows, adjusted, strict=True):
        members, inside = totals.setdefault((task.benchmark, task.window, task.length), ([], []))
        members.append(task)
        inside.append(row.model_copy(update={"p_holm": p}))
    return [row for members, inside in totals.values() for row in (gain("benchmark", members), *inside)]


def _row(
    key: Key, members: Sequence[PairedShard], run: RunScores, confidence: float, noise: float | None = None
) -> Difference:
    level, benchmark, task, length, beyond = key
    over = run.weighting(level, benchmark)
    paired = pool(members, over)
    p, method = changed(paired)
    return Difference(
        level=level,
        benchmark=benchmark,
        task=task,
        length=length,
        beyond=beyond,
        over=over,
        shards=len(members),
        **means(paired, confidence),
        **(NO_RETENTION if beyond else retention(paired, confidence)),
        binary=paired.binary,
        lost=paired.lost,
        gained=paired.gained,
        p_changed=p,
        p_method=method,
        p_holm=None,
        clusters=None if paired.clusters is None else len(set(paired.clusters.tolist())),
        design_effect=round(paired.design_effect(), 6),
        noise=noise,
        cells=_cells(members[0], confidence) if level == "shard" and members[0].depths else [],
    )


NO_RETENTION: Mapping[str, None] = {"retention": None, "retention_interval": None}


def means(paired: Paired, confidence: float) -> dict[str, Any]:
    """``n``, the mean scores ``original`` and ``extended``, their ``difference`` and its ``interval``, in points.

    The interval is two-sided; each end is a one-sided bound at ``confidence``.
    """
    before, after = paired.means()
    two_sided = 2 * confidence - 1
    low, high = difference_interval(paired, two_sided)
    return {
        "n": paired.n,
        "original": points(before),
        "extended": points(after),
        "difference": points(after - before),
        "interval": Interval(low=points(low), high=points(high), confidence=round(two_sided, 12), method="score"),
    }


def retention(paired: Paired, confidence: float) -> dict[str, Any]:
    """``retention`` (extended / original) and ``retention_interval`` (two-sided); ``None`` if the original scores 0."""
    before, after = paired.means()
    if before == 0:
        return dict(NO_RETENTION)
    two_sided = 2 * confidence - 1
    low, high = retention_interval(paired, two_sided)
    found = RatioInterval(
        low=round(low, 12),
        high=None if high is None else round(high, 12),
        confidence=round(two_sided, 12),
        method="score",
    )
    return {"retention": round(after / before, 12), "retention_interval": found}


def ranking(pairs: Sequence[PairedRuns]) -> list[Rank]:
    """The extended runs, the best mean beyond the window first. All of them answered the same samples.

    Every task and length counts the same. p values are Holm-adjusted over all pairs of runs, whichever is the best: so
    they hold although the samples that are tested also chose it. Raises :class:`NotComparableError` for runs that did
    not answer the same samples.
    """
    window = pairs[0].original.side.model.window

    def far(one: RunScores, other: RunScores) -> list[PairedShard]:
        return [shard for shard in pair(one, other, common=False)[0] if shard.beyond(window)]

    runs = [each.extended for each in pairs]
    both = [*combinations(range(len(runs)), 2)]
    p_values = holm([changed(pool(far(runs[i], runs[j]), "tasks"))[0] for i, j in both])
    scores = [pool(far(run, run), "tasks").means()[0] for run in runs]
    order = sorted(range(len(runs)), key=lambda i: -scores[i])
    best, found = order[0], []
    for i in order:
        shards = far(runs[best], runs[i])
        low, high = mover_mean([float(s.extended.mean()) for s in shards], [len(s.extended) for s in shards])
        behind = {} if i == best else means(pool(shards, "tasks"), RANKING_BOUND)
        inside = [shard for shard in pairs[i].shards if not shard.beyond(window)]
        found.append(
            Rank(
                label=runs[i].side.label,
                score=points(scores[i]),
                interval=Interval(low=points(low), high=points(high), confidence=0.95, method="mover-wilson"),
                n=sum(len(shard.extended) for shard in shards),
                difference=behind.get("difference"),
                difference_interval=behind.get("interval"),
                p_holm=None if i == best else p_values[both.index((min(i, best), max(i, best)))],
                **(retention(pool(inside, "tasks"), RANKING_BOUND) if inside else NO_RETENTION),
            )
        )
    return found


def points(share: float) -> float:
    """0..1 to points, without the last-bit noise of summation orders."""
    return round(100 * share, 10) + 0.0


def _cells(shard: PairedShard, confidence: float) -> list[CellDifference]:
    cells = []
    for depth in sorted({d for d in shard.depths if d is not None}):
        chosen = np.array([d == depth for d in shard.depths])
        paired = Paired(shard.original[chosen], shard.extended[chosen])
        cells.append(CellDifference(depth=depth, **means(paired, confidence)))
    return cells


def _noise_floor(original: RunScores, repeats: Sequence[RunScores]) -> dict[Key, float]:
    """Row -> largest |difference| in points between the original and its repeats."""
    floor: dict[Key, float] = {}
    for repeat in repeats:
        if repeat.side.model.fingerprint != original.side.model.fingerprint:
            raise NotComparableError(
                f"--noise {repeat.side.source}: not a repeat of {original.side.label}: the model is a different "
                "one; give runs of the original model"
            )
        shards, _ = pair(original, repeat, common=True)
        for key, members in groups(shards, original.side.model.window).items():
            before, after = pool(members, original.weighting(*key[:2])).means()
            floor[key] = max(floor.get(key, 0.0), abs(points(after - before)))
    return floor


def _effective_length(run: RunScores, confidence: float) -> EffectiveLength | None:
    """RULER's effective length over the lengths that have scores of all tasks; ``None`` if there are fewer than two."""
    ruler = [shard for shard in run.shards.values() if shard.benchmark == "ruler" and shard.length is not None]
    tasks = {shard.task for shard in ruler}
    by_length: dict[int, list[PairedShard]] = {}
    for shard in ruler:
        kept = np.flatnonzero(~np.isnan(shard.scores))
        if len(kept):
            alone = matched(shard.task, run.side, shard, kept, run.side, shard, kept)  # in the place of both runs
            by_length.setdefault(shard.length or 0, []).append(alone)
    whole = {length: found for length, found in by_length.items() if len(found) == len(tasks)}
    if len(whole) < 2:
        return None
    by_mean = {n: 100 * math.fsum(float(s.extended.mean()) for s in found) / len(found) for n, found in whole.items()}
    pooled = {length: pool(found, "tasks") for length, found in whole.items()}
    low, high = effective_range(pooled, RULER_THRESHOLD / 100, confidence)
    return EffectiveLength(
        label=run.side.label,
        tasks=len(tasks),
        lengths=sorted(whole),
        threshold=RULER_THRESHOLD,
        effective_length=effective_length(by_mean),
        low=low,
        high=high,
        confidence=confidence,
        n=min(scores.n for scores in pooled.values()),
    )
