"""No failure looks like a verdict: what nobody foresaw is one line and exit code 70."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


class Unforeseen(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (Unforeseen("boom\x1b[31m"), 70, "internal error (Unforeseen: boom⟨U+001B⟩[31m)"),
        (RecursionError("deep"), 70, "internal error (RecursionError: deep)"),
        (OSError(5, "Input/output error"), 70, "internal error (OSError"),
        (SystemExit(1), 70, "internal error (SystemExit: 1)"),
        (SystemExit(0), 70, "internal error (SystemExit: 0)"),
        (BaseException(), 70, "internal error (BaseException"),
        (MemoryError(), 5, "out of memory"),
        (OSError(28, "No space left on device", "x"), 5, "x: No space left on device"),
    ],
)
def test_no_failure_looks_like_a_verdict(
    error: BaseException, code: int, text: str, lr2eval: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("lr2eval.workflows.compare.compare", fail)
    done = lr2eval("compare", tmp_path, tmp_path)
    assert done.code == code
    assert done.error.startswith(text)
    if code == 70 or isinstance(error, MemoryError):
        named = re.search(r"the traceback in (.+?\.txt)", done.error)
        assert named is not None
        saved = Path(named[1])
        assert type(error).__name__ in saved.read_text()
        saved.unlink()


def test_a_broken_installation_does_not_exit_with_1(tmp_path: Path) -> None:
    script = "import sys; sys.modules['typer'] = None; from lr2eval.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 70
    assert done.stderr.startswith("error: lr2eval is not installed correctly")


def test_a_reader_that_has_enough_is_no_failure() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "import time; from lr2eval.__main__ import main; time.sleep(1); main()", "tasks"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert child.stderr.read() == ""
        assert child.wait() == 141


@pytest.mark.parametrize("text", ["a\0b", "\udcff", "runs/\ud800"])
@pytest.mark.parametrize("command", [("report",), ("compare", "a"), ("run", "--model"), ("data", "show"), ("rope",)])
def test_text_that_no_file_can_have_as_its_name(command: tuple[str, ...], text: str, lr2eval: Run) -> None:
    done = lr2eval(*command, text)
    assert done.code == 2
    assert "has a zero byte" in done.error or "is not UTF-8 text" in done.error
    assert text not in done.err


def test_a_name_that_no_file_can_have(lr2eval: Run) -> None:
    done = lr2eval("run", "--model", "x" * 3000, "--tasks", "ruler:vt")
    assert done.code == 2
    assert "File name too long" in done.error


def test_a_closed_output_is_no_fault_of_ours() -> None:
    script = f"exec {sys.executable} -m lr2eval models list >&- 2>&-"
    assert subprocess.run(["sh", "-c", script], check=False).returncode == 0
