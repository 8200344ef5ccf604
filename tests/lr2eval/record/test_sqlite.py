"""What the errors of SQLite mean to a user, from real errors where the system can make one."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from lr2eval.comparisons.scores import read_run
from lr2eval.errors import DiskError, StoreError
from lr2eval.record.sqlite import one_line, open_durable
from tests.fake_runs import fake_run, ones

_LIMITED = """
import resource, signal, sys
from pathlib import Path
from lr2eval.errors import StoreError
from lr2eval.record.sqlite import one_line, open_durable

path = Path(sys.argv[1])
db = open_durable(path, "create table if not exists t (x)")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    with one_line(path):
        db.execute("insert into t values (zeroblob(1000000))")
except StoreError as error:
    print(error)
"""
KEPT = "run the same command again; finished work is kept"


def said(error: Exception, path: Path) -> str:
    with pytest.raises(StoreError) as caught, one_line(path):
        raise error
    return str(caught.value)


def named(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    return error


def test_a_write_that_the_system_refuses(tmp_path: Path) -> None:
    """Here the limit of a process, not the disk, stops the write: SQLite says "disk I/O error"."""
    command = [sys.executable, "-c", _LIMITED, str(tmp_path / "x.sqlite")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "disk I/O error; the disk is full or failed" in done.stdout, done.stderr
    assert KEPT in done.stdout
    db = open_durable(tmp_path / "x.sqlite", "create table if not exists t (x)")
    assert db.execute("select count(*) from t").fetchone() == (0,), "what was committed can be read"


@pytest.mark.parametrize("name", ["SQLITE_IOERR_FSYNC", "SQLITE_IOERR_WRITE", "SQLITE_CANTOPEN", "SQLITE_FULL"])
def test_no_space_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    assert said(named(name), tmp_path / "x").endswith(f"the disk is full: free some space and {KEPT}")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("SQLITE_IOERR_FSYNC", "the disk is full or failed"),
        ("SQLITE_READONLY_DBMOVED", "make the folder writable"),
        ("SQLITE_CANTOPEN_ISDIR", "make the folder writable"),
        ("SQLITE_BUSY_SNAPSHOT", "another lr2eval is writing"),
        ("SQLITE_LOCKED", "another lr2eval is writing"),
        ("SQLITE_CORRUPT_INDEX", "the database is damaged"),
        ("SQLITE_NOTADB", "the database is damaged"),
        ("SQLITE_ERROR", "the database is damaged"),
    ],
)
def test_with_space_left(tmp_path: Path, name: str, fix: str) -> None:
    assert f"; {fix}" in said(named(name), tmp_path / "x")


def test_real_errors(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, but it is longer than its header would be" * 20)
    with pytest.raises(StoreError, match="the database is damaged"), one_line(tmp_path / "text"):
        open_durable(tmp_path / "text", "")
    with pytest.raises(StoreError, match="make the folder writable"), one_line(tmp_path):
        sqlite3.connect(tmp_path / "missing" / "x").execute("select 1")
    first = sqlite3.connect(tmp_path / "x", isolation_level=None)
    first.execute("create table t (x)")
    first.execute("begin exclusive")
    with pytest.raises(StoreError, match="another lr2eval is writing"), one_line(tmp_path / "x"):
        sqlite3.connect(tmp_path / "x", timeout=0).execute("insert into t values (1)")


def test_a_failed_disk_says_nothing_about_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no verdict: exit 5, not 4."""

    def failing(*_: object, **__: object) -> None:
        raise DiskError("the disk is full")

    fake_run(tmp_path / "run", {"mmlu/a": ones(3)})
    monkeypatch.setattr("lr2eval.comparisons.scores.verified_run", failing)
    with pytest.raises(DiskError) as caught:
        read_run(tmp_path / "run")
    assert caught.value.exit_code == 5
