"""What a reader must mind before believing a number. Nothing is silent (D5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lr2eval._results import ShardResult
from lr2eval.reports import _text
from lr2eval.reports._load import Run, shard_id

FEW = 30
"""Below this many samples an interval is so wide that a cell tells little by itself."""


@dataclass(frozen=True)
class Notice:
    """One thing to mind; ``grave`` ones change what the numbers mean, the others how far they carry."""

    title: str
    text: str
    items: tuple[str, ...] = ()
    grave: bool = False


def notices(runs: Sequence[Run]) -> list[Notice]:
    """Everything to mind, run by run, the grave things first."""
    found = [notice for run in runs for notice in _of(run, f"{run.label}: " if len(runs) > 1 else "")]
    return sorted(found, key=lambda notice: not notice.grave)


def _of(run: Run, who: str) -> Iterable[Notice]:
    results, shards = run.results, run.results.shards
    if not results.complete:
        yield Notice(
            f"{who}unfinished run",
            "The numbers below are those of the shards finished so far. The same command resumes it.",
            grave=True,
        )
    if results.not_run:
        yield Notice(
            f"{who}asked for but not run",
            "These are missing from every mean below.",
            tuple(
                f"{entry.task}{'' if entry.length is None else f' at {_text.length(entry.length)}'}: {entry.reason}"
                for entry in results.not_run
            ),
            grave=True,
        )
    if standing_in := [shard for shard in shards if _stands_in(shard)]:
        yield Notice(
            f"{who}stand-in data",
            "Scores on stand-in data cannot be compared with published ones.",
            tuple(shard_id(shard) for shard in standing_in),
            grave=True,
        )
    yield from _counted(shards, who)
    if few := [shard for shard in shards if shard.n < FEW]:
        yield Notice(
            f"{who}few samples",
            f"{len(few)} of {len(shards)} shards have fewer than {FEW} samples. Read their scores through the "
            "intervals; a difference between two of them is seldom a finding.",
        )


def _counted(shards: Sequence[ShardResult], who: str) -> Iterable[Notice]:
    scored = sum(shard.n for shard in shards)
    asked = scored + sum(shard.skipped for shard in shards)
    for title, field, of, text in (
        (
            "truncated prompts",
            "truncated",
            scored,
            "were shortened in the middle, so the answer may have been cut out.",
        ),
        ("skipped samples", "skipped", asked, "did not fit and are not among n."),
        ("empty answers", "empty", scored, "were answered with nothing but white space; they count as they scored."),
    ):
        counts = {shard_id(shard): (getattr(shard, field), shard) for shard in shards if getattr(shard, field)}
        if counts:
            total = sum(n for n, _ in counts.values())
            yield Notice(
                f"{who}{title}",
                f"{_text.count(total)} of {_text.count(of)} samples ({total / of:.1%}) {text}",
                tuple(
                    f"{name}: {n} of {shard.n + (shard.skipped if field == 'skipped' else 0)}"
                    for name, (n, shard) in counts.items()
                ),
                grave=field != "empty",
            )


def _stands_in(shard: ShardResult) -> bool:
    """Tasks mark stand-in data by a fact of that name, or by naming it in the value."""
    return any(
        (key.replace("-", "_") in ("stand_in", "standin") and bool(value))
        or (isinstance(value, str) and "stand-in" in value.lower())
        for key, value in shard.data.items()
    )
