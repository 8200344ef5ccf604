"""Opening run folders. Everything wrong with one becomes a one-line :class:`StoreError` here, not a half report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from pydantic import ValidationError

from lr2eval import _manifest
from lr2eval._errors import StoreError
from lr2eval._results import Results, ShardResult

RESULTS_FILE = "results.json"


@dataclass(frozen=True)
class Run:
    """One run folder, read. ``label`` and, where space is short, ``key`` tell the runs of a report apart."""

    folder: Path
    label: str
    key: str
    results: Results
    manifest: Mapping[str, Any]


def load(folders: Sequence[Path]) -> list[Run]:
    """Read every folder; runs of models with the same name are told apart by their folders' names."""
    results = [_results(folder) for folder in folders]
    names = [result.model.name for result in results]
    return [
        Run(
            folder=folder,
            label=result.model.name if names.count(result.model.name) == 1 else f"{result.model.name} ({folder.name})",
            key=ascii_uppercase[number % 26],
            results=result,
            manifest=_manifest.read(folder) or {},
        )
        for number, (folder, result) in enumerate(zip(folders, results, strict=True))
    ]


def shard_id(shard: ShardResult) -> str:
    """The key under which the store keeps the samples of ``shard`` (:attr:`lr2eval._types.Shard.id`)."""
    tail = "" if shard.length is None else f"@{shard.length}"
    return f"{shard.benchmark}/{shard.task}{tail}"


def _results(folder: Path) -> Results:
    path = folder / RESULTS_FILE
    try:
        return Results.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file; is {folder} a run folder?") from error
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}; give the folder of a run") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise StoreError(
            f"{path}: damaged at {where} ({first['msg']}); run the same `lr2eval run` command again to rewrite it"
        ) from error
