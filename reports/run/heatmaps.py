"""Needle grids as coloured tables: length across, depth down, the stored score of each cell as number and colour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lr2eval.record.comparison import CellDifference, Comparison
from lr2eval.record.results import CellResult
from lr2eval.reports import formats
from lr2eval.reports.load import Key, LoadedRun, keys

DepthCell = CellResult | CellDifference


@dataclass(frozen=True)
class DepthGrid:
    """The cells of one model, or of its differences from the original, by depth (rows) and length."""

    key: Key
    difference: bool
    lengths: Sequence[int]
    rows: Sequence[tuple[str, Sequence[DepthCell | None]]]


@dataclass(frozen=True)
class HeatMap:
    """One task with a grid for each run, and one for the difference of each extended model."""

    name: str
    grids: Sequence[DepthGrid]
    samples: str
    """How many samples a cell has."""


def heat_maps(benchmark: str, runs: Sequence[LoadedRun], comparison: Comparison | None = None) -> list[HeatMap]:
    """One for each task of ``benchmark`` whose scores are stored by depth."""
    found: dict[str, list[DepthGrid]] = {}
    for run in runs:
        shards = [s for s in run.results.shards if s.benchmark == benchmark]
        for task in dict.fromkeys(shard.task for shard in shards if shard.cells):
            cells = {(s.length or 0, cell.depth): cell for s in shards if s.task == task for cell in s.cells}
            found.setdefault(task, []).append(_grid(run, False, cells))
    if comparison is not None:
        for key, pair in zip(keys(comparison)[1:], comparison.pairs, strict=True):
            rows = [r for r in pair.differences if (r.level, r.benchmark) == ("shard", benchmark)]
            for task, grids in found.items():
                gaps = {(r.length or 0, cell.depth): cell for r in rows if r.task == task for cell in r.cells}
                if gaps:
                    grids.append(_grid(key, True, gaps))
    return [HeatMap(formats.task(benchmark, task), grids, _samples(grids)) for task, grids in found.items()]


def _grid(key: Key, difference: bool, cells: Mapping[tuple[int, float], DepthCell]) -> DepthGrid:
    lengths, depths = (sorted(set(places)) for places in zip(*cells, strict=True))
    rows = [(f"{100 * depth:g}\u00a0%", [cells.get((int(n), depth)) for n in lengths]) for depth in depths]
    return DepthGrid(key, difference, [int(n) for n in lengths], rows)


def _samples(grids: Iterable[DepthGrid]) -> str:
    ns = [cell.n for grid in grids for _, cells in grid.rows for cell in cells if cell is not None]
    return formats.count(min(ns)) + (f" to {formats.count(max(ns))}" if min(ns) < max(ns) else "")
