"""Which samples of two runs are the same question, and the refusal with its reason where they are not (D3).

Two samples are a pair when their ids and their prompt hashes are equal and the same part of the prompt was kept.
Everything else is refused, or, with ``common``, left out and counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lr2eval.comparisons.sources import Source
from lr2eval.errors import NotComparableError
from lr2eval.record.comparison import LeftOut, Side
from lr2eval.stats.paired import Array

DECIDING = ("seed", "samples_per_task", "limit", "chat", "options", "truncation", "window_policy", "beyond_window")
"""Settings that decide which question is asked; a difference is the likely reason for samples that do not match."""
MINDED = ("backend", "dtype", "device", "batch_size", "prefill_chunk")
"""Settings that may move an answer without changing the question: named beside the result."""


@dataclass(frozen=True)
class PairedShard:
    """The pairs of one shard; scores ``(n,)`` on the 0..1 scale, none of them skipped."""

    name: str
    benchmark: str
    task: str
    length: int | None
    original: Array
    extended: Array
    depths: Sequence[float | None]
    documents: Sequence[str | None]


@dataclass(frozen=True)
class TwoWindows(PairedShard):
    """Items of one task: the original's answers at ``window``, the extended model's at the longer ``length``."""

    window: int
    cut: int
    """Items whose prompt was shortened for ``window``."""


def pair(original: Source, extended: Source, *, common: bool) -> tuple[list[PairedShard], list[LeftOut]]:
    """(pairs by shard in the extended run's order, what is left out and why).

    Raises :class:`NotComparableError` naming the first reason why the two runs do not answer the same questions.
    """
    refuse_other_questions(original.side, extended.side)
    left_out: list[LeftOut] = []
    if not common:
        for source in (original, extended):
            if not source.side.complete:
                raise NotComparableError(
                    f"{source.side.label}: the run is unfinished; run the same command again to finish it, or compare "
                    "what both have with --common"
                )
    missing = [name for name in original.shards if name not in extended.shards]
    if missing:
        reason = f"not in the run of {extended.side.label}"
        if not common:
            why = next(
                (extended.not_run[m] for m in map(_short, missing) if m in extended.not_run), "it was not asked for"
            )
            raise NotComparableError(
                f"{extended.side.label} lacks {_some(missing)} of the original's shards ({why}); run them, or compare "
                "what both have with --common"
            )
        left_out += [LeftOut(what=name, n=original.shards[name].n, reason=reason) for name in missing]
    for name, shard in extended.shards.items():
        if name not in original.shards:
            reason = original.not_run.get(_short(name), f"not in the run of {original.side.label}")
            left_out.append(LeftOut(what=name, n=shard.n, reason=reason))
    pairs = []
    for name in extended.shards:
        if name in original.shards:
            found, lost = _pair_shard(name, original, extended, common=common)
            left_out += lost
            if len(found.original):
                pairs.append(found)
    if not pairs:
        raise NotComparableError(
            f"{original.side.label} and {extended.side.label} have no sample in common"
            + (_because(original.side, extended.side) or f"; the one ran {_some(original.shards)}, the other "
               f"{_some(extended.shards)}: run both on the same tasks and lengths")
        )  # fmt: skip
    return pairs, left_out


def pair_windows(original: Source, extended: Source) -> tuple[list[TwoWindows], list[LeftOut]]:
    """(pairs of items by task, what is left out and why) of the original at its window and the extended beyond it.

    A sample's id holds its length, so D3 cannot pair across windows. It pairs both models at the original's window;
    from there the item leads to the same question at the extended model's longest window, within one run over one data
    file. Call after :func:`pair`, which refuses runs that do not belong together.
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
            reason = "skipped at one of the windows, or not in both runs at both"
            left_out.append(LeftOut(what=what, n=lost, reason=reason))
        if len(pairs.original):
            found.append(pairs)
    return found, left_out


def _across(name: str, window: int, length: int, original: Source, extended: Source) -> tuple[TwoWindows, int]:
    """(pairs of one task, items that have no partner)."""
    before, here = original.shards[f"{name}@{window}"], extended.shards[f"{name}@{window}"]
    there = extended.shards[f"{name}@{length}"]
    asked = {question: i for i, question in enumerate(zip(before.ids, before.prompts, before.truncated, strict=True))}
    far = {item: k for k, item in enumerate(there.items) if item is not None}
    near = zip(here.ids, here.prompts, here.truncated, here.items or [None] * here.n, strict=True)
    rows = [(asked.get((id_, prompt, lost)), far.get(item or "")) for id_, prompt, lost, item in near]
    both = [(i, k) for i, k in rows if i is not None and k is not None]
    both = [(i, k) for i, k in both if not np.isnan(before.scores[i] + there.scores[k])]
    left, right = np.array([i for i, _ in both], int), np.array([k for _, k in both], int)
    pairs = TwoWindows(
        name=name,
        benchmark=there.benchmark,
        task=there.task,
        length=length,
        original=_unit(before.scores[left], name, original.side),
        extended=_unit(there.scores[right], name, extended.side),
        depths=[],
        documents=[there.documents[k] for k in right] if there.documents else [],
        window=window,
        cut=sum(before.truncated[i] > 0 for i in left),
    )
    return pairs, len(rows) - len(both)


def refuse_other_questions(original: Side, extended: Side) -> None:
    """Refuse runs that differ in something no sample hash shows: tokenizer, window policy, truncation policy."""
    if original.model.tokenizer_fingerprint != extended.model.tokenizer_fingerprint:
        raise NotComparableError(
            f"{original.label} and {extended.label} have different tokenizers, so no length is the same for both; "
            "compare models of one tokenizer"
        )
    for key in ("window_policy", "truncation"):
        before, after = original.settings.get(key), extended.settings.get(key)
        if before != after:
            raise NotComparableError(
                f"{original.label} was run with {key} {before}, {extended.label} with {after}; run both with the same "
                f"--{key.replace('_', '-')}"
            )


def to_mind(original: Side, extended: Side) -> list[str]:
    """Settings and versions that differ and may move scores by themselves."""
    found = [
        f"{key}: {_shown(before)} for {original.label}, {_shown(after)} for {extended.label}"
        for key in MINDED
        if (before := original.settings.get(key)) != (after := extended.settings.get(key))
    ]
    if original.lr2eval_version != extended.lr2eval_version:
        found.append(f"lr2eval: {original.lr2eval_version} and {extended.lr2eval_version}")
    return found


def _pair_shard(name: str, original: Source, extended: Source, *, common: bool) -> tuple[PairedShard, list[LeftOut]]:
    before, after = original.shards[name], extended.shards[name]
    sides = original.side, extended.side
    if before.metric != after.metric:
        raise NotComparableError(
            f"{name}: scored by {before.metric} in {sides[0].label}, by {after.metric} in {sides[1].label}; "
            "score both the same way"
        )
    place = {id_: i for i, id_ in enumerate(before.ids)}
    rows = [(place.get(id_), j) for j, id_ in enumerate(after.ids)]
    both = [(i, j) for i, j in rows if i is not None]
    left_out = []

    def leave(what: str, n: int, mend: str) -> None:
        if not common:
            raise NotComparableError(f"{name}: {what}{_because(*sides)}; {mend}")
        left_out.append(LeftOut(what=name, n=n, reason=what))

    alone = before.n + after.n - 2 * len(both)
    if alone:
        leave(
            f"{alone} samples are in one run only ({before.n} and {after.n} samples, {len(both)} in common)",
            alone,
            "run both with the same settings, or compare what both have with --common",
        )
    same = [(i, j) for i, j in both if before.prompts[i] == after.prompts[j]]
    if len(same) < len(both):
        leave(
            f"{len(both) - len(same)} of {len(both)} samples have another prompt (other data, template or tokenizer)",
            len(both) - len(same),
            "run both on the same data, or compare the rest with --common",
        )
    whole = [(i, j) for i, j in same if before.truncated[i] == after.truncated[j]]
    if len(whole) < len(same):
        leave(
            f"{len(same) - len(whole)} prompts were cut to another length in one of the runs",
            len(same) - len(whole),
            "run both at one window, or compare the rest with --common",
        )
    left, right = np.array([i for i, _ in whole], int), np.array([j for _, j in whole], int)
    scores_before, scores_after = before.scores[left], after.scores[right]
    scored = ~(np.isnan(scores_before) | np.isnan(scores_after))
    if not scored.all():
        # The truncation policy `skip` was asked for, and both runs say so: no refusal.
        n = int((~scored).sum())
        left_out.append(LeftOut(what=name, n=n, reason="skipped in one of the runs: the prompt did not fit"))
    kept = right[scored]
    return (
        PairedShard(
            name=name,
            benchmark=after.benchmark,
            task=after.task,
            length=after.length,
            original=_unit(scores_before[scored], name, sides[0]),
            extended=_unit(scores_after[scored], name, sides[1]),
            depths=[after.depths[j] for j in kept] if after.depths else [],
            documents=[after.documents[j] for j in kept] if after.documents else [],
        ),
        left_out,
    )


def _unit(scores: Array, name: str, side: Side) -> Array:
    if len(scores) and not (scores.min() >= 0 and scores.max() <= 100):
        raise NotComparableError(
            f"{name}: {side.label} has scores outside 0..100, which no paired test of shares can take; leave it out"
        )
    return np.clip(scores / 100, 0.0, 1.0)


def _because(original: Side, extended: Side) -> str:
    """The settings that differ, in words; empty where none does."""
    differing = [
        f"{key} {_shown(before)} and {_shown(after)}"
        for key in DECIDING
        if (before := original.settings.get(key)) != (after := extended.settings.get(key))
    ]
    return f": the runs differ in {', '.join(differing)}" if differing else ""


def _shown(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _some(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _short(name: str) -> str:
    """``ruler/vt@4096`` -> ``vt@4096``, as ``not_run`` names it."""
    return name.partition("/")[2]
