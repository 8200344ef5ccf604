"""Writing files: all or none, and nothing of a killed command stays."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lr2eval.base.files import (
    expanded,
    file_name,
    is_full,
    is_temporary,
    output_folder,
    sweep,
    temporary,
    write_all,
    write_atomic,
)
from lr2eval.errors import StoreError, UsageError

_KILLED = """
import os, signal, sys
from pathlib import Path
from lr2eval.base.files import write_all

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

os.{step} = killed
write_all({{Path(sys.argv[1]) / name: [b"new"] for name in ("a", "b")}})
"""


def killed_while_writing(folder: Path, step: str) -> int:
    """A process writes ``a`` and ``b`` in ``folder`` and is killed at the first ``step``. Its number."""
    process = subprocess.Popen([sys.executable, "-c", _KILLED.format(step=step), str(folder)])
    assert process.wait() == -signal.SIGKILL
    return process.pid


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_the_next_write_cleans_up_after_a_kill(tmp_path: Path, step: str) -> None:
    write_all({tmp_path / name: [b"old"] for name in ("a", "b")})
    pid = killed_while_writing(tmp_path, step)
    assert (tmp_path / f".a.{pid}.tmp").exists()
    assert {(tmp_path / name).read_bytes() for name in ("a", "b")} == {b"old"}
    assert output_folder(tmp_path) == {"a", "b"}
    write_all({tmp_path / name: [b"new"] for name in ("a", "b")})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new", "b": b"new"}


def test_only_what_no_process_writes_any_more_is_deleted(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    kept = {f".a.{os.getppid()}.tmp", ".a.tmp", ".a.12x.tmp", "a.12.tmp", ".hidden", f".other.{gone.pid}.tmp"}
    for name in (*kept, f".a.{gone.pid}.tmp", temporary(tmp_path / "a").name):
        (tmp_path / name).touch()
    folder = tmp_path / f".model.{gone.pid}.tmp"
    (folder / "inner").mkdir(parents=True)
    sweep(tmp_path, "a")
    assert {path.name for path in tmp_path.iterdir()} == kept | {folder.name}
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept - {f".other.{gone.pid}.tmp"}


def test_a_link_is_deleted_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "home" / "inner").mkdir(parents=True)
    link = temporary(tmp_path / "a")
    link.symlink_to(tmp_path / "home", target_is_directory=True)
    sweep(tmp_path)
    assert not link.is_symlink()
    assert (tmp_path / "home" / "inner").is_dir()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int) -> None:
    """The second file cannot be synced, or no file can be renamed: the old ones stay, and nothing else."""
    write_all({tmp_path / name: [b"old"] for name in ("a", "b")})
    calls, real = [], getattr(os, step)

    def failing(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) > (step == "fsync"):
            raise OSError(code, os.strerror(code))
        real(*arguments)

    monkeypatch.setattr(f"os.{step}", failing)
    with pytest.raises(StoreError) as caught:
        write_all({tmp_path / name: [b"new"] for name in ("a", "b")})
    fix = "make the folder writable" if code == errno.EROFS else "free some space"
    name = "b" if step == "fsync" else "a"
    assert str(caught.value) == f"{tmp_path / name}: {os.strerror(code)}; {fix}, then run again"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old", "b": b"old"}


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "a", "old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--out .*Not a directory; choose a folder that can be written"):
        output_folder(tmp_path / "file" / "out")
    assert output_folder(tmp_path / "new") == set()
    assert list((tmp_path / "new").iterdir()) == []


def test_names_and_errors() -> None:
    assert is_temporary(".samples.jsonl.7.tmp")
    assert not is_temporary("samples.7.tmp")
    assert is_full(OSError(errno.ENOSPC, "x"))
    assert is_full(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not is_full(OSError(errno.EACCES, "x"))
    assert not is_full(None)


def test_a_home_of_nobody_is_a_plain_name() -> None:
    assert expanded("~~~/x") == Path("~~~/x")
    assert expanded("~/x") == Path.home() / "x"


@pytest.mark.parametrize(
    ("text", "name"),
    [("org/my model", "org-my-model"), ("../..", "other"), ("", "other"), ("ümlaut", "mlaut"), ("a:b=1.5", "a-b-1.5")],
)
def test_a_file_name_cannot_leave_its_folder(text: str, name: str) -> None:
    assert file_name(text, "other") == name
