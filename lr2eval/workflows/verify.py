"""Find out what a folder or file of ours is, and check everything in it that can be checked. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lr2eval.base.reading import read_object
from lr2eval.errors import Lr2EvalError, NotComparableError, StoreError, UsageError
from lr2eval.record import search as search_file
from lr2eval.record import store as run_store
from lr2eval.record.base import SEAL, Sealed, check_seal, read_record
from lr2eval.record.bundle import BUNDLE_FILE, first_damage, read_bundle
from lr2eval.record.comparison import Comparison, Gate
from lr2eval.record.folder import MANIFEST, MANIFEST_REPAIR, read_manifest
from lr2eval.record.results import RESULTS_FILE
from lr2eval.record.verified import difference, verified_run

OK = "ok"
OLDER = "ok; no checksum: written by an older version"
RESTORE = "restore it from a copy"


@dataclass(frozen=True)
class Finding:
    """One thing that was checked. ``text`` says that it is sound, or what is wrong and where."""

    place: Path
    text: str
    damaged: bool = False


@dataclass(frozen=True)
class VerifyOutcome:
    """All things that were checked."""

    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged. An unfinished folder may be sound."""
        return not any(each.damaged for each in self.findings)


def verify(path: Path | str) -> VerifyOutcome:
    """Check a run, search, training, training rows, bundle, comparison or gate (folders), or a baseline (a file).

    Folders in it are checked too, so the folder of ``run --baseline`` or ``extend`` is checked whole. Raises
    :class:`lr2eval.UsageError` if nothing there is ours; damage is a finding, not an exception.
    """
    path = Path(path)
    found = tuple(_file(path) if path.is_file() else _folder(path))
    if not found:
        what = "nothing in it is" if path.is_dir() else "no such file or folder; give"
        raise UsageError(f"{path}: {what} a run, search, training, bundle, comparison or baseline of lr2eval")
    return VerifyOutcome(found)


def _file(path: Path) -> Iterator[Finding]:
    from lr2eval.comparisons.baseline import load_baseline

    try:
        shards = load_baseline(path).shards.values()
        yield Finding(path, f"{OK}; baseline of {sum(shard.n for shard in shards):,} samples")
    except NotComparableError as error:
        yield Finding(path, str(error), damaged=True)


def _folder(folder: Path) -> Iterator[Finding]:
    checks = next((checks for marks, checks in _KINDS if any((folder / name).exists() for name in marks)), None)
    for place, check in checks(folder) if checks else ():
        yield _tried(place, check)
    records: dict[str, type[Sealed]] = {"comparison.json": Comparison, "gate.json": Gate}
    for name, model in records.items():
        if (folder / name).exists():
            yield _tried(folder / name, partial(_record, folder / name, model))
    for inner in sorted(folder.iterdir()) if folder.is_dir() else ():
        if inner.is_dir() and not inner.is_symlink():
            yield from _folder(inner)


def _tried(place: Path, check: Callable[[], str]) -> Finding:
    try:
        return Finding(place, check())
    except Lr2EvalError as error:
        return Finding(place, str(error), damaged=True)


Checks = Iterator[tuple[Path, Callable[[], str]]]


def _run(folder: Path) -> Checks:
    yield folder / MANIFEST, lambda: _manifest(folder)
    store = folder / run_store.FILE

    def stored() -> str:
        with run_store.RunStore.read(folder) as opened:
            return f"{OK}; {opened.check():,} stored answers"

    yield store, stored

    def results() -> str:
        if not (folder / RESULTS_FILE).exists() and not (read_manifest(folder) or {}).get("finished"):
            return f"unfinished: no {RESULTS_FILE} yet; the same `lr2eval run` command goes on"
        found, _ = verified_run(folder, unfinished=True)
        text = f"{OK if found.samples_sha256 else OLDER}; {len(found.shards)} shards agree with their samples"
        return text if found.complete else f"{text}; unfinished: the same `lr2eval run` command goes on"

    yield folder / RESULTS_FILE, results


def _search(folder: Path) -> Checks:
    from lr2eval.method.search.journal import FILE, Journal

    yield folder / MANIFEST, lambda: _manifest(folder)

    def journal() -> str:
        with Journal.read(folder) as opened:
            return f"{OK}; {len(opened):,} evaluations"

    yield folder / FILE, journal
    result, factors = folder / search_file.FILE, folder / search_file.FACTORS_FILE

    def search() -> str:
        if not result.exists() and not factors.exists():  # which is written later
            return "unfinished: no result yet; the same `lr2eval search` command goes on"
        record = search_file.SearchResult.read(folder)
        with Journal.read(folder) as opened:
            tokens = sum(row.tokens for row in opened.rows())
        settings = (read_manifest(folder) or {"settings": {}})["settings"]
        stated = {"fingerprint": record.fingerprint, "data.tokens_read": record.data.get("tokens_read")}
        found = {"fingerprint": settings.get("fingerprint"), "data.tokens_read": tokens}
        if where := difference(stated, found, ""):
            raise StoreError(f"{result}: differs from {MANIFEST} and {FILE} in {where}; {search_file.REPAIR}")
        return OK if record.version >= record.sealed_from else f"{OLDER}; its digest is right, and data is not in it"

    yield result, search
    if result.exists():
        yield factors, lambda: _factors(factors)


def _factors(path: Path) -> str:
    from lr2eval.method.rope.files import read_factors

    record, file = search_file.SearchResult.read(path.parent), read_factors(path)
    ones, heat = [1.0] * len(record.factors), record.attention_factor
    made = {"long_factor": record.factors, "short_factor": ones, "theta": record.theta, "rotary_dim": record.rotary_dim,
            "original_window": record.original_window, "target_window": record.target_length,
            "long_attention_factor": heat, "short_attention_factor": heat, "digest": record.digest}  # fmt: skip
    said = {**(file.scaling.to_json() if file.scaling else {}), "digest": (file.search or {}).get("digest")}
    stated = {key: said.get(key) for key in made}
    if stated != made:
        where = difference(stated, made, "") or "the last digits of a number"
        raise StoreError(f"{path}: differs from {search_file.FILE} in {where}; {search_file.REPAIR}")
    return _sealed(path)


def _training(folder: Path) -> Checks:
    from lr2eval.method.train import checkpoints
    from lr2eval.method.train.train import RESULT, result_digest

    yield folder / MANIFEST, lambda: _manifest(folder)
    markers = sorted((folder / checkpoints.FOLDER).glob(f"step-*/{checkpoints.MARKER}"))
    for marker in markers:
        yield marker.parent, partial(_checkpoint, marker.parent)

    def result() -> str:
        if not (folder / RESULT).exists():
            return "unfinished: the same `lr2eval train` command goes on"
        text, value = _sealed(folder / RESULT), read_object(folder / RESULT, error=StoreError)
        last = checkpoints.checked(checkpoints.read(markers[-1].parent)) if markers else {}
        if last and result_digest(value, last["weights.safetensors"]) != value.get("digest"):
            raise StoreError(f"{folder / RESULT}: its digest does not fit {markers[-1].parent}; {RESTORE}")
        return text

    yield folder / RESULT, result


def _checkpoint(folder: Path) -> str:
    from lr2eval.method.train import checkpoints

    saved = checkpoints.read(folder)
    checkpoints.check(saved)
    return OK if all("sha256" in said for said in saved.marker.values()) else OLDER


def _rows(folder: Path) -> Checks:
    from lr2eval.method.data.rows import SegmentData

    def rows() -> str:
        if not (folder / MANIFEST).exists():
            return "unfinished: run `lr2eval data mix` again"
        data = SegmentData.open(folder)
        data.check()
        return f"{OK if SEAL in data.manifest else OLDER}; {len(data):,} training rows"

    yield folder, rows


def _bundle(folder: Path) -> Checks:
    def bundle() -> str:
        found = read_bundle(folder)
        for data in found.data_sets.values() if found else ():
            if problem := first_damage(folder, data):
                raise StoreError(problem)
        return f"{OK}; {len(found.data_sets) if found else 0} data sets"

    yield folder / BUNDLE_FILE, bundle


def _begun(folder: Path) -> Checks:
    """A folder with nothing but its manifest. ``data make`` writes another kind of manifest."""
    try:
        value = read_object(folder / MANIFEST, error=StoreError)
        ours = SEAL in value or "sessions" in value or value.get("kind") in ("search", "training")
    except StoreError:
        ours = True
    if ours:
        yield folder / MANIFEST, lambda: f"{_manifest(folder)}; unfinished: nothing was done yet"


_KINDS: tuple[tuple[tuple[str, ...], Callable[[Path], Checks]], ...] = (
    ((run_store.FILE, RESULTS_FILE), _run),
    (("evaluations.sqlite", search_file.FILE), _search),
    (("checkpoints", "training.json"), _training),
    (("tokens.bin", "rows.bin"), _rows),
    ((BUNDLE_FILE,), _bundle),
    ((MANIFEST,), _begun),
)
"""What a folder is, by files of which it has at least one, and how it is checked."""


def _manifest(folder: Path) -> str:
    manifest = read_manifest(folder)
    if manifest is None:
        raise StoreError(f"{folder / MANIFEST}: no such file; {MANIFEST_REPAIR}")
    return OK if SEAL in manifest else OLDER


def _sealed(path: Path) -> str:
    return OK if check_seal(read_object(path, error=StoreError), path, RESTORE) else OLDER


def _record(path: Path, model: type[Sealed]) -> str:
    value: Mapping[str, Any] = read_object(path, error=StoreError)
    if value.get("schema_version") == model.model_fields["schema_version"].default:
        read_record(path, model, missing=RESTORE, repair=RESTORE)
    return _sealed(path)
