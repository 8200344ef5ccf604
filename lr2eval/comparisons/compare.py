"""From paired samples to the rows of a comparison: every level, every number that a report or a gate shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from lr2eval._version import __version__
from lr2eval.comparisons import baseline
from lr2eval.comparisons.pairing import PairedShard, TwoWindows, pair, pair_windows, to_mind
from lr2eval.comparisons.sources import Headline, Source, labels, read_run
from lr2eval.errors import NotComparableError, UsageError
from lr2eval.record.comparison import (
    CellDifference,
    Comparison,
    Difference,
    EffectiveLength,
    Gain,
    Level,
    Pair,
    RatioInterval,
)
from lr2eval.record.results import Interval
from lr2eval.stats.paired import (
    Array,
    Paired,
    changed,
    difference_interval,
    effective_length_shares,
    holm,
    retention_interval,
)
from lr2eval.stats.scores import RULER_THRESHOLD, effective_length

CONFIDENCE = 0.95

Key = tuple[Level, str, str | None, int | None]
"""(level, benchmark, task, length) of a row."""


@dataclass(frozen=True)
class Compared:
    """The original against one extended model: the pairs, for those who test them, and what is stored of them."""

    original: Source
    extended: Source
    shards: Sequence[PairedShard]
    pair: Pair

    def headline(self, benchmark: str) -> Headline:
        """What the benchmark's one number counts the same."""
        return self.extended.headline.get(benchmark, "samples")


@dataclass(frozen=True)
class Compare:
    """A whole comparison, in memory."""

    comparison: Comparison
    compared: Sequence[Compared] = field(default_factory=list)


def read_all(paths: Sequence[Path]) -> list[Source]:
    """Run folders, the first perhaps a baseline file, with labels that tell them apart."""
    first = baseline.load_baseline(paths[0]) if paths[0].is_file() else None
    rest = paths[1:] if first else paths
    for path in rest:
        if path.is_file():
            raise UsageError(f"{path}: is a file; only the original may be a baseline file, give run folders otherwise")
    sources = [*([first] if first else []), *(read_run(path, path.name) for path in rest)]
    names = labels([s.side.model.name for s in sources], [s.side.source for s in sources])
    return [
        Source(s.side.model_copy(update={"label": name}), s.shards, s.headline, s.not_run)
        for s, name in zip(sources, names, strict=True)
    ]


def compare(
    original: Source,
    extended: Sequence[Source],
    *,
    confidence: float = CONFIDENCE,
    common: bool = False,
    noise: Sequence[Source] = (),
) -> Compare:
    """Compare each extended run with the original on the same samples.

    ``confidence`` is that of each end of an interval. ``common`` leaves out what only one run has instead of refusing.
    ``noise`` are repeats of the original: what differs there without any change of the model.
    Raises :class:`NotComparableError` with the first reason.
    """
    if not 0.5 < confidence < 1:
        raise UsageError(f"--confidence {confidence}: must lie between 0.5 and 1, for example 0.95")
    floor = _noise_floor(original, noise)
    compared = []
    for source in extended:
        shards, left_out = pair(original, source, common=common)
        differences = _rows(shards, source, confidence, floor)
        items, alone = pair_windows(original, source)
        compared.append(
            Compared(
                original,
                source,
                shards,
                Pair(
                    extended=source.side,
                    paired=True,
                    differences=differences,
                    left_out=left_out + alone,
                    mind=to_mind(original.side, source.side),
                    gains=_gains(items, source, confidence),
                ),
            )
        )
    return Compare(
        Comparison(
            lr2eval_version=__version__,
            confidence=confidence,
            original=original.side,
            pairs=[each.pair for each in compared],
            effective_lengths=[found for s in (original, *extended) if (found := effective_length_of(s)) is not None],
            noise_runs=[source.side.source for source in noise],
        ),
        compared,
    )


def together(shards: Sequence[PairedShard], over: Headline, weights: Mapping[str, float] | None = None) -> Paired:
    """The pairs of several shards as one: every shard (``tasks``) or every sample (``samples``) counts the same.

    ``weights`` (task -> relative weight, 1 where absent) multiply either. Samples of one document, at whatever length,
    are one cluster.
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
        # Samples without a document stand for themselves.
        keys: Iterable[object] = (d if d[1] is not None else i for i, d in enumerate(documents))
        clusters = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    return Paired(
        original=np.concatenate([shard.original for shard in shards]),
        extended=np.concatenate([shard.extended for shard in shards]),
        weights=None if np.allclose(w, 1.0, rtol=0, atol=1e-12) else w,
        clusters=clusters,
    )


def groups(shards: Sequence[PairedShard]) -> dict[Key, list[PairedShard]]:
    """The shards behind every row, benchmarks first; levels that would repeat another are left out."""
    lengths: dict[tuple[str, str], int] = Counter((s.benchmark, s.task) for s in shards)
    found: dict[Key, list[PairedShard]] = {}
    for shard in shards:
        found.setdefault(("benchmark", shard.benchmark, None, None), []).append(shard)
    for shard in shards:
        if shard.length is not None:
            found.setdefault(("length", shard.benchmark, None, shard.length), []).append(shard)
    for shard in shards:
        if lengths[shard.benchmark, shard.task] > 1:
            found.setdefault(("task", shard.benchmark, shard.task, None), []).append(shard)
    for shard in shards:
        found["shard", shard.benchmark, shard.task, shard.length] = [shard]
    return found


def _rows(
    shards: Sequence[PairedShard], source: Source, confidence: float, floor: Mapping[Key, float]
) -> list[Difference]:
    rows = []
    for key, members in groups(shards).items():
        level, benchmark, _, _ = key
        over = source.headline.get(benchmark, "samples") if level in ("benchmark", "length") else "tasks"
        rows.append(_row(key, members, over, confidence, floor.get(key)))
    adjusted: dict[int, float] = {}
    for level in ("task", "shard"):
        places = [i for i, row in enumerate(rows) if row.level == level]
        adjusted |= dict(zip(places, holm([rows[i].p_changed for i in places]), strict=True))
    return [row.model_copy(update={"p_holm": adjusted.get(i)}) for i, row in enumerate(rows)]


def _gains(tasks: Sequence[TwoWindows], source: Source, confidence: float) -> list[Gain]:
    """Per benchmark and pair of windows its mean, then its data sets with Holm's adjustment over all of them."""
    totals: dict[tuple[str, int, int], list[TwoWindows]] = {}
    for task in tasks:
        totals.setdefault((task.benchmark, task.window, task.length or 0), []).append(task)

    def gain(level: Level, members: Sequence[TwoWindows]) -> Gain:
        first = members[0]
        over: Headline = source.headline.get(first.benchmark, "samples") if level == "benchmark" else "tasks"
        key = level, first.benchmark, None if level == "benchmark" else first.task, first.length
        row = _row(key, members, over, confidence, None)
        return Gain(**row.model_dump(), window=first.window, cut=sum(member.cut for member in members))

    rows = [gain("task", [task]) for task in tasks]
    adjusted = holm([row.p_changed for row in rows])
    rows = [row.model_copy(update={"p_holm": p}) for row, p in zip(rows, adjusted, strict=True)]
    return [
        row
        for (benchmark, window, length), members in totals.items()
        for row in (
            gain("benchmark", members),
            *(r for r in rows if (r.benchmark, r.window, r.length) == (benchmark, window, length)),
        )
    ]


def _row(
    key: Key, members: Sequence[PairedShard], over: Headline, confidence: float, noise: float | None
) -> Difference:
    level, benchmark, task, length = key
    paired = together(members, over)
    before, after = paired.means()
    p, method = changed(paired)
    cells = _cells(members[0], confidence) if level == "shard" and members[0].depths else []
    clusters = None if paired.clusters is None else len(set(paired.clusters.tolist()))
    retention, kept = retained(paired, confidence)
    return Difference(
        level=level,
        benchmark=benchmark,
        task=task,
        length=length,
        over=over,
        shards=len(members),
        n=paired.n,
        original=points(before),
        extended=points(after),
        difference=points(after - before),
        interval=interval(paired, confidence),
        retention=retention,
        retention_interval=kept,
        binary=paired.binary,
        lost=paired.lost,
        gained=paired.gained,
        p_changed=p,
        p_method=method,
        p_holm=None,
        clusters=clusters,
        design_effect=round(paired.design_effect(), 6),
        noise=noise,
        cells=cells,
    )  # fmt: skip


def interval(paired: Paired, confidence: float) -> Interval:
    """The two-sided interval of the difference whose ends are one-sided bounds at ``confidence``, in points."""
    low, high = difference_interval(paired, 2 * confidence - 1)
    return Interval(low=points(low), high=points(high), confidence=round(2 * confidence - 1, 12), method="score")


def retained(paired: Paired, confidence: float) -> tuple[float | None, RatioInterval | None]:
    """(extended / original, its two-sided interval); nothing where the original scores 0."""
    before, after = paired.means()
    if before == 0:
        return None, None
    low, high = retention_interval(paired, 2 * confidence - 1)
    return round(after / before, 12), RatioInterval(
        low=round(low, 12),
        high=None if high is None else round(high, 12),
        confidence=round(2 * confidence - 1, 12),
        method="score",
    )


def points(share: float) -> float:
    """0..1 to points, without the last-bit noise of summation orders."""
    return round(100 * share, 10) + 0.0


def _cells(shard: PairedShard, confidence: float) -> list[CellDifference]:
    cells = []
    for depth in sorted({d for d in shard.depths if d is not None}):
        chosen = np.array([d == depth for d in shard.depths])
        paired = Paired(shard.original[chosen], shard.extended[chosen])
        before, after = paired.means()
        cells.append(
            CellDifference(
                depth=depth,
                n=paired.n,
                original=points(before),
                extended=points(after),
                difference=points(after - before),
                interval=interval(paired, confidence),
            )
        )
    return cells


def _noise_floor(original: Source, repeats: Sequence[Source]) -> dict[Key, float]:
    """Largest |difference| in points between the original and its repeats, by row."""
    floor: dict[Key, float] = {}
    for repeat in repeats:
        if repeat.side.model.fingerprint != original.side.model.fingerprint:
            raise NotComparableError(
                f"{repeat.side.label}: no repeat of {original.side.label}, its model is another; a noise floor needs "
                "runs of the original model"
            )
        shards, _ = pair(original, repeat, common=True)
        for key, members in groups(shards).items():
            over: Literal["tasks", "samples"] = (
                original.headline.get(key[1], "samples") if key[0] in ("benchmark", "length") else "tasks"
            )
            before, after = together(members, over).means()
            floor[key] = max(floor.get(key, 0.0), abs(points(after - before)))
    return floor


def effective_length_of(source: Source) -> EffectiveLength | None:
    """RULER's effective length over the lengths at which all its tasks were scored; ``None`` below two lengths."""
    ruler = [shard for shard in source.shards.values() if shard.benchmark == "ruler" and shard.length is not None]
    tasks = {shard.task for shard in ruler}
    by_length: dict[int, list[Array]] = {}
    for shard in ruler:
        scores = shard.scores[~np.isnan(shard.scores)] / 100
        if len(scores):
            by_length.setdefault(shard.length or 0, []).append(scores)
    whole = {length: found for length, found in by_length.items() if len(found) == len(tasks)}
    if len(whole) < 2:
        return None
    means = {n: 100 * math.fsum(float(s.mean()) for s in found) / len(found) for n, found in whole.items()}
    shares = effective_length_shares(whole, RULER_THRESHOLD / 100)
    return EffectiveLength(
        label=source.side.label,
        tasks=len(tasks),
        lengths=sorted(whole),
        threshold=RULER_THRESHOLD,
        effective_length=effective_length(means),
        shares=sorted(shares.items(), key=lambda item: -item[1]),
    )
