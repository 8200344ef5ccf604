"""The numbers and tables of the reproduction, and that its page says what was found."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reproduction import screen, tables
from reproduction.cells import plan
from reproduction.intervals import over_seeds, paired, pooled, share
from reproduction.store import Store, pack, unpack

from lr2eval.method.rope.rules import longrope2, yarn
from lr2eval.stats.scores import t_interval, wilson
from tests.test_reproduction import BOTH, DESIGN, RIGHT, ROOT, ROPE, _scaling


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_answers_come_back_from_a_line(right: list[bool]) -> None:
    packed = json.loads(json.dumps(pack(np.array(right, float))))
    assert unpack(packed).tolist() == [float(each) for each in right]
    assert (packed["right"], packed["asked"]) == (sum(right), len(right))
    with pytest.raises(ValueError, match="not its numbers"):
        unpack(packed | {"right": packed["right"] + 1})


def test_an_interval_counts_documents_where_their_answers_go_together() -> None:
    rng = np.random.default_rng(0)
    document = np.repeat(np.arange(50), 12)
    alone = (rng.random(600) < 0.7).astype(float)
    found = share(alone, document)
    assert found.n == 600
    assert found.high - found.low < 1.3 * np.diff(wilson(found.mean, 600))[0]
    together = np.repeat((rng.random(50) < 0.7).astype(float), 12)
    found = share(together, document)
    assert (found.low, found.high) == pytest.approx(wilson(found.mean, 50), abs=0.02)
    assert share(np.ones(600), document).low == wilson(1.0, 600)[0]


def test_differences_are_paired_and_seeds_are_what_is_counted_over_them() -> None:
    old = np.array([1, 0, 1, 1, 0, 1] * 20, float)
    document = np.repeat(np.arange(40), 3)
    assert paired(old, old, document, 0.9).low < 0 == paired(old, old, document, 0.9).mean
    better = paired(np.ones(120), old, document, 0.9)
    assert better.mean == pytest.approx(1 / 3)
    assert better.low > 0.2
    alike = np.repeat([1.0, 0.0] * 20, 3)  # all answers of a document
    assert pooled([(np.ones(120), alike, document), (alike, alike, document)], 0.95).mean == pytest.approx(1 / 4)
    apart = pooled([(np.ones(120), alike, document)] * 2, 0.95)
    mixed_up = paired(np.ones(240), np.tile(alike, 2), np.tile(document, 2), 0.95)
    assert apart.n == 240
    assert mixed_up.high - mixed_up.low > 1.2 * (apart.high - apart.low), "documents of two seeds are different ones"
    values = [0.9, 0.95, 0.99]
    assert (over_seeds(values).low, over_seeds(values).high) == pytest.approx(t_interval(values))
    assert over_seeds(values, (0, 1)).high == 1
    assert np.isnan(over_seeds([0.5]).low)


RULE = yarn(ROPE, 2048).to_json()


def _results(tmp_path: Path, shares: dict[str, list[float]], left_out: int = 0) -> tables.Results:
    """Three seeds; ``shares``: of right answers by FACTORS/TEMPERATURE/TRAINING for each seed that is there. The last
    ``left_out`` documents are read by the original alone."""
    store = Store(tmp_path / "results.jsonl", DESIGN.to_json())
    names = [f"{task}@{length}" for task in DESIGN.own["tasks"] for length in DESIGN.lengths] + ["facts@128"]
    for seed in DESIGN.seeds:
        store.add({"key": f"{seed}", "questions": {name: [10] * 10 for name in names}})
    for name, each in shares.items():
        for seed, right in enumerate(each):
            kept = np.arange(100 - 10 * left_out * (not name.startswith("none"))) % 20 < 20 * right
            answers = {task: pack(kept) for task in names}
            store.add({"key": f"{seed}/{name}", "rope": RULE, "answers": answers, "left_on": answers})
    return tables.Results(DESIGN, store)


def test_tables_say_what_is_there_and_what_is_missing(tmp_path: Path) -> None:
    results = _results(tmp_path, {
        "none/1/no": [0.5, 0.5, 0.5], "none/su/no": [0.45, 0.5, 0.5], "left-1/right-searched/su/no": [0.9, 1.0, 0.8],
        "yarn/su/no": [0.8, 0.9], "yarn/1/no": [0.7, 0.9], "left-1/right-s/su/no": [0.8, 0.9, 0.7],
        "left-q/right-searched/su/no": [0.9, 1.0, 0.9], "gradient/own/no": [1.0, 1.0, 1.0],
        "ntk/su/no": [0.9, 1.0, 0.8],
    })  # fmt: skip
    every = tables.table(results, "factors no 16x").splitlines()
    low, high = t_interval([0.9, 1.0, 0.8])
    (row,) = [line for line in every if line.startswith("| q = 1, right side searched = published search |")]
    assert row == "| q = 1, right side searched = published search | su | missing | missing | " + (
        f"90.0 [{100 * low:.1f}, {100 * min(high, 1):.1f}], n 3 |  |  |"
    )
    yarn = "| YaRN | YaRN's | missing | 80.0 [0.0, 100.0], n 2 | 85.0 [21.5, 100.0], n 2 | missing |"
    assert any(yarn in x for x in every)
    seeds = tables.table(results, "seeds no 16x")
    share_of = share(np.arange(300) % 20 < 18, np.repeat(np.arange(30), 10))
    said = f"90.0 [{100 * share_of.low:.1f}, {100 * share_of.high:.1f}]"
    assert f"| q = 1, right side searched | su | 300 in 30 | {said} | 100.0 [" in seeds
    assert ", n 900 in 90 |" in seeds
    assert "| YaRN | su | 300 in 30 | 80.0 [" in seeds

    def row_of(name: str, start: str) -> list[str]:
        (line,) = [each for each in tables.table(results, name).splitlines() if each.startswith(f"| {start} |")]
        return [cell.partition(" [")[0] for cell in line.strip("| ").split(" | ")[1:]]

    said_right = "q = 1, temperature su: searched minus s"
    assert row_of("right no 16x", said_right) == ["300 in 30", "+10.0", "+10.0", "+10.0", "+10.0", "+10.0"]
    assert row_of("right no 16x", "q = 1, temperature su: searched minus NTK's")[1:4] == ["+0.0"] * 3, "that is NTK"
    assert row_of("right no 16x su", "q = 1: searched minus s") == row_of("right no 16x", said_right)
    for name in ("right no 16x su", "left no 16x su"):
        at_su = tables.table(results, name)
        assert at_su.startswith(f"| {name.split()[0]} side, temperature su; no training, 16x |")
        assert at_su.count("\n") < tables.table(results, name.removesuffix(" su")).count("\n")
    assert "YaRN's minus 1" not in tables.table(results, "temperature no 16x su")
    assert row_of("temperature no 16x su", "YaRN: su minus 1") == row_of("temperature no 16x", "YaRN: su minus 1")
    assert row_of("right no 8x", said_right)[0] == "100 in 10", "one task is asked there"
    left = row_of("left no 16x", "right side searched, temperature su: q searched minus q = 1")
    assert left == ["300 in 30", "+0.0", "+0.0", "+10.0", "+3.3", "+3.3"]
    assert row_of("temperature no 16x", "YaRN: su minus 1") == ["300 in 30", "+10.0", "+0.0", "missing", "+5.0", "+5.0"]
    searched = row_of("searches no 16x", "gradient search at its own minus published search at su")
    assert searched == ["300 in 30", "+10.0", "+0.0", "+20.0", "+10.0", "+10.0"]
    assert row_of("searches no 16x", "published search at su minus LongRoPE v1 at su") == ["missing"] * 6
    assert "| none | 1 | 50.0 [50.0, 50.0], n 3 | 50.0" in tables.table(results, "length no many")
    few = tables.table(results, "length no few")
    assert few.startswith("| few, no training | temperature | 1x: 128 | 4x: 512 | 16x: 2048 |"), "where it is asked"
    said = tables.table(results, "missing")
    assert said.startswith(f"25 of {len(plan(DESIGN))} cells are there; missing: rules (")
    assert "best rule (3)" in said
    told = "| no training | any: the original RoPE | su | -1.7 [-8.8, +5.5], n 3 x 100 in 10; {} of 3 | -1.7"
    assert told.format(0) in tables.table(results, "retention"), "a hundred answers are too few for 1.5 points"
    wide = replace(results, design=replace(results.design, common={**DESIGN.common, "margin": 0.5}))
    assert told.format(3) in tables.table(wide, "retention")
    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    for name in re.findall(r"<!-- table tiny ([\w -]+?) -->", page):
        assert tables.table(results, name)
    for name in ("nothing", "length no"):
        with pytest.raises((KeyError, TypeError)):
            tables.table(results, name)


def test_cells_of_different_sizes_are_compared_on_the_documents_of_both(tmp_path: Path) -> None:
    results = _results(tmp_path, {"none/1/no": [1.0], "yarn/1/no": [0.5]}, left_out=4)
    new, old = results.answers(0, ["many@2048", "few@2048"], *(tables.Which(n, "1", "no") for n in ("yarn", "none")))
    assert new.n == old.n == "120 in 12"
    assert (new.document == old.document).all()
    assert new.document[59:61].tolist() == [5, 6], "documents of two tasks are different ones"
    assert results.answers(0, ["many@2048"], tables.Which("none", "1", "no"))[0].n == "100 in 10"


def test_what_a_search_found_is_shown(tmp_path: Path) -> None:
    store = Store(tmp_path / "results.jsonl", DESIGN.to_json())
    store.add({"key": "1/left-1/right-searched/su/no", "rope": _scaling("left-1/right-searched").to_json()})
    said = tables.table(tables.Results(DESIGN, store), "found")
    eighth = longrope2(ROPE, 2048, right=RIGHT).long_factor[8]
    assert f"| q = 1, right side searched = published search | 1 | 1.254 | 14 | {eighth:.2f} | 1.53 s |" in said
    assert "| gradient search | 0 | missing |" in said
    small = tables.table(tables.Results(BOTH[1], Store(tmp_path / "none.jsonl", BOTH[1].to_json())), "found")
    assert "= small search with q |" in small
    assert "published" not in small, "the evolutions of the demo models are not of the published size"


def test_a_page_is_filled_where_it_says_so_and_staleness_is_seen(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    results = _results(tmp_path, {"none/1/no": [0.5]})
    page = "Before\n<!-- table tiny missing -->\nold\n<!-- end -->\nafter\n"
    filled = tables.filled(page, lambda subject: results)
    assert filled.startswith("Before\n<!-- table tiny missing -->\n")
    assert filled.endswith("<!-- end -->\nafter\n")
    assert f"1 of {len(plan(DESIGN))} cells are there" in filled
    assert tables.filled(filled, lambda subject: results) == filled
    with pytest.raises(KeyError):
        tables.filled(page.replace("missing", "nothing"), lambda subject: results)
    path = tmp_path / "page.md"
    path.write_text(page)
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check", str(path)])
    assert tables.main() == 1
    assert "tiny missing" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["tables.py", "--write", str(path)])
    assert tables.main() == 0
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check", str(path)])
    assert tables.main() == 0


@pytest.mark.parametrize("name", ["reproduction.md", "reproduction-tables.md"])
def test_the_guide_shows_what_was_found(name: str) -> None:
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert page.count("<!-- table ") == page.count("<!-- end -->") >= 2
    assert tables.filled(page) == page, f"run python benchmarks/reproduction/tables.py --write docs/{name}"


def test_every_interval_of_the_summary_stands_in_a_table() -> None:
    """They are copied by hand."""
    pages = [
        (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("reproduction.md", "reproduction-tables.md")
    ]
    made = "".join(re.findall(r"<!-- table .*?<!-- end -->", "".join(pages), re.DOTALL))
    made += "".join(screen.tables(Store(screen.RESULTS).lines))
    summary = pages[0].partition("## What came out")[2].partition("\n## ")[0]
    told = [each.replace(" points", "") for each in re.findall(r"[+-]?\d+\.\d(?: points)? \[[^\]]+\]", summary)]
    assert len(told) > 20
    assert [each for each in told if each not in made] == []


def test_committed_results_are_of_the_committed_design() -> None:
    for design in BOTH:
        store = tables.Results.read(design.subject).store  # refuses another design
        for cell in plan(design):
            if cell.key in store:
                for packed in store[cell.key]["answers"].values():
                    unpack(packed)
