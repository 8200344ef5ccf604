"""Two runs in three sentences: does the long window work, what did it cost on short inputs, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lr2eval.base.units import format_length
from lr2eval.comparisons.compare import PairedRuns
from lr2eval.comparisons.gate import default_checks, judge
from lr2eval.comparisons.gate_config import GateConfig
from lr2eval.comparisons.scores import RunScores
from lr2eval.record.comparison import Check, Gate

_FOUND: Mapping[str, str] = {
    "pass": "PASS: the extended model keeps the scores inside the original window",
    "regression": "REGRESSION: the extended model lost more inside the original window than the limit allows",
    "inconclusive": "INCONCLUSIVE: the samples do not show whether the scores inside the original window are kept",
}


def judge_inside_window(runs: PairedRuns) -> Gate | None:
    """The default gate on everything inside the original's window; ``None`` if nothing was run there.

    Gains beyond the window must not hide a loss inside it, so the two are never averaged.
    """
    window = runs.original.side.model.window
    names = []
    for shard in runs.shards:
        if shard.length is None:
            names += [name for name in default_checks(runs) if name in (shard.benchmark, shard.task)]
        elif shard.length <= window:
            names.append(f"{shard.benchmark}@{format_length(shard.length)}")
    return judge(runs, GateConfig(tasks=tuple(dict.fromkeys(names)))) if names else None


def three_sentences(runs: PairedRuns, gate: Gate | None) -> list[str]:
    """Each sentence says so if the runs cannot answer its question."""
    return [_long(runs.original, runs.extended), _short(gate), _verdict(gate)]


def _long(original: RunScores, extended: RunScores) -> str:
    window = original.side.model.window
    lengths = [shard.length for shard in extended.shards.values() if shard.length is not None and shard.length > window]
    if not lengths:
        return (
            f"Does the long window work? Nothing was run beyond the original window of {format_length(window)} tokens."
        )
    longest = max(lengths)
    parts = []
    for benchmark in dict.fromkeys(shard.benchmark for shard in extended.shards.values()):
        if after := _at(extended, benchmark, longest):
            before = _at(original, benchmark, longest)
            was = f"the original {before[0]:.1f}" if before else "the original was not run there"
            parts.append(f"{benchmark} {after[0]:.1f} ({was}; n = {after[1]:,})")
    at = f"At {format_length(longest)} tokens {extended.side.label} scores {'; '.join(parts)}."
    return f"Does the long window work? {at}"


def _short(gate: Gate | None) -> str:
    if gate is None:
        return "What did it cost on short inputs? Nothing was run inside the original window."
    checks = {check.name: check for check in gate.checks}
    return f"What did it cost on short inputs? Inside the original window {'; '.join(map(_kept, checks.values()))}."


def _kept(check: Check) -> str:
    low, high = check.interval.low, check.interval.high
    return (
        f"{check.name} {check.original:.1f} -> {check.extended:.1f} ({check.difference:+.1f} points, "
        f"interval {low:+.1f} to {high:+.1f}, n = {check.n:,})"
    )


def _verdict(gate: Gate | None) -> str:
    if gate is None:
        return "Verdict: none, because there are no samples inside the original window."
    limits = ", ".join(dict.fromkeys(check.criterion for check in gate.checks))
    return f"Verdict: {_FOUND[gate.verdict]} ({limits}; {100 * gate.confidence:g} % confidence)."


def _at(run: RunScores, benchmark: str, length: int) -> tuple[float, int] | None:
    """(mean, samples) of a benchmark at a length, weighted like its headline number."""
    shards = [shard for shard in run.shards.values() if (shard.benchmark, shard.length) == (benchmark, length)]
    scores = [kept for shard in shards if len(kept := shard.scores[~np.isnan(shard.scores)])]
    if not scores:
        return None
    by_task = run.weighting("benchmark", benchmark) == "tasks"
    mean = np.mean([each.mean() for each in scores]) if by_task else np.concatenate(scores).mean()
    return float(mean), sum(map(len, scores))
