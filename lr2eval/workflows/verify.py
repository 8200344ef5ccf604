"""Find out what a folder or file of ours is, and check everything in it that can be checked. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lr2eval.base.reading import read_object
from lr2eval.errors import Lr2EvalError, NotComparableError, StoreError, UsageError
from lr2eval.record.base import SEAL, Sealed, check_seal, read_record
from lr2eval.record.bundle import BUNDLE_FILE, first_damage, read_bundle
from lr2eval.record.comparison import Comparison, Gate
from lr2eval.record.folder import MANIFEST, needed_manifest, read_manifest
from lr2eval.record.results import RESULTS_FILE
from lr2eval.record.search import FACTORS_FILE, REPAIR, SearchResult
from lr2eval.record.search import FILE as SEARCH_FILE
from lr2eval.record.store import FILE as STORE_FILE
from lr2eval.record.store import RunStore
from lr2eval.record.verified import difference, verified_run

OK = "ok"
OLDER = "ok; no checksum: written by an older version"
RESTORE = "restore it from a copy"
JOURNAL, CHECKPOINTS, TRAINED = "evaluations.sqlite", "checkpoints", "training.json"  # named here: torch stays unloaded


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
    checks = next((checks for marks, checks in _KINDS if any((folder / name).exists() for name in marks)), {})
    for pattern, check in (*checks.items(), *((name, _record) for name in _RECORDS)):
        for place in sorted(folder.glob(pattern)) if "*" in pattern else [folder / pattern]:
            try:
                if text := check(place):
                    yield Finding(place, text)
            except Lr2EvalError as error:
                yield Finding(place, str(error), damaged=True)
    for inner in sorted(folder.iterdir()) if folder.is_dir() else ():
        if inner.is_dir() and not inner.is_symlink():
            yield from _folder(inner)


# Each check gets the path of what it checks. It says that all is well, or nothing if there is nothing to check, and
# raises an error of ours for damage.


def _manifest(path: Path) -> str:
    return OK if SEAL in needed_manifest(path.parent) else OLDER


def _begun(path: Path) -> str:
    """The manifest of a folder that has nothing else. ``data make`` writes another kind of manifest."""
    try:
        value = read_object(path, error=StoreError)
        ours = SEAL in value or "sessions" in value or value.get("kind") in ("search", "training")
    except StoreError:
        ours = True
    return f"{_manifest(path)}; unfinished: nothing was done yet" if ours else ""


def _answers(path: Path) -> str:
    with RunStore.read(path.parent) as opened:
        return f"{OK}; {opened.check():,} stored answers"


def _results(path: Path) -> str:
    if not path.exists() and not (read_manifest(path.parent) or {}).get("finished"):
        return f"unfinished: no {RESULTS_FILE} yet; the same `lr2eval run` command goes on"
    found, _ = verified_run(path.parent, unfinished=True)
    text = f"{OK if found.samples_sha256 else OLDER}; {len(found.shards)} shards agree with their samples"
    return text if found.complete else f"{text}; unfinished: the same `lr2eval run` command goes on"


def _journal(path: Path) -> str:
    from lr2eval.method.search.journal import Journal

    with Journal.read(path.parent) as opened:
        return f"{OK}; {len(opened):,} evaluations"


def _search(path: Path) -> str:
    from lr2eval.method.search.journal import Journal

    if not path.exists() and not (path.parent / FACTORS_FILE).exists():  # which is written later
        return "unfinished: no result yet; the same `lr2eval search` command goes on"
    record = SearchResult.read(path.parent)
    with Journal.read(path.parent) as opened:
        tokens = sum(row.tokens for row in opened.rows())
    settings = (read_manifest(path.parent) or {"settings": {}})["settings"]
    stated = {"fingerprint": record.fingerprint, "data.tokens_read": record.data.get("tokens_read")}
    found = {"fingerprint": settings.get("fingerprint"), "data.tokens_read": tokens}
    if where := difference(stated, found, ""):
        raise StoreError(f"{path}: differs from {MANIFEST} and {JOURNAL} in {where}; {REPAIR}")
    return OK if record.version >= record.sealed_from else f"{OLDER}; its digest is right, and data is not in it"


def _factors(path: Path) -> str:
    from lr2eval.method.rope.files import read_factors

    if not path.with_name(SEARCH_FILE).exists():
        return ""
    record, file = SearchResult.read(path.parent), read_factors(path)
    ones, heat = [1.0] * len(record.factors), record.attention_factor
    made = {"long_factor": record.factors, "short_factor": ones, "theta": record.theta, "rotary_dim": record.rotary_dim,
            "original_window": record.original_window, "target_window": record.target_length,
            "long_attention_factor": heat, "short_attention_factor": heat, "digest": record.digest}  # fmt: skip
    said = {**(file.scaling.to_json() if file.scaling else {}), "digest": (file.search or {}).get("digest")}
    stated = {key: said.get(key) for key in made}
    if stated != made:
        where = difference(stated, made, "") or "the last digits of a number"
        raise StoreError(f"{path}: differs from {SEARCH_FILE} in {where}; {REPAIR}")
    return _sealed(path)


def _checkpoint(folder: Path) -> str:
    from lr2eval.method.train import checkpoints

    if not (folder / checkpoints.MARKER).exists():
        return ""
    saved = checkpoints.read(folder)
    checkpoints.checked(saved)
    return OK if all("sha256" in said for said in saved.marker.values()) else OLDER


def _training(path: Path) -> str:
    from lr2eval.method.train import checkpoints
    from lr2eval.method.train.train import result_digest

    if not path.exists():
        return "unfinished: the same `lr2eval train` command goes on"
    text, value = _sealed(path), read_object(path, error=StoreError)
    if markers := sorted(path.parent.glob(f"{CHECKPOINTS}/step-*/{checkpoints.MARKER}")):
        last = checkpoints.read(markers[-1].parent)
        if result_digest(value, checkpoints.weights_hash(last)) != value.get("digest"):
            raise StoreError(f"{path}: its digest does not fit {markers[-1].parent}; {RESTORE}")
    return text


def _rows(folder: Path) -> str:
    from lr2eval.method.data.rows import SegmentData

    if not (folder / MANIFEST).exists():
        return "unfinished: run `lr2eval data mix` again"
    data = SegmentData.open(folder)
    data.check()
    return f"{OK if SEAL in data.manifest else OLDER}; {len(data):,} training rows"


def _bundle(path: Path) -> str:
    found = read_bundle(path.parent)
    for data in found.data_sets.values() if found else ():
        if problem := first_damage(path.parent, data):
            raise StoreError(problem)
    return f"{OK}; {len(found.data_sets) if found else 0} data sets"


def _record(path: Path) -> str:
    if not path.exists():
        return ""
    model, value = _RECORDS[path.name], read_object(path, error=StoreError)
    if value.get("schema_version") == model.model_fields["schema_version"].default:
        read_record(path, model, missing=RESTORE, repair=RESTORE)
    return _sealed(path)


def _sealed(path: Path) -> str:
    return OK if check_seal(read_object(path, error=StoreError), path, RESTORE) else OLDER


_RECORDS: Mapping[str, type[Sealed]] = {"comparison.json": Comparison, "gate.json": Gate}
_KINDS: tuple[tuple[tuple[str, ...], Mapping[str, Callable[[Path], str]]], ...] = (
    ((STORE_FILE, RESULTS_FILE), {MANIFEST: _manifest, STORE_FILE: _answers, RESULTS_FILE: _results}),
    ((JOURNAL, SEARCH_FILE), {MANIFEST: _manifest, JOURNAL: _journal, SEARCH_FILE: _search, FACTORS_FILE: _factors}),
    ((CHECKPOINTS, TRAINED), {MANIFEST: _manifest, f"{CHECKPOINTS}/step-*": _checkpoint, TRAINED: _training}),
    (("tokens.bin", "rows.bin"), {"": _rows}),
    ((BUNDLE_FILE,), {BUNDLE_FILE: _bundle}),
    ((MANIFEST,), {MANIFEST: _begun}),
)
"""What a folder is, by files of which it has at least one, and how each of its files is checked."""
