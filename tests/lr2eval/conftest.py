from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lr2eval import cli

MAKE_TOY = Path(__file__).parents[2] / "benchmarks" / "make_toy_model.py"


@pytest.fixture(scope="session")
def toy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama with a byte-level tokenizer and a window of 1024 tokens. Do not change it in place."""
    folder = tmp_path_factory.mktemp("toy") / "toy"
    subprocess.run([sys.executable, str(MAKE_TOY), str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One user cache for all tests of the session, so that data is made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def toy(toy_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the toy checkpoint that the test may damage."""
    return Path(shutil.copytree(toy_checkpoint, tmp_path / "model"))


class Outcome:
    """What one call of the command line printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def error(self) -> str:
        """The error line; fails the test if there is none, more than one, or a traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip().endswith(lines[0]), self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("error: ")


@pytest.fixture
def lr2eval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shared_cache: Path
) -> Callable[..., Outcome]:
    """Call the command line in this process: ``lr2eval("run", "--model", folder)``."""
    monkeypatch.setenv("LR2EVAL_CACHE", str(shared_cache))
    monkeypatch.setattr("signal.signal", lambda *_: None)  # pytest's own handlers stay

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["lr2eval", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        printed = capsys.readouterr()
        code = caught.value.code
        return Outcome(code if isinstance(code, int) else int(code is not None), printed.out, printed.err)

    return call
