"""A run whose parts agree: ``results.json``, the store and ``manifest.json``. Whoever shows or compares a run reads it
here, so that nothing that was changed or lost gets through."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lr2eval.errors import StoreError
from lr2eval.record.folder import MANIFEST, MANIFEST_REPAIR, needed_manifest
from lr2eval.record.results import RESULTS_FILE, Results, ShardResult, read_results
from lr2eval.record.store import RunStore, Scored
from lr2eval.record.summary import over_lengths, shard_result, summaries

Use = Callable[[ShardResult, Sequence[Scored]], None]
RESTORE = "restore the folder from a copy or run again"


def verified_run(folder: Path, *, unfinished: bool = False, use: Use | None = None) -> tuple[Results, dict[str, Any]]:
    """``results.json`` and ``manifest.json`` of a run folder, after everything that can be compared was compared.

    ``unfinished``: the store of an unfinished run may hold shards that its results do not have yet, for example while
    the run goes on. ``use`` gets the samples of each shard, which saves reading them again. Raises :class:`StoreError`
    that says what differs and where.
    """
    results = read_results(folder)
    manifest = needed_manifest(folder)
    if results.schema_version >= Results.sealed_from and "sha256" not in manifest:
        raise StoreError(f"{folder / MANIFEST}: was changed after it was written (has no checksum); {MANIFEST_REPAIR}")
    _check_manifest(folder, results, manifest)
    with RunStore.read(folder) as store:
        _check_store(folder, results, store, unfinished and not results.complete, use)
    return results, manifest


def _check_manifest(folder: Path, results: Results, manifest: Mapping[str, Any]) -> None:
    settings, model = manifest["settings"], results.model
    planned = settings.get("data")
    if not isinstance(planned, dict):
        raise StoreError(f"{folder / MANIFEST}: not the manifest of a run; {MANIFEST_REPAIR}")
    shards = [shard.id for shard in results.shards]
    # Files of version 1 have no checksum. Later ones may have facts that an older version did not note in the manifest.
    old = results.schema_version < Results.sealed_from
    facts = {shard.id: {"hash": planned.get(shard.id), **shard.data} for shard in results.shards if old}
    noted = manifest.get("data", {})
    for what, ours, theirs in (
        ("settings", results.settings, settings.get("config")),
        ("model.fingerprint", model.fingerprint, settings.get("model")),
        ("model.tokenizer_fingerprint", model.tokenizer_fingerprint, settings.get("tokenizer")),
        ("complete", results.complete, sorted(shards) == sorted(planned)),
        ("shards", [shard for shard in shards if shard not in planned], []),
        ("data", facts, {shard: noted.get(shard) for shard in facts}),
    ):
        if where := difference(ours, theirs, what):
            raise StoreError(f"{folder / RESULTS_FILE}: differs from {MANIFEST} in {where}; {RESTORE}")


def _check_store(folder: Path, results: Results, store: RunStore, unfinished: bool, use: Use | None) -> None:
    named = [shard.id for shard in results.shards]
    finished, (hashes, digest, samples) = store.finished(), store.seals(wanted=set(named))
    there = sorted(finished.keys() | hashes.keys())
    if there != sorted(named) and not (unfinished and set(named) < set(there)):
        only = sorted(set(named) ^ set(there)) or named
        lacks = RESULTS_FILE if only[0] in there else store.path.name
        more = f" and {len(only) - 1} more" if len(only) > 1 else ""
        again = "run the same `lr2eval run` command again to finish it, or " if not results.complete else ""
        raise StoreError(f"{folder}: {lacks} lacks {only[0]}{more}, which the other file has; {again}{RESTORE}")
    made = []
    for shard in results.shards:
        rows = samples.get(shard.id, [])
        made.append(shard_result(shard, rows))
        if where := difference(shard.model_dump(), made[-1].model_dump(), "") or (
            len(rows) != finished.get(shard.id) and f"their number ({finished.get(shard.id)} and {len(rows)})"
        ):
            raise StoreError(f"{store.path}: {RESULTS_FILE} and the samples of {shard.id} differ in {where}; {RESTORE}")
        if results.samples_sha256 is not None and results.samples_sha256.get(shard.id) != hashes[shard.id]:
            raise StoreError(
                f"{store.path}: samples of {shard.id} were changed (their checksum is {hashes[shard.id][:12]}, but "
                f"{RESULTS_FILE} says {results.samples_sha256.get(shard.id, 'nothing')[:12]}); {RESTORE}"
            )
        if use is not None:
            use(shard, rows)
    store.check_samples(hashes)
    if results.samples_sha256 is None:  # an old file without checksums: is every cell readable?
        for _ in store.samples():
            pass
    headline = {summary.benchmark: summary.over for summary in results.summaries if summary.headline}
    for name, ours, theirs in (
        ("summaries", results.summaries, summaries(made, headline)),
        ("over_lengths", results.over_lengths, over_lengths(made)),
    ):
        if where := difference([each.model_dump() for each in ours], [each.model_dump() for each in theirs], name):
            raise StoreError(f"{folder / RESULTS_FILE}: differs from the samples in {where}; {RESTORE}")
    if digest != results.digest:
        raise StoreError(
            f"{store.path}: the digest of its samples is {digest[:12]}, but {RESULTS_FILE} says {results.digest[:12]}, "
            f"so one of the two was changed; {RESTORE}"
        )


def difference(stated: Any, found: Any, place: str) -> str:
    """The first difference of two JSON values as ``place (1 and 2)``; empty if there is none.

    Numbers may differ in the last digits, which another processor or Python may round otherwise.
    """
    if isinstance(stated, Mapping) and isinstance(found, Mapping):
        keys = dict.fromkeys((*stated, *found))
        parts = [(stated.get(key, _NONE), found.get(key, _NONE), f"{place}.{key}".lstrip(".")) for key in keys]
    elif _is_list(stated) and _is_list(found) and len(stated) == len(found):
        parts = [(one, two, f"{place}.{number}") for number, (one, two) in enumerate(zip(stated, found, strict=True))]
    else:
        number = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (stated, found))
        same = (
            math.isclose(stated, found, rel_tol=1e-9, abs_tol=1e-9)
            if number
            else (stated == found and isinstance(stated, bool) == isinstance(found, bool))
        )
        return "" if same else f"{place} ({_short(stated)} and {_short(found)})"
    return next(filter(None, (difference(*part) for part in parts)), "")


_NONE = "(missing)"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
