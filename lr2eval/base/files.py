"""Where things live on the user's machine, and writing files so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lr2eval.errors import StoreError, UsageError


def cache_dir() -> Path:
    """The user cache: ``$LR2EVAL_CACHE``, else ``$XDG_CACHE_HOME/lr2eval``, else ``~/.cache/lr2eval``."""
    if given := os.environ.get("LR2EVAL_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lr2eval"


def temporary(path: Path) -> Path:
    """Where this process writes ``path`` before it renames it."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<process>\d{1,10})\.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file or folder has a name of :func:`temporary`. It holds nothing that a command needs."""
    return _TEMPORARY.fullmatch(name) is not None


def sweep(folder: Path, name: str = "") -> None:
    """Delete what killed commands left in ``folder``: temporary files and folders of ``name`` (default: of any name).

    Those of other processes that still run stay. Errors are ignored, because a leftover does no harm.
    """
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            found = _TEMPORARY.fullmatch(path.name)
            if found is None or (name and found["name"] != name) or _runs(int(found["process"])):
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _runs(process: int) -> bool:
    """Whether another process of this number runs. A container gives the same number to each of its main processes."""
    import psutil

    return process != os.getpid() and psutil.pid_exists(process)


def file_name(text: str, otherwise: str) -> str:
    """``text`` with a dash for whatever may not stand in a file name; ``otherwise`` if nothing is left."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or otherwise


def expanded(path: Path | str) -> Path:
    """The path with the home folder for ``~``. A name such as ``~x`` stays if there is no user ``x``."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` so that ``path`` holds the old content or the new, whatever happens in between."""
    write_all({path: [text.encode("utf-8")]})


def write_all(files: Mapping[Path, Iterable[bytes]], fix: str = "make the folder writable") -> None:
    """Write files, each part after part, all of them or none: a full disk leaves the old ones.

    Only a kill between two renames, which take no space and no time, can leave some old and some new.
    Raises :class:`StoreError` that names the file and the ``fix``.
    """
    # Not mkstemp: its files are readable by their owner alone, and these are results to share.
    drafts = {path: temporary(path) for path in files}
    try:
        for path, parts in files.items():
            sweep(path.parent, path.name)
            with drafts[path].open("wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
        for path, draft in drafts.items():
            os.replace(draft, path)
    except BaseException as error:
        for draft in drafts.values():
            with contextlib.suppress(OSError):
                draft.unlink()
        if isinstance(error, OSError):
            raise StoreError(f"{path}: {disk_problem(error, fix)}, then run again") from error
        raise


def disk_problem(error: OSError, fix: str = "fix this") -> str:
    """What the system says and what to do: free some space if the disk is full, otherwise ``fix``."""
    text = str(error.strerror or error)
    return f"{text}; {'free some space' if is_full(error) else fix}"


def is_full(error: BaseException | None) -> bool:
    """Whether the disk, or the user's share of it, is full. Rust libraries say so only in the text of their errors."""
    code = getattr(error, "errno", None)
    return code in (errno.ENOSPC, errno.EDQUOT) or (code is None and os.strerror(errno.ENOSPC) in str(error))


def write_json(path: Path, value: Any) -> None:
    """:func:`json_text` of ``value``, written atomically."""
    write_atomic(path, json_text(value))


def json_text(value: Any) -> str:
    """``value`` as indented JSON. Raises :class:`ValueError` for NaN: no reader should meet it."""
    import json

    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_hashed(path: Path, parts: Iterable[bytes]) -> tuple[str, int]:
    """Write one file, part after part; returns the sha256 (hex) and the number of bytes of what was written."""
    write_all({path: parts})
    return sha256(path), path.stat().st_size


def read_parts(path: Path) -> Iterator[bytes]:
    """The bytes of a file, a megabyte at a time."""
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            yield part


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock_file(path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file ``path``. If another process holds it, ``say`` is told and this one waits."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        held = lock.acquire(timeout=0.5)
    except Timeout:
        say(f"waiting for another run of lr2eval that works in {path.parent}")
        held = lock.acquire()  # the system releases the lock of a process that dies
    with held:
        yield


def output_folder(out: Path) -> set[str]:
    """Make the folder of ``--out``, check that it can be written, and list it without temporary files."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = temporary(out / "probe")
        probe.touch()
        probe.unlink()
        return {path.name for path in out.iterdir() if not is_temporary(path.name)}
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror or error}; choose a folder that can be written") from error
