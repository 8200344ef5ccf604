"""Comparing means of different samples, when somebody asks for it: far less power, and labelled as what it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from lr2eval._version import __version__
from lr2eval.comparisons.compare import Key, effective_length_of, groups, points
from lr2eval.comparisons.pairing import PairedShard, to_mind
from lr2eval.comparisons.sources import Source
from lr2eval.errors import NotComparableError
from lr2eval.record.comparison import Comparison, Difference, Pair, Side
from lr2eval.record.results import Interval
from lr2eval.stats.paired import Array, independent_interval

LABEL = "unpaired: means of different samples, so the intervals are several times wider than those of pairs"


def compare_unpaired(original: Source, extended: Sequence[Source], *, confidence: float) -> Comparison:
    """Rows for the shards both runs have, whatever their samples. Intervals: Newcombe (1998) from score intervals.

    Raises :class:`NotComparableError` when no shard is in both.
    """
    return Comparison(
        lr2eval_version=__version__,
        confidence=confidence,
        original=original.side,
        pairs=[
            Pair(
                extended=source.side,
                paired=False,
                differences=_rows(original, source, confidence),
                left_out=[],
                mind=[LABEL, *_tokenizers(original.side, source.side), *to_mind(original.side, source.side)],
            )
            for source in extended
        ],
        effective_lengths=[found for s in (original, *extended) if (found := effective_length_of(s)) is not None],
    )


def _tokenizers(original: Side, extended: Side) -> list[str]:
    same = original.model.tokenizer_fingerprint == extended.model.tokenizer_fingerprint
    return [] if same else ["the models have different tokenizers: a length holds another amount of text for each"]


def _rows(original: Source, extended: Source, confidence: float) -> list[Difference]:
    both = []
    for name, after in extended.shards.items():
        before = original.shards.get(name)
        if before is not None and before.metric == after.metric:
            first, second = (shard.scores[~np.isnan(shard.scores)] / 100 for shard in (before, after))
            if len(first) and len(second):
                both.append(PairedShard(name, after.benchmark, after.task, after.length, first, second, [], []))
    if not both:
        raise NotComparableError(
            f"{original.side.label} and {extended.side.label} share no task at any length; run both on the same tasks"
        )
    return [_row(key, members, extended.headline, confidence) for key, members in groups(both).items()]


def _row(key: Key, members: Sequence[PairedShard], headline: Mapping[str, str], confidence: float) -> Difference:
    level, benchmark, task, length = key
    over = headline.get(benchmark, "samples") if level in ("benchmark", "length") else "tasks"
    before, after = _mean(members, "original", over), _mean(members, "extended", over)
    two_sided = 2 * confidence - 1
    if over == "samples" or len(members) == 1:
        limits = independent_interval(_joined(members, "original"), _joined(members, "extended"), two_sided)
    else:
        # MOVER (Zou and Donner 2008) from the intervals of the single shards.
        parts = [(s.extended.mean() - s.original.mean(), *independent_interval(s.original, s.extended, two_sided))
                 for s in members]  # fmt: skip
        below = math.sqrt(sum((mean - low) ** 2 for mean, low, _ in parts)) / len(parts)
        above = math.sqrt(sum((high - mean) ** 2 for mean, _, high in parts)) / len(parts)
        limits = after - before - below, after - before + above
    binary = all(bool(np.isin(s, (0.0, 1.0)).all()) for m in members for s in (m.original, m.extended))
    return Difference(
        level=level,
        benchmark=benchmark,
        task=task,
        length=length,
        over="tasks" if over == "tasks" else "samples",
        shards=len(members),
        n=sum(len(shard.extended) for shard in members),
        original=points(before),
        extended=points(after),
        difference=points(after - before),
        interval=Interval(
            low=points(limits[0]), high=points(limits[1]), confidence=round(two_sided, 12), method="newcombe"
        ),
        retention=None if before == 0 else round(after / before, 12),
        retention_interval=None,
        binary=binary,
        lost=0,
        gained=0,
        p_changed=_p(members, over, after - before),
        p_method="unpaired z",
        p_holm=None,
        clusters=None,
        design_effect=1.0,
    )


def _joined(members: Sequence[PairedShard], side: str) -> Array:
    return np.concatenate([getattr(shard, side) for shard in members])


def _mean(members: Sequence[PairedShard], side: str, over: str) -> float:
    if over == "samples":
        return float(_joined(members, side).mean())
    return math.fsum(float(getattr(shard, side).mean()) for shard in members) / len(members)


def _p(members: Sequence[PairedShard], over: str, difference: float) -> float:
    """Two-sided p value of an unpaired z test; 1 where nothing varies and nothing differs."""
    variance = 0.0
    for side in ("original", "extended"):
        total = sum(len(getattr(shard, side)) for shard in members)
        for shard in members:
            scores: Array = getattr(shard, side)
            weight = len(scores) / total if over == "samples" else 1 / len(members)
            variance += weight**2 * float(scores.var()) / len(scores)
    if variance == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stats.norm.sf(abs(difference) / math.sqrt(variance)))
