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


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_every_stored_cell_is_in_picture_and_table(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", subjects=0, samples=3, grid=VARIANTS)
    results = Results.model_validate_json((run / "results.json").read_bytes())
    html = render([run], tmp_path / "r.html").read_text(encoding="utf-8")
    maps = heatmaps.heat_maps("niah", load([run]), "map1")
    assert [one.name for one in maps] == list(VARIANTS)
    for one in maps:
        shards = [shard for shard in results.shards if shard.benchmark == "niah" and shard.task == one.name]
        (picture,) = one.pictures
        assert str(picture.svg) in html
        numbers = texts(str(picture.svg))
        expected = [f"{cell.score:.0f}" for shard in shards for cell in shard.cells]
        assert numbers[: len(one.lengths)] == ["4k", "8k", "16k", "32k"]
        assert [text for text in numbers if text.isdigit()] == expected
        assert (one.fewest, one.most) == (5, 5)
        stored = {(shard.length, cell.depth): cell for shard in shards for cell in shard.cells}
        for (label, cells), depth in zip(one.rows, sorted({depth for _, depth in stored}), strict=True):
            assert label == f"{100 * depth:g}\u00a0%"
            for length, cell in zip(one.lengths, cells, strict=True):
                assert cell is not None
                assert cell.score == stored[length, depth].score
                assert cell.interval == stored[length, depth].interval


def test_colours_deepen_with_the_score_and_follow_the_page(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", subjects=0, samples=3, grid=("single",))
    (one,) = heatmaps.heat_maps("niah", load([run]), "map0")
    svg = str(one.pictures[0].svg)
    assert not re.search("#0a0[bcd]", svg), "every drawn colour was replaced by one of the page's"
    shares = {int(share) for share in re.findall(r"color-mix\(in srgb, var\(--cell\) (\d+)%, var\(--page\)\)", svg)}
    scores = {round(cell.score) for shard in load([run])[0].results.shards for cell in shard.cells}
    assert shares == {round(8 + 0.82 * score) for score in scores}


def test_cells_that_are_missing_are_marked(maker: Any, tmp_path: Path) -> None:
    run = maker(tmp_path / "run", subjects=0, samples=3, grid=("single",), depths=3, lengths=(4096, 8192))
    path = run / "results.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    grid = [shard for shard in stored["shards"] if shard["benchmark"] == "niah"]
    del grid[1]["cells"][1]
    grid[1]["cells"][0]["n"] = 2
    path.write_text(json.dumps(stored), encoding="utf-8")
    (one,) = heatmaps.heat_maps("niah", load([run]), "map0")
    assert one.rows[1][1][1] is None
    assert texts(str(one.pictures[0].svg)).count("\u2013") == 1
    assert "intervals and n (2 to 5 in each cell)" in render([run], tmp_path / "r.html").read_text(encoding="utf-8")


def test_two_runs_stand_side_by_side(maker: Any, tmp_path: Path) -> None:
    names = ("original", "extended")
    folders = [
        maker(tmp_path / name, name=name, subjects=0, samples=3, grid=("single",), lift=lift)
        for name, lift in zip(names, (-0.4, 0.0), strict=True)
    ]
    runs = load(folders)
    (one,) = heatmaps.heat_maps("niah", runs, "map0")
    assert [picture.run.label for picture in one.pictures] == list(names)
    assert len(one.rows[0][1]) == 2 * len(one.lengths)
    html = render(folders, tmp_path / "r.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))


def test_benchmarks_without_cells_have_no_map(run_folder: Path) -> None:
    runs = load([run_folder])
    assert heatmaps.heat_maps("ruler", runs, "map0") == []
    assert heatmaps.heat_maps("mmlu", runs, "map0") == []


def test_differences_are_the_stored_ones(
    pair_folders: tuple[Path, Path], comparison: Comparison, tmp_path: Path
) -> None:
    html = render(pair_folders, tmp_path / "r.html", comparison=comparison).read_text(encoding="utf-8")
    maps = heatmaps.heat_maps("niah", load(pair_folders, comparison), "map1", comparison)
    tables = Page(html).tables
    stored = {(r.task, r.length): r.cells for r in comparison.pairs[0].differences if r.cells}
    assert [one.name for one in maps] == ["single", "multi"]
    for one in maps:
        (difference,) = one.differences
        svg = str(difference.picture.svg)
        assert svg in html
        assert not re.search("#0a0[bcdef]", svg)
        shown = [text for text in texts(svg) if re.fullmatch("[+\u2212]?[0-9.]+", text)]
        cells = [cell for length in difference.lengths for cell in stored[one.name, length]]
        assert shown == [heatmaps._signed(cell.difference) for cell in cells]
        rows = tables[f"{one.identity}-table-d1"][1:]
        for place, length in enumerate(difference.lengths):
            for row, cell in zip(rows, stored[one.name, length], strict=True):
                low, high = formats.signed(cell.interval.low), formats.signed(cell.interval.high)
                assert row[1 + place][1] == f"{formats.signed(cell.difference)}{low} to {high}n {cell.n}"


def test_differences_print_their_sign() -> None:
    shown = [heatmaps._signed(x) for x in (20.0, -20.0, 0.0, -0.01, 6.666, -0.5, 0.5)]
    assert shown == ["+20", "\u221220", "0", "0", "+6.7", "\u22120.5", "+0.5"]
