"""``bundle.json``: what a folder of benchmark data holds, where it is from, under which licence, and its hashes.

A bundle is a ``--data-dir`` with this manifest. ``lr2eval data prepare`` makes it, a run checks it before it starts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, field_validator

from lr2eval.base.files import sha256, write_json
from lr2eval.base.reading import checked, read_json
from lr2eval.errors import UsageError
from lr2eval.record.base import Record

BUNDLE_FILE = "bundle.json"


class BundleFile(Record):
    """What the manifest says about a file."""

    sha256: str
    bytes: int


class BundledData(Record):
    """One data set of a bundle. ``tasks``: the shortest ``--tasks`` that reads it."""

    licence: str
    source: str = Field(description="hub:NAME, or the local file it was copied from")
    tasks: str
    read_by: list[str] = Field(description="benchmarks that may read it")
    made_with: str = Field(description="version of lr2eval")
    files: dict[str, BundleFile]

    @field_validator("files")
    @classmethod
    def _inside(cls, value: dict[str, BundleFile]) -> dict[str, BundleFile]:
        for name in value:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
                raise ValueError(f"{name!r} points outside the folder")
        return value

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.bytes for file in self.files.values())


class Bundle(Record):
    """The manifest: data sets by name."""

    kind: Literal["lr2eval bundle"] = "lr2eval bundle"
    version: Literal[1] = 1
    data_sets: dict[str, BundledData] = Field(default={})


def read_bundle(folder: Path) -> Bundle | None:
    """The manifest of ``folder``, ``None`` if it has none. Raises :class:`UsageError` if it is not valid."""
    path = folder / BUNDLE_FILE
    if not path.exists():
        return None
    fix = "it is not a bundle that this version of lr2eval can read, so copy it again"
    return checked(Bundle, read_json(path), str(path), fix=fix)


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write the manifest, atomically."""
    write_json(folder / BUNDLE_FILE, bundle.model_dump(mode="json"))


def check(folder: Path, benchmarks: Collection[str]) -> None:
    """Check the files of a bundle that these benchmarks may read. A folder without a manifest passes.

    Raises :class:`UsageError` naming the first wrong file, and the command that gets it again.
    """
    bundle = read_bundle(folder)
    for data in bundle.data_sets.values() if bundle else ():
        problem = first_damage(folder, data) if set(data.read_by) & set(benchmarks) else None
        if problem:
            raise UsageError(problem)


def first_damage(folder: Path, data: BundledData) -> str | None:
    """One line about the first file that differs from the manifest, or ``None``."""
    for name, file in data.files.items():
        path = folder / name
        try:
            found = sha256(path)
        except OSError as error:
            state = f"is listed in {BUNDLE_FILE} but cannot be read ({error.strerror or error})"
        else:
            if found == file.sha256:
                continue
            state = f"is damaged or changed (its sha256 is {found[:12]}, {BUNDLE_FILE} says {file.sha256[:12]})"
        return f"{path}: {state}; get it again: lr2eval data prepare --tasks {data.tasks} --out {folder}"
    return None


def how_to_get(tasks: Sequence[str]) -> str:
    """Advice with the command that gathers the data of ``tasks``; empty for tasks of lm-eval."""
    by_benchmark: dict[str, list[str]] = {}
    for task in tasks:
        by_benchmark.setdefault(task.partition(":")[0], []).append(task)
    by_benchmark.pop("lm_eval", None)
    # Instead of dozens of names, the whole benchmark.
    shown = [name for each, own in by_benchmark.items() for name in (own if len(own) <= 8 else [each])]
    names = ",".join(dict.fromkeys(shown))
    return f"on a machine with a network, run lr2eval data prepare --tasks {names} --out DIR, " if names else ""
