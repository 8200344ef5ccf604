"""The scripts that wait for a GPU, rehearsed on a CPU: every stage runs, the numbers mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.xdist_group("rehearsal")
def test_an_extension_in_slices(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu" / "smollm2_extend.py"), "--rehearse"]
    environment = os.environ | {"LR2EVAL_CACHE": str(tmp_path / "cache")}

    def call(seconds: int) -> subprocess.CompletedProcess[str]:
        arguments = [*command, "--out", str(tmp_path / "out"), "--slice", str(seconds)]
        return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)

    first = call(70)  # ten seconds of work and a minute to stop in
    assert first.returncode == 75, first.stderr
    last = call(900)
    assert last.returncode == 0, last.stderr
    assert "benchmark   length     n  original  extended" in last.stdout
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [part["exit"] for part in result["slices"]] == [75, 0]
    assert {(row["benchmark"], row["length"]) for row in result["table"]} == {
        ("facts", None), ("ruler", 512), ("ruler", 1024),
    }  # fmt: skip
