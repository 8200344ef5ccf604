"""Needle grids as heat maps: length across, depth down, the stored score of each cell as number and colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.patches import Rectangle

from lr2eval.reports import _figures, _text
from lr2eval.reports._load import Run
from lr2eval.reports._tables import Cell

_CELL = (0.68, 0.29)
_MARGINS = (0.85, 0.65)
"""Inches of a cell, and of what stands left of and below all cells."""
_POINTS = 72


@dataclass(frozen=True)
class Picture:
    """The map of one run. ``width`` is in points, so that all maps of a page have letters of one size."""

    run: Run
    svg: Markup
    width: int


@dataclass(frozen=True)
class HeatMap:
    """One task of a depth grid: a picture of each run, and the same numbers as rows (depth; length by run)."""

    identity: str
    name: str
    lengths: tuple[int, ...]
    pictures: tuple[Picture, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    fewest: int
    most: int
    """Samples in a cell."""


def heat_maps(benchmark: str, runs: Sequence[Run], identity: str) -> list[HeatMap]:
    """One for each task of ``benchmark`` whose scores are stored by depth."""
    tasks = dict.fromkeys(
        shard.task for run in runs for shard in run.results.shards if shard.benchmark == benchmark and shard.cells
    )
    return [_heat_map(benchmark, task, runs, f"{identity}-{number}") for number, task in enumerate(tasks)]


def _heat_map(benchmark: str, task: str, runs: Sequence[Run], identity: str) -> HeatMap:
    columns: list[dict[tuple[int, float], Cell]] = [
        {
            (shard.length or 0, cell.depth): Cell(cell.score, cell.interval, cell.n)
            for shard in run.results.shards
            if (shard.benchmark, shard.task) == (benchmark, task)
            for cell in shard.cells
        }
        for run in runs
    ]
    lengths = sorted({length for cells in columns for length, _ in cells})
    depths = sorted({depth for cells in columns for _, depth in cells})
    ns = [cell.n for cells in columns for cell in cells.values()]
    name = _text.task(benchmark, task)
    return HeatMap(
        identity=identity,
        name=name,
        lengths=tuple(lengths),
        pictures=tuple(
            _picture(run, name, cells, lengths, depths, f"{identity}-{number}")
            for number, (run, cells) in enumerate(zip(runs, columns, strict=True))
            if cells
        ),
        rows=tuple(
            (_percent(depth), tuple(cells.get((length, depth)) for length in lengths for cells in columns))
            for depth in depths
        ),
        fewest=min(ns),
        most=max(ns),
    )


def _picture(
    run: Run,
    name: str,
    cells: Mapping[tuple[int, float], Cell],
    lengths: Sequence[int],
    depths: Sequence[float],
    identity: str,
) -> Picture:
    width = _MARGINS[0] + _CELL[0] * len(lengths)
    size = (width, _MARGINS[1] + _CELL[1] * len(depths))
    with _figures.style(identity):
        figure, axes = _figures.blank(size)
        for column, length in enumerate(lengths):
            for row, depth in enumerate(depths):
                cell = cells.get((length, depth))
                score = None if cell is None else cell.score
                if score is not None:
                    axes.add_patch(
                        Rectangle(
                            (column, row),
                            1,
                            1,
                            facecolor=_figures.shade(score),
                            edgecolor=_figures.PAGE,
                            linewidth=1.6,
                            clip_on=False,
                        )
                    )
                shown = _text.NOTHING if score is None else f"{round(score, 1):g}"
                colour = _figures.MUTED if score is None else _figures.INK
                axes.text(column + 0.5, row + 0.53, shown, color=colour, ha="center", va="center")
        axes.set_xlim(0, len(lengths))
        axes.set_ylim(len(depths), 0)
        axes.set_xticks([column + 0.5 for column in range(len(lengths))], [_text.length(length) for length in lengths])
        axes.set_yticks([row + 0.5 for row in range(len(depths))], [_percent(depth) for depth in depths])
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("tokens")
        axes.set_ylabel("depth of the needle")
        said = "; ".join(
            f"{_text.length(length)}: "
            + ", ".join(
                f"{_text.score(cells[length, d].score)} at {_percent(d)}" for d in depths if (length, d) in cells
            )
            for length in lengths
        )
        svg = _figures.to_svg(figure, identity, f"{name}: score by length and depth, {run.label}", said)
    return Picture(run, svg, round(width * _POINTS))


def _percent(depth: float) -> str:
    return f"{100 * depth:g}\u00a0%"
