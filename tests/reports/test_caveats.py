"""Counts of answers that went wrong in some way are the stored ones, run by run and shard by shard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lr2eval.reports import render
from lr2eval.reports.caveats import caveats
from lr2eval.reports.load import load
from tests.reports.page import Page

COUNTED = {"truncated": "Truncated prompts", "skipped": "Skipped samples", "empty": "Empty answers",
           "refused": "Refused answers"}  # fmt: skip


def test_counts_are_the_stored_ones(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", tasks=("vt", "cwe"), lengths=(4096,), subjects=2, samples=10, skipped=2, truncated=1)
    path = run / "results.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    for place, shard in enumerate(stored["shards"]):
        shard |= {"refused": place, "empty": 3 * place}
    path.write_text(json.dumps(stored), encoding="utf-8")
    found = {caveat.title: caveat.details for caveat in caveats(load([run]))}
    every = sum(shard["n"] for shard in stored["shards"])
    page = Page(render([run], tmp_path / "r.html").read_text(encoding="utf-8"))
    for kind, title in COUNTED.items():
        [(_, (text, shards))] = found[title]
        some = sum(shard[kind] for shard in stored["shards"])
        of = every + some if kind == "skipped" else every
        assert text == f"{some} of {of} samples ({100 * some / of:.1f}\u00a0%)."
        named = [shard for shard in stored["shards"] if shard[kind]]
        assert [line.split(": ")[1] for line in shards] == [
            f"{shard[kind]} of {shard['n'] + (shard['skipped'] if kind == 'skipped' else 0)}" for shard in named
        ]
        assert text in page.text
    columns = [cell[1].rstrip("↕ ") for cell in page.tables["shards"][0]]
    for row, shard in zip(page.tables["shards"][1:], stored["shards"], strict=True):
        shown = dict(zip(columns, (cell[0].get("data-v") for cell in row), strict=True))
        for kind in COUNTED:
            assert shown[kind.capitalize()] == str(shard[kind])


def test_nothing_scored_has_no_share_but_what_was_skipped(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", tasks=("vt",), lengths=(4096,), subjects=0, samples=3, skipped=3)
    found = {caveat.title: caveat.details for caveat in caveats(load([run]))}
    [(_, (text, _))] = found["Skipped samples"]
    assert text == "3 of 3 samples (100.0\u00a0%)."
    assert not {"Truncated prompts", "Empty answers", "Refused answers"} & set(found)


def test_prompts_that_were_read_in_pieces_are_listed(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", tasks=("vt",), lengths=(4096,), subjects=0, samples=3)
    assert "Prompts read in pieces" not in {caveat.title for caveat in caveats(load([run]))}
    path = run / "manifest.json"
    chunks = {"ruler/vt@4096": [1024, 4096]}
    path.write_text(json.dumps({**json.loads(path.read_text()), "prefill_chunks": chunks}), encoding="utf-8")
    found = {caveat.title: caveat.details for caveat in caveats(load([run]))}
    [(_, (_, shards))] = found["Prompts read in pieces"]
    assert shards == ["ruler/vt@4096: 1,024, 4,096 tokens"]
