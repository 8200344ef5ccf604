"""Counts of answers that went astray are the stored ones, benchmark by benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lr2eval.reports import render
from lr2eval.reports.load import load
from lr2eval.reports.run import tables
from tests.reports.page import Page


def test_counts_are_the_stored_ones(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", tasks=("vt", "cwe"), lengths=(4096,), subjects=2, samples=10, skipped=2, truncated=1)
    path = run / "results.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    for place, shard in enumerate(stored["shards"]):
        shard |= {"refused": place, "empty": 3 * place}
    path.write_text(json.dumps(stored), encoding="utf-8")
    ruler, mmlu = tables.share_rows(load([run]))
    assert (ruler.benchmark, ruler.n, ruler.counts) == ("ruler", 16, (2, 3, 1, 4))
    assert (mmlu.benchmark, mmlu.n, mmlu.counts[1:3]) == ("mmlu", 2, (15, 5))
    assert [ruler.text(kind) for kind in range(4)] == ["12\u00a0%", "19\u00a0%", "6\u00a0%", "20\u00a0%"]
    rows = Page(render([run], tmp_path / "r.html").read_text(encoding="utf-8")).tables["shares-table"]
    assert [cell[0].get("data-v") for cell in rows[1][1:]] == ["2", "3", "1", "4", "16"]


def test_nothing_scored_has_no_share(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", tasks=("vt",), lengths=(4096,), subjects=0, samples=3, skipped=3)
    (row,) = tables.share_rows(load([run]))
    assert (row.n, row.text(0), row.text(3)) == (0, "–", "100\u00a0%")
