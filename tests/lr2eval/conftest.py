from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lr2eval import cli, plugins, registry


@pytest.fixture
def toy(toy_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the toy checkpoint that the test may damage."""
    return Path(shutil.copytree(toy_checkpoint, tmp_path / "model"))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a module with entry points on ``sys.path``, as pip would. Its name begins with ``strange_``."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)

    def add(module: str, source: str, points: str, *, group: str = plugins.TASKS) -> None:
        (site / f"{module}.py").write_text(source)
        info = site / f"{module}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{points}\n")

    plugins._import.cache_clear()
    registry._load.cache_clear()
    yield add
    for name in set(sys.modules) - before:
        if name.startswith("strange_"):
            del sys.modules[name]
    plugins._import.cache_clear()
    registry._load.cache_clear()


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
