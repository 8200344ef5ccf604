"""Which samples of two runs belong together (D3).

Two samples are a pair if their ids and prompt hashes are equal and the same part of the prompt was kept. Anything else
is an error, or with ``common`` it is left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr2eval.comparisons.scores import RunScores, ShardScores
from lr2eval.errors import NotComparableError
from lr2eval.record.comparison import LeftOut, Side
from lr2eval.stats.paired import Array

DECIDING = ("seed", "samples_per_task", "limit", "chat", "options", "truncation", "window_policy", "beyond_window")
"""Settings that determine the questions. If samples do not match, a difference here is the likely reason."""
CAVEAT_KEYS = ("backend", "dtype", "device", "batch_size", "prefill_chunk", "generation")
"""Settings that may change an answer but not the question. Differences are listed beside the result."""

Places = NDArray[np.intp]
COMMON = "compare only what both runs have with --common"


@dataclass(frozen=True)
class PairedShard:
    """The pairs of one shard; scores ``(n,)`` on the 0..1 scale, without skipped samples."""

    name: str
    benchmark: str
    task: str
    length: int | None
    original: Array
    extended: Array
    depths: Sequence[float | None]
    documents: Sequence[str | None]

    def beyond(self, window: int) -> bool:
        """Whether its samples are longer than ``window`` tokens; never for a benchmark without lengths."""
        return self.length is not None and self.length > window


@dataclass(frozen=True)
class TwoWindows(PairedShard):
    """Items of one task: the original's answers at ``window``, the extended model's at the longer ``length``."""

    window: int
    cut: int
    """Items whose prompt was shortened for ``window``."""


def pair(original: RunScores, extended: RunScores, *, common: bool) -> tuple[list[PairedShard], list[LeftOut]]:
    """(pairs by shard in the extended run's order, what is left out and why).

    Raises :class:`NotComparableError` with the first reason why the two runs do not answer the same questions.
    """
    _refuse_different_setups(original.side, extended.side)
    first, second = original.side.label, extended.side.label
    for run in (original, extended):
        if not (common or run.side.complete):
            raise NotComparableError(
                f"{run.side.label}: the run is not finished; run the same command again to finish it, or {COMMON}"
            )
    missing = [name for name in original.shards if name not in extended.shards]
    if missing and not common:
        asked = (why_not_run(extended, original.shards[name]) for name in missing)
        why = next((reason for reason in asked if reason is not None), "not requested")
        raise NotComparableError(f"{second} has no scores for {some(missing)} ({why}); run them, or {COMMON}")
    left_out = [LeftOut(what=name, n=original.shards[name].n, reason=f"not in the run of {second}") for name in missing]
    pairs = []
    extra = []
    for name, shard in extended.shards.items():
        if name in original.shards:
            found, lost = _pair_shard(name, original, extended, common=common)
            extra += lost
            pairs += [found] if len(found.original) else []
        else:
            reason = why_not_run(original, shard) or f"not in the run of {first}"
            left_out.append(LeftOut(what=name, n=shard.n, reason=reason))
    if not pairs:
        reason = _because(original.side, extended.side) or (
            f": {first} ran {some(original.shards)}; {second} ran {some(extended.shards)}"
        )
        raise NotComparableError(
            f"{first} and {second} have no sample in common{reason}; run both with the same settings, tasks and lengths"
        )
    return pairs, left_out + extra


def pair_windows(original: RunScores, extended: RunScores) -> tuple[list[TwoWindows], list[LeftOut]]:
    """(pairs of items by task, what is left out and why): the original at its window, the extended model beyond it.

    A sample's id depends on its length, so ids cannot pair samples across windows. They pair both models at the
    original's window; the item then leads to the same question at the extended model's longest window, inside one run.
    Call :func:`pair` first: it refuses runs that do not belong together.
    """
    longest: dict[tuple[str, str], int] = {}
    for shard in extended.shards.values():
        if shard.items and shard.length is not None:
            key = shard.benchmark, shard.task
            longest[key] = max(shard.length, longest.get(key, 0))
    found, left_out = [], []
    for (benchmark, task), length in longest.items():
        limit = original.side.model.window
        shared = [s.length or 0 for s in original.shards.values() if (s.benchmark, s.task) == (benchmark, task)]
        window = max((n for n in shared if n <= limit and f"{benchmark}/{task}@{n}" in extended.shards), default=None)
        if window is None or window >= length:
            continue
        pairs, lost = _across(f"{benchmark}/{task}", window, length, original, extended)
        if lost:
            what = f"gain of {benchmark}/{task}, {window} to {length} tokens"
            reason = "skipped at one of the windows, or missing from one of the runs"
            left_out.append(LeftOut(what=what, n=lost, reason=reason))
        if len(pairs.original):
            found.append(pairs)
    return found, left_out


def _across(name: str, window: int, length: int, original: RunScores, extended: RunScores) -> tuple[TwoWindows, int]:
    """(pairs of one task, number of items without a partner)."""
    before, here = original.shards[f"{name}@{window}"], extended.shards[f"{name}@{window}"]
    there = extended.shards[f"{name}@{length}"]
    asked = {question: i for i, question in enumerate(zip(before.ids, before.prompts, before.truncated, strict=True))}
    far = {item: k for k, item in enumerate(there.items) if item is not None}
    near = zip(here.ids, here.prompts, here.truncated, here.items or [None] * here.n, strict=True)
    rows = [(asked.get((id_, prompt, lost)), far.get(item or "")) for id_, prompt, lost, item in near]
    both = [(i, k) for i, k in rows if i is not None and k is not None]
    both = [(i, k) for i, k in both if not np.isnan(before.scores[i] + there.scores[k])]
    left, right = np.array([i for i, _ in both], int), np.array([k for _, k in both], int)
    cut = sum(before.truncated[i] > 0 for i in left)
    facts = matched(name, original.side, before, left, extended.side, there, right)
    return TwoWindows(**vars(facts), window=window, cut=cut), len(rows) - len(both)


def _refuse_different_setups(original: Side, extended: Side) -> None:
    """Refuse runs with another tokenizer, window policy or truncation policy. Sample hashes do not show these."""
    if original.model.tokenizer_fingerprint != extended.model.tokenizer_fingerprint:
        raise NotComparableError(
            f"{original.label} and {extended.label} have different tokenizers, or chats with another date or system "
            "message, so a length in tokens means different texts; compare runs with the same ones"
        )
    for key in ("window_policy", "truncation"):
        before, after = original.settings.get(key), extended.settings.get(key)
        if before != after:
            raise NotComparableError(
                f"{original.label} was run with {key} {before}, {extended.label} with {after}; run both with the same "
                f"--{key.replace('_', '-')}"
            )


def caveats(original: Side, extended: Side) -> list[str]:
    """Settings and versions that differ and may change scores by themselves, and whether both are one model."""
    found = [
        f"{key}: {_shown(before)} for {original.label}, {_shown(after)} for {extended.label}"
        for key in CAVEAT_KEYS
        if (before := original.settings.get(key)) != (after := extended.settings.get(key))
    ]
    if original.lr2eval_version != extended.lr2eval_version:
        found.append(f"lr2eval: {original.lr2eval_version} and {extended.lr2eval_version}")
    if original.model.fingerprint == extended.model.fingerprint:
        found.append("both runs are of the same model")
    elif original.model.checkpoint == extended.model.checkpoint:
        found.append("both runs are of the same checkpoint, under different RoPEs")
    return found


def _pair_shard(
    name: str, original: RunScores, extended: RunScores, *, common: bool
) -> tuple[PairedShard, list[LeftOut]]:
    before, after = original.shards[name], extended.shards[name]
    sides = original.side, extended.side
    if before.metric != after.metric:
        raise NotComparableError(
            f"{name}: scored by {before.metric} in {sides[0].label}, but by {after.metric} in {sides[1].label}; "
            "run both with the same metric"
        )
    place = {id_: i for i, id_ in enumerate(before.ids)}
    rows = [(place.get(id_), j) for j, id_ in enumerate(after.ids)]
    both = [(i, j) for i, j in rows if i is not None]
    left_out = []

    def leave_out(n: int, what: str, fix: str) -> None:
        if n and not common:
            raise NotComparableError(f"{name}: {what}{_because(*sides)}; {fix}, or {COMMON}")
        if n:
            left_out.append(LeftOut(what=name, n=n, reason=what))

    alone = before.n + after.n - 2 * len(both)
    counts = f"{before.n} and {after.n} samples, {len(both)} in common"
    leave_out(
        alone, f"{alone} samples are in one run only ({counts})", "run both with the same settings and the same lr2eval"
    )
    same = [(i, j) for i, j in both if before.prompts[i] == after.prompts[j]]
    other = len(both) - len(same)
    what = f"{other} of {len(both)} samples have different prompts (other data, template or tokenizer)"
    leave_out(other, what, "run both on the same data")
    whole = [(i, j) for i, j in same if before.truncated[i] == after.truncated[j]]
    cut = len(same) - len(whole)
    leave_out(cut, f"{cut} prompts were shortened to different lengths", "run both with the same window")
    left, right = np.array([i for i, _ in whole], int), np.array([j for _, j in whole], int)
    scored = ~np.isnan(before.scores[left] + after.scores[right])
    if not scored.all():
        # No error: both runs used the truncation policy `skip`.
        n = int((~scored).sum())
        left_out.append(LeftOut(what=name, n=n, reason="skipped in at least one run: the prompt was too long"))
    return matched(name, sides[0], before, left[scored], sides[1], after, right[scored]), left_out


def matched(
    name: str, side: Side, before: ShardScores, left: Places, other: Side, after: ShardScores, right: Places
) -> PairedShard:
    """The samples of one run at the places ``left``, each with that of the other run in ``right``."""
    return PairedShard(
        name=name,
        benchmark=after.benchmark,
        task=after.task,
        length=after.length,
        original=_unit(before.scores[left], name, side),
        extended=_unit(after.scores[right], name, other),
        depths=[after.depths[j] for j in right] if after.depths else [],
        documents=[after.documents[j] for j in right] if after.documents else [],
    )


def _unit(scores: Array, name: str, side: Side) -> Array:
    if len(scores) and not (scores.min() >= 0 and scores.max() <= 100):
        raise NotComparableError(
            f"{name}: {side.label} has scores outside 0..100, which the paired tests cannot use; run without this task"
        )
    return np.clip(scores / 100, 0.0, 1.0)


def _because(original: Side, extended: Side) -> str:
    """The settings that differ, in words; empty if they are all the same."""
    differing = [
        f"{key} {_shown(before)} and {_shown(after)}"
        for key in DECIDING
        if (before := original.settings.get(key)) != (after := extended.settings.get(key))
    ]
    return f": the runs differ in {', '.join(differing)}" if differing else ""


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def some(names: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def why_not_run(run: RunScores, shard: ShardScores) -> str | None:
    """Why the run did not make this shard, as its record says; ``None`` if it says nothing."""
    names = (f"{shard.task}@{shard.length}", shard.task, shard.benchmark)
    return next((run.not_run[name] for name in names if name in run.not_run), None)
