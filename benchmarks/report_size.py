"""Size and time of the report of a comparison: 13 RULER tasks x 6 lengths x 500 samples x 2 models.

``python benchmarks/report_size.py`` writes synthetic runs (every answer 700 characters full of marks that HTML must
escape, four needles per prompt), renders their comparison in a process of its own and writes
``benchmarks/results/report_size.json``. The limits are 3 MB and 10 s.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import facts

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

RENDER = """
import json, re, sys, time
from pathlib import Path
started = time.perf_counter()
from lr2eval.record.comparison import Comparison, Gate
from lr2eval.reports import render
imported = time.perf_counter()
folder = Path(sys.argv[1])
comparison = Comparison.model_validate_json((folder / "comparison.json").read_bytes())
gate = Gate.model_validate_json((folder / "gate.json").read_bytes())
out = render([folder / "original", folder / "extended"], folder / "report.html", comparison=comparison, gate=gate)
print(json.dumps({"bytes": out.stat().st_size, "import_seconds": round(imported - started, 2),
    "render_seconds": round(time.perf_counter() - imported, 2), "cpu_seconds_in_all": round(time.process_time(), 2),
    "peak_mib": int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024}))
"""


def measure(folder: Path, **arguments: Any) -> dict[str, Any]:
    from tests.reports.conftest import compare_runs, make_gate, make_pair

    long = " ".join(['He said: "<b>5 & 7</b>" isn\'t <5>;'] * 22)
    runs = make_pair(folder, hostile=False, texts=(long,), needles=4, **arguments)
    comparison = compare_runs(runs)
    (folder / "comparison.json").write_text(comparison.model_dump_json(), encoding="utf-8")
    (folder / "gate.json").write_text(make_gate(comparison).model_dump_json(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", RENDER, str(folder)], capture_output=True, text=True, check=True, cwd=HERE.parent
    )
    found: dict[str, Any] = json.loads(done.stdout)
    samples = sum(shard.n for shard in comparison.pairs[0].differences if shard.level == "shard")
    return {"pairs": samples, **found}


def main() -> int:
    suite = {"tasks": tuple(f"task_{number:02d}" for number in range(13)), "samples": 500}
    suite |= {"lengths": tuple(4096 * 2**step for step in range(6))}
    with tempfile.TemporaryDirectory() as work:
        results = {
            "what": "report of a comparison of two synthetic runs, long answers full of characters to escape",
            "ruler 13 x 6 x 500": measure(Path(work) / "a", subjects=0, **suite),
            "the same with 57 MMLU subjects and two needle grids": measure(
                Path(work) / "b", subjects=57, grid=("single", "multi"), **suite
            ),
            "machine": facts(),
        }
    text = json.dumps(results, indent=1)
    (HERE / "results" / "report_size.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    small = all(case["bytes"] < 3_000_000 for case in results.values() if isinstance(case, dict) and "bytes" in case)
    return 0 if small else 1


if __name__ == "__main__":
    sys.exit(main())
