"""Content-addressed data files: one JSON line per sample, a manifest beside it, made once and checked on use.

A file's name carries a hash of everything its content depends on. It is written under a temporary name, synced and
renamed, its manifest after it; so a file with a manifest that states its sha256 is whole. A lock keeps two runs from
making the same file twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from lr2eval.base import ids
from lr2eval.base.files import is_full, lock_file, sha256, write_hashed
from lr2eval.base.reading import checked, opened, parse_json, read_object
from lr2eval.benchmark import TaskContext
from lr2eval.errors import StoreError, UsageError


@dataclass(frozen=True)
class DataFile:
    """A checked data file and what its manifest says (``sha256``, ``samples``, ``fill`` ...)."""

    path: Path
    manifest: Mapping[str, Any]

    def rows(self) -> Iterator[dict[str, Any]]:
        """The samples, each with the byte ``offset`` of its line."""
        offset = 0
        with opened(self.path) as file:
            for line in file:
                yield {**parse_json(line, str(self.path)), "offset": offset}
                offset += len(line)


Share = Annotated[float, Field(ge=0, le=1)]


class Fill(BaseModel):
    """How full the windows of the samples are; 1 is full."""

    min: Share
    mean: Share
    max: Share


class DataManifest(BaseModel):
    """What the manifest of a data file says besides the facts that the file was made from."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    sha256: str
    samples: int = Field(ge=0)
    fill: Fill


def sample_file(
    context: TaskContext,
    benchmark: str,
    facts: Mapping[str, Any],
    count: int,
    make: Callable[[], Iterable[Mapping[str, Any]]],
) -> DataFile:
    """The data file of ``count`` samples. ``facts`` hold its task, length, and all else it depends on."""
    task, length = facts["task"], facts["length"]
    key = ids.digest([facts, count])[:16]
    path = context.cache_dir / "data" / benchmark / f"{task}-{length}-{key}.jsonl"
    return ensure(path, facts, make, lambda row: float(row["token_count"]) / length, context.progress)


def ensure(
    path: Path,
    facts: Mapping[str, Any],
    make: Callable[[], Iterable[Mapping[str, Any]]],
    summary: Callable[[Mapping[str, Any]], float],
    say: Callable[[str], None],
) -> DataFile:
    """The data file at ``path``, made from ``make()`` unless it is there and undamaged.

    ``facts`` go into the manifest; ``summary`` gives each sample's fill (0..1). A file whose content does not match
    its manifest is made again, and ``say`` is told. Raises :class:`UsageError` if the folder cannot be written, and
    :class:`StoreError` if the disk is full.
    """
    found = _checked(path, facts)
    if isinstance(found, DataFile):
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock_file(path.with_suffix(".lock"), say):
            found = _checked(path, facts)  # another run may have made it while we waited
            if isinstance(found, DataFile):
                return found
            if found:
                say(f"{path.name}: {found}; making it again")
            return _write(path, facts, make(), summary)
    except (OSError, StoreError) as error:
        cause = error.__cause__ or error
        raise (StoreError if is_full(cause) else UsageError)(
            f"{path.parent}: cannot write benchmark data ({getattr(cause, 'strerror', None) or cause}); free some "
            "space or set LR2EVAL_CACHE to another cache folder"
        ) from error


def _checked(path: Path, facts: Mapping[str, Any]) -> DataFile | str:
    """The whole file, or the reason why it cannot be used ("" if it does not exist)."""
    if not path.exists():
        return ""
    try:
        manifest = read_object(_manifest_path(path))
        known = checked(DataManifest, manifest, path.name)
        if ids.canonical_json({key: manifest.get(key) for key in facts}) != ids.canonical_json(facts):
            return "the cached file's manifest is damaged"
        if known.sha256 == sha256(path):
            return DataFile(path, manifest)
    except (OSError, UsageError):
        return "the cached file has no readable manifest"
    return "the cached file is damaged (its sha256 differs from the manifest's)"


def _manifest_path(path: Path) -> Path:
    return path.with_suffix(".manifest.json")


def _write(
    path: Path,
    facts: Mapping[str, Any],
    rows: Iterable[Mapping[str, Any]],
    summary: Callable[[Mapping[str, Any]], float],
) -> DataFile:
    fill: list[float] = []

    def lines() -> Iterator[bytes]:
        for row in rows:
            fill.append(summary(row))
            yield json.dumps(row, ensure_ascii=False).encode() + b"\n"

    digest, _ = write_hashed(path, lines())
    manifest = {
        **facts,
        "file": path.name,
        "sha256": digest,
        "samples": len(fill),
        "fill": {"min": min(fill), "mean": sum(fill) / len(fill), "max": max(fill)},
    }
    write_hashed(_manifest_path(path), [json.dumps(manifest, indent=1, sort_keys=True).encode() + b"\n"])
    return DataFile(path, manifest)
