"""What a newcomer wants to know about two runs: does the long window work, what did it cost, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lr2eval.base.units import format_length
from lr2eval.comparisons.compare import Compared
from lr2eval.comparisons.gate import default_checks, judge
from lr2eval.comparisons.gate_config import GateConfig
from lr2eval.comparisons.sources import Source
from lr2eval.record.comparison import Check, Gate

_FOUND: Mapping[str, str] = {
    "pass": "PASS: the extended model keeps the original's skill within the original window",
    "regression": "REGRESSION: the loss within the original window is larger than allowed",
    "inconclusive": "INCONCLUSIVE: the samples do not show whether the loss within the original window is acceptable",
}


def judge_inside(compared: Compared) -> Gate | None:
    """The default gate on what fits into the original window; ``None`` where nothing does.

    Gains beyond the window say nothing about losses within it, so the two must not be averaged.
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
    """Three sentences. A sentence says so if the runs hold nothing about its question."""
    cost, verdict = "Nothing was run within the original window", "none, nothing was run within the original window"
    if gate is not None:
        cost = f"Within the original window: {'; '.join(map(_kept, gate.checks))}"
        limits = ", ".join(dict.fromkeys(check.criterion for check in gate.checks))
        verdict = f"{_FOUND[gate.verdict]} (limit: {limits}; confidence: {100 * gate.confidence:g} %)"
    return [_long(compared), f"What did it cost on short inputs? {cost}.", f"Verdict: {verdict}."]


def _long(compared: Compared) -> str:
    original, extended = compared.original, compared.extended
    window = original.side.model.window
    longest = max((shard.length or 0 for shard in extended.shards.values()), default=0)
    if longest <= window:
        return (
            f"Does the long window work? Nothing was run beyond the original window of {format_length(window)} tokens."
        )
    parts = []
    for benchmark in dict.fromkeys(shard.benchmark for shard in extended.shards.values()):
        after, before = _at(extended, benchmark, longest), _at(original, benchmark, longest)
        if after is not None:
            was = "not run" if before is None else f"{before[0]:.1f}"
            parts.append(f"{benchmark} {after[0]:.1f} (original: {was}; n = {after[1]:,})")
    at = format_length(longest)
    return f"Does the long window work? At {at} tokens, {extended.side.label} scores {'; '.join(parts)}."


def _kept(check: Check) -> str:
    low, high = check.interval.low, check.interval.high
    return (
        f"{check.name} {check.original:.1f} -> {check.extended:.1f} ({check.difference:+.1f} points, "
        f"interval {low:+.1f} to {high:+.1f}, n = {check.n:,})"
    )


def _at(source: Source, benchmark: str, length: int) -> tuple[float, int] | None:
    """(mean, samples) of a benchmark at a length, with equal weights for tasks or samples as in its headline."""
    shards = [shard for shard in source.shards.values() if (shard.benchmark, shard.length) == (benchmark, length)]
    scores = [found for shard in shards if len(found := shard.scores[~np.isnan(shard.scores)])]
    if not scores:
        return None
    by_task = source.headline.get(benchmark, "samples") == "tasks"
    mean = np.mean([each.mean() for each in scores]) if by_task else np.concatenate(scores).mean()
    return float(mean), sum(map(len, scores))
