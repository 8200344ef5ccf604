"""``lr2eval data prepare`` and ``lr2eval data show``: bundles of benchmark data for machines without a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lr2eval import _bundle
from lr2eval._bundle import Bundle, BundleFile, DataSet
from lr2eval._errors import MissingDataError, UsageError
from lr2eval._paths import write_parts
from lr2eval._tables import printed_table, table
from lr2eval._version import __version__

if TYPE_CHECKING:
    from lr2eval.tasks._needs import Need

CHUNK = 1 << 20


def prepare_command(tasks: str, out: Path, data_dir: Path | None, *, offline: bool) -> None:
    """Gather the data of ``tasks`` in ``out``, from ``data_dir`` before the hub, and write its ``bundle.json``.

    Data sets that are there and whole are kept, so the same command goes on where it stopped. Raises
    :class:`UsageError` for a folder that is not ours and for malformed data, and at the end :class:`MissingDataError`
    that lists what was not to be had; everything else is in the bundle by then.
    """
    from lr2eval._registry import resolve
    from lr2eval.tasks._needs import needs

    if data_dir is not None and not data_dir.is_dir():
        raise UsageError(f"--data-dir {data_dir}: no such folder")
    reading = [(each, names) for each, names in resolve(tasks) if any(i.needs != "nothing" for i in each.tasks())]
    wanted = {need.name: need for each, names in reading for need in needs(each.name, names)}
    bundle = _open(out)
    missing = {}
    for need in wanted.values():
        if (old := bundle.data_sets.get(need.name)) and _whole(out, old, need):
            print(f"{need.name}: kept")
            continue
        try:
            made = _gather(need, out, data_dir, offline)
        except MissingDataError as error:
            missing[need.name] = str(error)
            continue
        for name in set(old.files if old else ()) - set(made.files):
            (out / name).unlink(missing_ok=True)
        bundle = bundle.model_copy(update={"data_sets": {**bundle.data_sets, need.name: made}})
        _bundle.write(out, bundle)
        print(f"{need.name}: {_size(made.size)} from {made.source}")
    if missing:
        raise MissingDataError(
            f"{out}: holds {len(wanted) - len(missing)} of {len(wanted)} data sets asked for; missing: "
            f"{', '.join(missing)} ({next(iter(missing.values()))}); run the same command again where they can be had",
            tuple(missing.values()),
        )
    print(out)


def show_command(folder: Path, *, as_json: bool) -> None:
    """Print what a bundle holds and whether it is whole. Raises :class:`UsageError` for none, and for damage."""
    bundle = _bundle.read(folder)
    if bundle is None:
        what = f"holds no {_bundle.FILE}" if folder.is_dir() else "no such folder"
        raise UsageError(f"{folder}: {what}; make a bundle with lr2eval data prepare --tasks TASKS --out {folder}")
    damage = {name: _bundle.first_damage(folder, data) for name, data in bundle.data_sets.items()}
    if as_json:
        sets = {
            name: {**data.model_dump(mode="json"), "bytes": data.size, "whole": damage[name] is None}
            for name, data in bundle.data_sets.items()
        }
        print(json.dumps({"data_sets": sets}, indent=2, ensure_ascii=False))
    else:
        shown = table("data set", "for", "files", "size", "from", "state", title=str(folder))
        for name, data in bundle.data_sets.items():
            state = "damaged" if damage[name] else "whole"
            read_by = ", ".join(data.read_by)
            shown.add_row(name, read_by, str(len(data.files)), _size(data.size), data.source, state)
        files = sum(len(data.files) for data in bundle.data_sets.values())
        shown.add_row("all", "", str(files), _size(sum(data.size for data in bundle.data_sets.values())), "", "")
        printed_table(shown)
        for licence in dict.fromkeys(data.licence for data in bundle.data_sets.values()):
            of = ", ".join(name for name, data in bundle.data_sets.items() if data.licence == licence)
            print(f"licence of {of}: {licence}")
    if problem := next((each for each in damage.values() if each), None):
        raise UsageError(problem)


def _open(out: Path) -> Bundle:
    try:
        out.mkdir(parents=True, exist_ok=True)
        entries = sorted(path.name for path in out.iterdir() if not path.name.endswith(".tmp"))
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror or error}; choose a folder that can be written") from error
    bundle = _bundle.read(out)
    if bundle is None:
        if entries:
            raise UsageError(f"--out {out}: holds {entries[0]} and is no bundle; choose an empty or new folder")
        bundle = Bundle()
        _bundle.write(out, bundle)
    return bundle


def _whole(out: Path, data: DataSet, need: Need) -> bool:
    """Whether nothing is damaged, and everything that the tasks need is there: a bundle may have been for fewer."""
    if _bundle.first_damage(out, data):
        return False
    try:
        need.check(out)
    except MissingDataError:
        return False
    return True


def _gather(need: Need, out: Path, data_dir: Path | None, offline: bool) -> DataSet:
    local = list(need.local(data_dir)) if data_dir else []
    contents: Iterable[tuple[str, Iterable[bytes]]]
    if local:
        assert data_dir is not None
        need.check(data_dir)  # nothing that no run could read goes into a bundle
        contents = ((name, _chunks(path)) for name, path in local)
        source = local[0][1].name if len(local) == 1 else f"{len(local)} files of {local[0][1].parent.name}"
    else:
        contents = ((name, [content]) for name, content in need.fetch(offline))
        source = f"hub:{need.hub}"
    files = {f"{need.folder}/{name}": _write(out / need.folder / name, parts) for name, parts in contents}
    if not local:
        need.check(out)
    return DataSet(
        licence=need.licence, source=source, tasks=need.tasks, read_by=list(need.read_by), made_with=__version__,
        files=files,
    )  # fmt: skip


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _write(path: Path, parts: Iterable[bytes]) -> BundleFile:
    running, size = hashlib.sha256(), 0

    def passed() -> Iterator[bytes]:
        nonlocal size
        for part in parts:
            running.update(part)
            size += len(part)
            yield part

    path.parent.mkdir(parents=True, exist_ok=True)
    write_parts(path, passed())
    return BundleFile(sha256=running.hexdigest(), bytes=size)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
