"""What a reader must mind before believing a number. Nothing is silent (D5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lr2eval.record.comparison import Comparison, Gate, LeftOut
from lr2eval.record.results import ShardResult
from lr2eval.reports import formats
from lr2eval.reports.load import Key, Run, keys, sides

FEW = 30
"""Below this many samples an interval is so wide that a cell tells little by itself."""


@dataclass(frozen=True)
class Part:
    """What one run has to say under a notice."""

    run: Key
    text: str
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Notice:
    """One thing to mind; ``grave`` ones change what the numbers mean, the others how far they carry."""

    title: str
    text: str
    grave: bool
    parts: tuple[Part, ...]


def notices(runs: Sequence[Run], comparison: Comparison | None = None, gate: Gate | None = None) -> list[Notice]:
    """Everything to mind, the grave things first; what concerns the comparison before what concerns a run."""
    kinds: tuple[tuple[str, str, bool, Callable[[Run], Part | None]], ...] = (
        ("Unfinished run", "Only finished shards are shown. The same command resumes the run.", True, _unfinished),
        ("Asked for but not run", "Missing from every mean below.", True, _not_run),
        ("Stand-in data", "Scores on stand-in data cannot be compared with published ones.", True, _stand_in),
        (
            "Scored as lm-eval does",
            "A question with several accepted answers counts the share of them found; NVIDIA/RULER gives the whole "
            "point for any. No mean, effective length or weighted average over these scores is NVIDIA's, and runs "
            "scored by its metric do not compare with them. lm-eval prints such scores divided by 100.",
            True,
            _scored_otherwise,
        ),
        ("Truncated prompts", "Shortened in the middle, so the answer may have been cut out.", True, _truncated),
        ("Skipped samples", "They did not fit and are not among n.", True, _skipped),
        ("Empty answers", "Nothing but white space; they count as they scored.", False, _empty),
        (
            "Few samples",
            f"A shard of fewer than {FEW} samples says little by itself: read its score through the interval.",
            False,
            _few,
        ),
    )
    found = [Notice(title, text, grave, _parts(runs, part)) for title, text, grave, part in kinds]
    both = [*_compared(comparison, gate), *found]
    return sorted((notice for notice in both if notice.parts), key=lambda notice: not notice.grave)


def _compared(comparison: Comparison | None, gate: Gate | None) -> list[Notice]:
    """What the comparison leaves out and what else than the model differs, for every extended model."""
    told: list[tuple[Key, Sequence[LeftOut], Sequence[str]]] = []
    if comparison is not None:
        told = [
            (key, pair.left_out, pair.caveats) for key, pair in zip(keys(comparison)[1:], comparison.pairs, strict=True)
        ]
    elif gate is not None:
        label = gate.extended.label if gate.extended is not None else "The gate"
        told = [(Key(label, 1), gate.left_out, gate.caveats)]
    left_out = tuple(
        Part(key, "", tuple(f"{item.what}: {formats.count(item.n)} left out, {item.reason}" for item in items))
        for key, items, _ in told
        if items
    )
    caveats = tuple(Part(key, "", tuple(items)) for key, _, items in told if items)
    unfinished = () if comparison is None else tuple(
        Part(key, side.source) for key, side in zip(keys(comparison), sides(comparison), strict=True)
        if side.kind == "baseline" and not side.complete
    )  # fmt: skip
    return [
        Notice("Left out of the comparison", "In one run only, so not among the pairs.", True, left_out),
        Notice("Unfinished baseline", "Saved from a run that had not finished.", True, unfinished),
        Notice("What else differs", "These settings may move scores without any change of the model.", False, caveats),
    ]


def _parts(runs: Sequence[Run], part: Callable[[Run], Part | None]) -> tuple[Part, ...]:
    return tuple(found for run in runs if (found := part(run)) is not None)


def _unfinished(run: Run) -> Part | None:
    finished = len(run.results.shards)
    return (
        None if run.results.complete else Part(run, f"{finished} shard{'' if finished == 1 else 's'} finished so far.")
    )


def _not_run(run: Run) -> Part | None:
    missing = tuple(
        f"{entry.task}{'' if entry.length is None else f' at {formats.length(entry.length)}'}: {entry.reason}"
        for entry in run.results.not_run
    )
    return Part(run, "", missing) if missing else None


def _stand_in(run: Run) -> Part | None:
    shards = tuple(shard.id for shard in run.results.shards if _stands_in(shard))
    return Part(run, "", shards) if shards else None


def _stands_in(shard: ShardResult) -> bool:
    """Tasks mark stand-in data by a fact of that name, or by naming it in the value."""
    return any(
        (key.replace("-", "_") in ("stand_in", "standin") and bool(value))
        or (isinstance(value, str) and "stand-in" in value.lower())
        for key, value in shard.data.items()
    )


def _scored_otherwise(run: Run) -> Part | None:
    shards = tuple(shard.id for shard in run.results.shards if shard.data.get("scoring") == "lm-eval")
    return Part(run, "", shards) if shards else None


def _truncated(run: Run) -> Part | None:
    return _share(run, lambda shard: shard.truncated, lambda shard: shard.n)


def _skipped(run: Run) -> Part | None:
    return _share(run, lambda shard: shard.skipped, lambda shard: shard.n + shard.skipped)


def _empty(run: Run) -> Part | None:
    return _share(run, lambda shard: shard.empty, lambda shard: shard.n)


def _share(run: Run, some: Callable[[ShardResult], int], of: Callable[[ShardResult], int]) -> Part | None:
    shards = [shard for shard in run.results.shards if some(shard)]
    if not shards:
        return None
    total, every = sum(map(some, shards)), sum(map(of, run.results.shards))
    return Part(
        run,
        f"{formats.count(total)} of {formats.count(every)} samples ({100 * total / every:.1f}\u00a0%).",
        tuple(f"{shard.id}: {some(shard)} of {of(shard)}" for shard in shards),
    )


def _few(run: Run) -> Part | None:
    few = sum(shard.n < FEW for shard in run.results.shards)
    return Part(run, f"{few} of {len(run.results.shards)} shards.") if few else None
