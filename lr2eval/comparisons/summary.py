"""What a newcomer wants to know of two runs, in three sentences: does long work, what did short cost, the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from lr2eval.base.units import format_length
from lr2eval.comparisons.compare import Compared
from lr2eval.comparisons.gate import default_checks, judge
from lr2eval.comparisons.gate_config import GateConfig
from lr2eval.comparisons.sources import ShardScores, Source
from lr2eval.record.comparison import Check, Gate

_FOUND: Mapping[str, str] = {
    "pass": "PASS: what the original could do in its window is kept",
    "regression": "REGRESSION: more is lost in the original's window than allowed",
    "inconclusive": "INCONCLUSIVE: these samples do not tell whether the original's skill is kept",
    "not comparable": "NOT COMPARABLE",
}


def judge_inside(compared: Compared) -> Gate | None:
    """The default gate on what fits into the original's window; ``None`` where nothing does.

    Gains beyond the window say nothing about what was lost within, so they must not be averaged with it.
    """
    window = compared.original.side.model.window
    names = []
    for shard in compared.shards:
        if shard.length is None:
            names += [name for name in default_checks(compared) if name in (shard.benchmark, shard.task)]
        elif shard.length <= window:
            names.append(f"{shard.benchmark}@{format_length(shard.length)}")
    return judge(compared, GateConfig(tasks=tuple(dict.fromkeys(names)))) if names else None


def in_short(compared: Compared, gate: Gate | None) -> list[str]:
    """Three sentences; each says what it cannot tell where the runs hold nothing about it."""
    return [_long(compared), _short(gate), _verdict(gate)]


def _long(compared: Compared) -> str:
    original, extended = compared.original, compared.extended
    window = original.side.model.window
    lengths = [shard.length for shard in extended.shards.values() if shard.length is not None and shard.length > window]
    if not lengths:
        return f"Does long work? Nothing was run beyond the original window of {format_length(window)} tokens."
    longest = max(lengths)
    parts = []
    for benchmark in dict.fromkeys(shard.benchmark for shard in extended.shards.values()):
        after = _at(extended, benchmark, longest)
        if after is None:
            continue
        before = _at(original, benchmark, longest)
        was = "the original was not run there" if before is None else f"the original {before[0]:.1f}"
        parts.append(f"{benchmark} {after[0]:.1f} ({was}; n = {after[1]:,})")
    return f"Does long work? At {format_length(longest)} tokens {extended.side.label} scores {'; '.join(parts)}."


def _short(gate: Gate | None) -> str:
    if gate is None:
        return "What did short cost? Nothing was run inside the original window."
    checks: dict[str, Check] = {check.name: check for check in gate.checks}
    return f"What did short cost? Inside the original window {'; '.join(map(_kept, checks.values()))}."


def _kept(check: Check) -> str:
    low, high = check.interval.low, check.interval.high
    return (
        f"{check.name} {check.original:.1f} -> {check.extended:.1f} ({check.difference:+.1f} points, "
        f"{low:+.1f} to {high:+.1f}, n = {check.n:,})"
    )


def _verdict(gate: Gate | None) -> str:
    if gate is None:
        return "Verdict: none, because there are no samples inside the original window."
    limits = ", ".join(dict.fromkeys(check.criterion for check in gate.checks))
    return f"Verdict: {_FOUND[gate.verdict]} ({limits}, {100 * gate.confidence:g} % sure)."


def _at(source: Source, benchmark: str, length: int) -> tuple[float, int] | None:
    """(mean, samples) of a benchmark at a length, every task or every sample counting the same as its headline does."""
    shards: Sequence[ShardScores] = [
        shard for shard in source.shards.values() if (shard.benchmark, shard.length) == (benchmark, length)
    ]
    scores = [shard.scores[~np.isnan(shard.scores)] for shard in shards]
    scores = [each for each in scores if len(each)]
    if not scores:
        return None
    by_task = source.headline.get(benchmark, "samples") == "tasks"
    mean = np.mean([each.mean() for each in scores]) if by_task else np.concatenate(scores).mean()
    return float(mean), sum(map(len, scores))
