"""A command that is killed as it renames its first file: the same command starts again and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.base.files import is_temporary
from lr2eval.model.names import BUILT_IN

_KILLED = """
import os, signal, sys
real = os.replace

def killed(draft, path, **options):
    if os.path.basename(path) == "{name}":
        os.kill(os.getpid(), signal.SIGKILL)
    real(draft, path, **options)

os.replace = killed
from lr2eval.cli import main
main()
"""
RUN = ("run", "--tasks", "facts", "--limit", "2", "--device", "cpu", "--offline")
MAKE = ("data", "make", "--tasks", "ruler:niah_single_1", "--lengths", "768", "--samples-per-task", "2", "--offline")
EXPORT = ("export", "--factors", str(BUILT_IN / "demo-longrope2" / "rope_factors.json"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("command", "name"), [(RUN, "manifest.json"), (MAKE, "niah_single_1-768.jsonl"), (EXPORT, "out")],
    ids=["run", "data make", "export"],
)  # fmt: skip
def test_the_same_command_again(
    command: tuple[str, ...], name: str, toy_checkpoint: Path, tmp_path: Path, shared_cache: Path,
    lr2eval: Callable[..., Any],
) -> None:  # fmt: skip
    out = tmp_path / "home" / "out"
    model = "demo" if command is EXPORT else str(toy_checkpoint)
    arguments = [*command, "--model", model, "--out", str(out)]
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED.format(name=name), *arguments],
        env={**os.environ, "LR2EVAL_CACHE": str(shared_cache)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert any(is_temporary(path.name) for path in out.parent.rglob("*")), "the test killed too early or too late"
    again = lr2eval(*arguments)
    assert again.code == 0, again.err
    assert not [path for path in out.parent.rglob("*") if is_temporary(path.name)]
