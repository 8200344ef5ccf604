"""Opening run folders. Everything wrong with one becomes a one-line error here, not a half report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from lr2eval.base.visible import labels
from lr2eval.errors import UsageError
from lr2eval.record.comparison import Comparison, Side
from lr2eval.record.opened import RunFolder
from lr2eval.record.results import RESULTS_FILE, Results
from lr2eval.record.verified import verified_run


@dataclass(frozen=True)
class Key:
    """What tells the models of a report apart: the name in full, number (colour) and letter where space is short."""

    label: str
    number: int

    @property
    def key(self) -> str:
        return ascii_uppercase[self.number % 26]


@dataclass(frozen=True)
class LoadedRun(Key):
    """One run folder, read."""

    folder: Path
    results: Results
    manifest: Mapping[str, Any]


def load(given: Sequence[Path | RunFolder], comparison: Comparison | None = None) -> list[LoadedRun]:
    """Read and verify every folder that is not yet; runs of models with the same name are told apart by their folders.

    With a comparison, runs take labels and order from its sides, matched by digest; :class:`UsageError` for a run
    that is none of them.
    """
    opened = [each if isinstance(each, RunFolder) else _opened(each) for each in given]
    results, folders = [each.results for each in opened], [each.path for each in opened]
    if comparison is None:
        names = labels([result.model.name for result in results], [folder.name for folder in folders])
        keys = [Key(label, number) for number, label in enumerate(names)]
    else:
        keys = _matched(results, folders, comparison)
    runs = [
        LoadedRun(key.label, key.number, each.path, each.results, each.manifest)
        for key, each in zip(keys, opened, strict=True)
    ]
    return sorted(runs, key=lambda run: run.number)


def _opened(folder: Path) -> RunFolder:
    if not (folder / RESULTS_FILE).is_file():
        what = f"has no {RESULTS_FILE}" if folder.exists() else "no such folder"
        raise UsageError(f"{folder}: {what}; give the folder of a run")
    results, manifest = verified_run(folder, unfinished=True)
    return RunFolder(folder, manifest, results)


def sides(comparison: Comparison) -> list[Side]:
    """The compared models, the original first."""
    return [comparison.original, *(pair.extended for pair in comparison.pairs)]


def keys(comparison: Comparison) -> list[Key]:
    """The key of every side, in the order of :func:`sides`."""
    return [Key(side.label, number) for number, side in enumerate(sides(comparison))]


def _matched(results: Sequence[Results], folders: Sequence[Path], comparison: Comparison) -> list[Key]:
    free = list(zip(sides(comparison), keys(comparison), strict=True))
    found = []
    for result, folder in zip(results, folders, strict=True):
        # Equal digests are equal runs (a model against itself): each takes the first side nobody has taken.
        run = "run", result.digest, result.model.fingerprint
        match = next((pair for pair in free if (pair[0].kind, pair[0].digest, pair[0].model.fingerprint) == run), None)
        if match is None:
            raise UsageError(
                f"{folder}: is none of the compared runs (its digest or model differs); compare the runs again"
            )
        free.remove(match)
        found.append(match[1])
    return found
