"""What ``tests/conftest.py`` promises: CI refuses avoidable skips, groups stay together, folders are made once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BOTH = pytest.mark.parametrize("processes", ["0", "2"], ids=["alone", "two workers"])


def run(folder: Path, processes: str, files: dict[str, str], **environment: str) -> tuple[int, list[str]]:
    """pytest's exit code and what it prints for these test files under our conftest."""
    tests = folder / "checkout" / "tests"
    tests.mkdir(parents=True)
    shutil.copy(HERE / "conftest.py", tests)
    for name, text in files.items():
        (tests / f"test_{name}.py").write_text(text)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LR2EVAL_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-n", processes]
    done = subprocess.run(
        [*command, "--dist", "loadgroup", "tests"],
        cwd=tests.parent,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


SKIPS = {
    "passes": "def test_passes(): pass",
    "fine": "import pytest\ndef test_gpu(): pytest.skip('no GPU here')",
    "data": "def test_data(shared_data): pass",
    "browser": "import pytest\ndef test_browser(): pytest.skip('Chromium absent: install it')",
    "ray": "import pytest\npytest.importorskip('no_such_ray', reason='ray is not installed')\ndef test_ray(): pass",
}
REFUSED = "CI does not accept this skip: "


@BOTH
def test_ci_fails_for_each_skip_that_need_not_be(tmp_path: Path, processes: str) -> None:
    (tmp_path / "shared" / "data").mkdir(parents=True)
    code, lines = run(tmp_path, processes, SKIPS, LR2EVAL_CI="1", LR2EVAL_SHARED_DATA=str(tmp_path / "elsewhere"))
    assert code == pytest.ExitCode.TESTS_FAILED, lines
    refused = sorted(line.removeprefix(REFUSED) for line in lines if line.startswith(REFUSED))
    for found, expected in zip(refused, ("test_browser", "test_data|shared data", "test_ray"), strict=True):
        assert re.search(expected, found), refused
    assert re.fullmatch(r"1 passed, 4 skipped in [\d.]+s", lines[-1])


@BOTH
def test_other_skips_are_no_failure(tmp_path: Path, processes: str) -> None:
    unavoidable = {name: SKIPS[name] for name in ("passes", "fine", "data")}  # nothing lies beside this checkout
    code, lines = run(tmp_path, processes, unavoidable, LR2EVAL_CI="1")
    assert (code, [line for line in lines if REFUSED in line]) == (0, []), lines
    assert re.fullmatch(r"1 passed, 2 skipped in [\d.]+s", lines[-1])


def test_groups_and_modules_stay_in_one_worker_with_one_thread_and_a_folder_is_made_once(tmp_path: Path) -> None:
    module = """
import os
from pathlib import Path
import pytest

LOG = Path(os.environ["LOG"])

@pytest.mark.parametrize("number", range(6))
def test_one(number, once):
    assert {os.environ[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")} == {"1"}
    def make(folder):
        (folder / "made").touch()
        with LOG.open("a") as log:
            log.write("made -\\n")
    assert (once("shared", make) / "made").exists()
    with LOG.open("a") as log:
        log.write(f"{Path(__file__).stem} {os.environ['PYTEST_XDIST_WORKER']}\\n")
"""
    log = tmp_path / "log"
    named = module + '\npytestmark = pytest.mark.xdist_group("named")'
    files = {**dict.fromkeys("abc", module), **dict.fromkeys("xy", named)}
    code, lines = run(tmp_path, "2", files, LOG=str(log), OMP_NUM_THREADS="7")
    assert code == 0, lines
    found = [line.split() for line in log.read_text().splitlines()]
    assert found.count(["made", "-"]) == 1
    workers = {name: {worker for module, worker in found if module == name} for name, _ in found}
    assert all(len(each) == 1 for each in workers.values()), workers
    assert workers["test_x"] == workers["test_y"]
    assert len(set().union(*workers.values()) - {"-"}) == 2, "both workers work"
