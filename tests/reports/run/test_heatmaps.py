"""The maps show what results.json says about each cell, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lr2eval.record.comparison import Comparison
from lr2eval.record.results import Results
from lr2eval.reports import formats, render
from lr2eval.reports.load import load
from lr2eval.reports.run import heatmaps
from tests.reports.page import Page

VARIANTS = ("single", "multi", "distractor")


def page_of(*runs: Path, out: Path, comparison: Comparison | None = None) -> Page:
    return Page(render(runs, out, comparison=comparison).read_text(encoding="utf-8"))


def test_every_stored_cell_is_in_map_and_table(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", subjects=0, samples=3, grid=VARIANTS)
    results = Results.model_validate_json((run / "results.json").read_bytes())
    page = page_of(run, out=tmp_path / "r.html")
    maps = heatmaps.heat_maps("niah", load([run]))
    assert [one.name for one in maps] == list(VARIANTS)
    for number, one in enumerate(maps):
        shards = [shard for shard in results.shards if shard.benchmark == "niah" and shard.task == one.name]
        stored = {(shard.length, cell.depth): cell for shard in shards for cell in shard.cells}
        depths = sorted({depth for _, depth in stored})
        (grid,) = one.grids
        assert (one.samples, list(grid.lengths)) == ("5", [4096, 8192, 16384, 32768])
        shown, full = page.tables[f"map1-{number}-0-map"], page.tables[f"map1-{number}-0"]
        assert [text for _, text in shown[0]] == ["Depth", "4k", "8k", "16k", "32k"]
        for depth, short, long, (label, cells) in zip(depths, shown[1:], full[1:], grid.rows, strict=True):
            assert short[0][1] == long[0][1] == label == f"{100 * depth:g}\u00a0%"
            for place, length in enumerate(grid.lengths):
                cell = stored[length, depth]
                assert cells[place] == cell
                assert short[place + 1][1].strip() == f"{cell.score:.0f}"
                low, high = formats.score(cell.interval.low), formats.score(cell.interval.high)
                assert long[place + 1][1] == f"{formats.score(cell.score)}{low}–{high}n {cell.n}"


def test_colours_deepen_with_the_score(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", subjects=0, samples=3, grid=("single",))
    rows = page_of(run, out=tmp_path / "r.html").tables["map1-0-0-map"][1:]
    cells = [(attributes, text) for row in rows for attributes, text in row[1:]]
    assert all(attributes["class"] == "heat" for attributes, _ in cells)
    assert [float((attributes["style"] or "").removeprefix("--v:")) for attributes, _ in cells] == [
        float(text) for _, text in cells
    ]
    assert "calc(8% + var(--v) * .62%)" in (Path(heatmaps.__file__).parents[1] / "templates/report.css").read_text()


def test_cells_that_are_missing_are_marked(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", subjects=0, samples=3, grid=("single",), depths=3, lengths=(4096, 8192))
    path = run / "results.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    grid = [shard for shard in stored["shards"] if shard["benchmark"] == "niah"]
    del grid[1]["cells"][1]
    grid[1]["cells"][0]["n"] = 2
    path.write_text(json.dumps(stored), encoding="utf-8")
    (one,) = heatmaps.heat_maps("niah", load([run]))
    assert one.grids[0].rows[1][1][1] is None
    page = page_of(run, out=tmp_path / "r.html")
    texts = [text.strip() for row in page.tables["map1-0-0-map"] for _, text in row]
    assert texts.count("\u2013") == 1
    assert "intervals and n (2 to 5 samples in each cell)" in page.text


def test_two_runs_stand_side_by_side(maker: Any, tmp_path: Path) -> None:
    names = ("original", "extended")
    folders = [
        maker(tmp_path / name, name=name, subjects=0, samples=3, grid=("single",), lift=lift)
        for name, lift in zip(names, (-0.4, 0.0), strict=True)
    ]
    (one,) = heatmaps.heat_maps("niah", load(folders))
    assert [grid.key.label for grid in one.grids] == list(names)
    page = page_of(*folders, out=tmp_path / "r.html")
    assert {"map1-0-0-map", "map1-0-1-map", "map1-0-0", "map1-0-1"} <= set(page.tables)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_benchmarks_without_cells_have_no_map(run_folder: Path) -> None:
    runs = load([run_folder])
    assert heatmaps.heat_maps("ruler", runs) == []
    assert heatmaps.heat_maps("mmlu", runs) == []


def test_differences_are_the_stored_ones(
    pair_folders: tuple[Path, Path], comparison: Comparison, tmp_path: Path
) -> None:
    page = page_of(*pair_folders, out=tmp_path / "r.html", comparison=comparison)
    maps = heatmaps.heat_maps("niah", load(pair_folders, comparison), comparison)
    stored = {(r.task, r.length): r.cells for r in comparison.pairs[0].differences if r.cells}
    assert [one.name for one in maps] == ["single", "multi"]
    for number, one in enumerate(maps):
        assert [grid.difference for grid in one.grids] == [False, False, True]
        shown, full = page.tables[f"map1-{number}-2-map"][1:], page.tables[f"map1-{number}-2"][1:]
        for place, length in enumerate(one.grids[2].lengths):
            for short, long, cell in zip(shown, full, stored[one.name, length], strict=True):
                low, high = formats.signed(cell.interval.low), formats.signed(cell.interval.high)
                assert long[1 + place][1] == f"{formats.signed(cell.difference)}{low} to {high}n {cell.n}"
                assert short[1 + place][1].strip() == re.sub(r"\.0$", "", formats.signed(cell.difference))
                assert ("down" in (short[1 + place][0]["class"] or "")) == (cell.difference < 0)
