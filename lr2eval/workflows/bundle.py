"""Bundles of benchmark data for machines without a network: make one, show one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from lr2eval._version import __version__
from lr2eval.base.files import output_folder, read_parts, write_hashed
from lr2eval.benchmark import DataNeed
from lr2eval.errors import MissingDataError, UsageError
from lr2eval.record.bundle import BUNDLE_FILE, Bundle, BundledData, BundleFile, first_damage, read_bundle, write_bundle


def prepare_data(
    tasks: str,
    out: Path,
    data_dir: Path | None = None,
    *,
    offline: bool = False,
    done: Callable[[str, BundledData | None], None] = lambda name, made: None,
) -> None:
    """Gather the data of ``tasks`` in ``out``, from ``data_dir`` before the hub, and write its ``bundle.json``.

    Complete data sets in ``out`` are kept, so the same call resumes. ``done`` is called with the name of every data set
    and with what was gathered, or ``None`` if it was kept. Raises :class:`UsageError` for a folder that is not a bundle
    and for malformed data. Raises :class:`MissingDataError` at the end if data is missing; all other data is then in
    the bundle.
    """
    from lr2eval.registry import data_needs, resolve

    if data_dir is not None and not data_dir.is_dir():
        raise UsageError(f"--data-dir {data_dir}: no such folder")
    wanted = {need.name: need for benchmark, names in resolve(tasks) for need in data_needs(benchmark, names)}
    bundle = _open(out)
    missing = {}
    for need in wanted.values():
        if (old := bundle.data_sets.get(need.name)) and _whole(out, old, need):
            done(need.name, None)
            continue
        try:
            made = _gather(need, out, data_dir, offline)
        except MissingDataError as error:
            missing[need.name] = str(error)
            continue
        for name in set(old.files if old else ()) - set(made.files):
            (out / name).unlink(missing_ok=True)
        bundle = bundle.model_copy(update={"data_sets": {**bundle.data_sets, need.name: made}})
        write_bundle(out, bundle)
        done(need.name, made)
    if missing:
        raise MissingDataError(
            f"{out}: has {len(wanted) - len(missing)} of the {len(wanted)} data sets; missing: {', '.join(missing)} "
            f"({next(iter(missing.values()))}); run the same command again where the data can be read",
            tuple(missing.values()),
        )


def show_data(folder: Path) -> tuple[Bundle, dict[str, str | None]]:
    """A bundle, and for each of its data sets what is damaged (``None``: nothing).

    Raises :class:`UsageError` for a folder that is not a bundle.
    """
    bundle = read_bundle(folder)
    if bundle is None:
        what = f"has no {BUNDLE_FILE}" if folder.is_dir() else "no such folder"
        raise UsageError(f"{folder}: {what}; make a bundle with lr2eval data prepare --tasks TASKS --out {folder}")
    return bundle, {name: first_damage(folder, data) for name, data in bundle.data_sets.items()}


def _open(out: Path) -> Bundle:
    entries = sorted(output_folder(out))
    bundle = read_bundle(out)
    if bundle is None:
        if entries:
            raise UsageError(f"--out {out}: holds {entries[0]} and is not a bundle; choose an empty or new folder")
        bundle = Bundle()
        write_bundle(out, bundle)
    return bundle


def _whole(out: Path, data: BundledData, need: DataNeed) -> bool:
    """Whether nothing is damaged and everything that the tasks need is there. The bundle may be of fewer tasks."""
    if first_damage(out, data):
        return False
    try:
        need.check(out)
    except MissingDataError:
        return False
    return True


def _gather(need: DataNeed, out: Path, data_dir: Path | None, offline: bool) -> BundledData:
    local = list(need.local(data_dir)) if data_dir else []
    contents: Iterable[tuple[str, Iterable[bytes]]]
    if data_dir and local:
        need.check(data_dir)  # a bundle never holds data that a run could not read
        contents = ((name, read_parts(path)) for name, path in local)
        source = local[0][1].name if len(local) == 1 else f"{len(local)} files of {local[0][1].parent.name}"
    else:
        contents = ((name, [content]) for name, content in need.fetch(offline))
        source = f"hub:{need.hub}"
    files = {}
    for name, parts in contents:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        sha256, size = write_hashed(out / name, parts)
        files[name] = BundleFile(sha256=sha256, bytes=size)
    if not local:
        need.check(out)
    return BundledData(
        licence=need.licence, source=source, tasks=need.tasks, read_by=list(need.read_by), made_with=__version__,
        files=files,
    )  # fmt: skip
