"""A folder that a command writes: one writer at a time, one configuration, and a manifest (D2, D5)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lr2eval.base.files import sweep, write_json
from lr2eval.base.reading import read_object
from lr2eval.errors import StoreError, UsageError
from lr2eval.record.base import check_seal, sealed

MANIFEST = "manifest.json"
LOCK = "run.lock"
MANIFEST_REPAIR = "restore it from a copy, or use another folder"


@contextmanager
def locked(folder: Path, lock: str = LOCK) -> Iterator[None]:
    """Create ``folder``, lock it and delete the temporary files that a killed command left there.

    Raises :class:`StoreError` if it is locked already or cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / lock, timeout=0).acquire()
    except Timeout:
        raise StoreError(f"{folder}: another lr2eval is writing to it; wait or choose another --out") from None
    except OSError as error:
        raise StoreError(f"{folder}: {error.strerror or error}; fix this and run the same command again") from error
    with held:
        sweep(folder)
        yield


def claim(folder: Path, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the manifest of a new folder (``settings`` and ``facts``), or check that an old one has these ``settings``.

    Raises :class:`UsageError` naming the keys that differ.
    """
    known = read_manifest(folder)
    if known is None:
        write_manifest(folder, {**facts, "settings": dict(settings)})
    else:
        refuse_other(known["settings"], settings, folder)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, or ``None`` if there is none. Raises :class:`StoreError` if it is damaged.

    Older versions wrote it without a checksum.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    value = read_object(path, error=StoreError, fix=MANIFEST_REPAIR)
    if not isinstance(value.get("settings"), dict):
        raise StoreError(f"{path}: not a manifest of lr2eval; use another folder")
    check_seal(value, path, MANIFEST_REPAIR)
    return value


def refuse_other(old: Mapping[str, Any], new: Mapping[str, Any], folder: Path) -> None:
    """Raise :class:`UsageError` with the keys in which the settings of a folder differ from the new ones."""
    before, after = _flat(old), _flat(new)
    keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if keys:
        shown = "; ".join(f"{key}: was {_short(before.get(key))}, now {_short(after.get(key))}" for key in keys[:6])
        more = f" and {len(keys) - 6} more" if len(keys) > 6 else ""
        raise UsageError(f"{folder}: has another configuration ({shown}{more}); choose another --out")


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest with its checksum, atomically."""
    write_json(folder / MANIFEST, sealed(manifest))


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat.update(_flat(item, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
