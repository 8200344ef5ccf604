"""Needle grids as heat maps: length across, depth down, the stored score of each cell as number and colour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.patches import Rectangle

from lr2eval.record.comparison import CellDifference, Comparison
from lr2eval.reports import figures, formats
from lr2eval.reports.load import Key, Run, keys
from lr2eval.reports.run.tables import Cell

_CELL = (0.68, 0.29)
_MARGINS = (0.85, 0.65)
"""Inches of a cell, and of what stands left of and below all cells."""
_POINTS = 72


@dataclass(frozen=True)
class Picture:
    """The map of one run, or of its difference. ``width`` is in points: all maps of a page have letters of one size."""

    run: Key
    svg: Markup
    width: int


@dataclass(frozen=True)
class DifferenceMap:
    """Extended minus original by length and depth: a picture, and the same numbers as rows."""

    picture: Picture
    lengths: tuple[int, ...]
    rows: tuple[tuple[str, tuple[CellDifference | None, ...]], ...]


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
    differences: tuple[DifferenceMap, ...] = ()
    """Extended minus original, for every extended model compared on this grid."""


def heat_maps(
    benchmark: str, runs: Sequence[Run], identity: str, comparison: Comparison | None = None
) -> list[HeatMap]:
    """One for each task of ``benchmark`` whose scores are stored by depth."""
    tasks = dict.fromkeys(
        shard.task for run in runs for shard in run.results.shards if shard.benchmark == benchmark and shard.cells
    )
    return [_heat_map(benchmark, task, runs, f"{identity}-{number}", comparison) for number, task in enumerate(tasks)]


def _heat_map(benchmark: str, task: str, runs: Sequence[Run], identity: str, comparison: Comparison | None) -> HeatMap:
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
    name = formats.task(benchmark, task)
    return HeatMap(
        identity=identity,
        name=name,
        lengths=tuple(lengths),
        pictures=tuple(
            _picture(
                run,
                f"{name}: score",
                {place: cell.score for place, cell in cells.items()},
                lengths,
                depths,
                f"{identity}-{number}",
                _SCORES,
            )
            for number, (run, cells) in enumerate(zip(runs, columns, strict=True))
            if cells
        ),
        rows=tuple(
            (_percent(depth), tuple(cells.get((length, depth)) for length in lengths for cells in columns))
            for depth in depths
        ),
        fewest=min(ns),
        most=max(ns),
        differences=() if comparison is None else _differences(benchmark, task, name, comparison, identity),
    )


def _differences(
    benchmark: str, task: str, name: str, comparison: Comparison, identity: str
) -> tuple[DifferenceMap, ...]:
    found = []
    for key, pair in zip(keys(comparison)[1:], comparison.pairs, strict=True):
        cells = {
            (row.length or 0, cell.depth): cell
            for row in pair.differences
            if (row.level, row.benchmark, row.task) == ("shard", benchmark, task)
            for cell in row.cells
        }
        if cells:
            lengths, depths = sorted({place[0] for place in cells}), sorted({place[1] for place in cells})
            numbers = {place: cell.difference for place, cell in cells.items()}
            identity_ = f"{identity}-difference{key.number}"
            picture = _picture(key, f"{name}: difference", numbers, lengths, depths, identity_, _DIFFERENCES)
            rows = tuple((_percent(depth), tuple(cells.get((n, depth)) for n in lengths)) for depth in depths)
            found.append(DifferenceMap(picture, tuple(lengths), rows))
    return tuple(found)


@dataclass(frozen=True)
class _Scale:
    """How a cell's number becomes a colour and a text."""

    colour: Callable[[float], str]
    shown: Callable[[float], str]
    said: Callable[[float | None], str]


def _signed(difference: float) -> str:
    """Short enough for a cell: no ".0"."""
    return formats.signed(difference).removesuffix(".0")


_SCORES = _Scale(figures.shade, lambda score: f"{round(score, 1):g}", formats.score)


_DIFFERENCES = _Scale(figures.shade_difference, _signed, formats.signed)


def _picture(
    run: Key,
    name: str,
    cells: Mapping[tuple[int, float], float | None],
    lengths: Sequence[int],
    depths: Sequence[float],
    identity: str,
    scale: _Scale,
) -> Picture:
    width = _MARGINS[0] + _CELL[0] * len(lengths)
    size = (width, _MARGINS[1] + _CELL[1] * len(depths))
    with figures.style(identity):
        figure, axes = figures.blank(size)
        for column, length in enumerate(lengths):
            for row, depth in enumerate(depths):
                score = cells.get((length, depth))
                if score is not None:
                    axes.add_patch(
                        Rectangle(
                            (column, row),
                            1,
                            1,
                            facecolor=scale.colour(score),
                            edgecolor=figures.PAGE,
                            linewidth=1.6,
                            clip_on=False,
                        )
                    )
                shown = formats.NOTHING if score is None else scale.shown(score)
                colour = figures.MUTED if score is None else figures.INK
                axes.text(column + 0.5, row + 0.53, shown, color=colour, ha="center", va="center")
        axes.set_xlim(0, len(lengths))
        axes.set_ylim(len(depths), 0)
        axes.set_xticks(
            [column + 0.5 for column in range(len(lengths))], [formats.length(length) for length in lengths]
        )
        axes.set_yticks([row + 0.5 for row in range(len(depths))], [_percent(depth) for depth in depths])
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel("tokens")
        axes.set_ylabel("depth of the needle")
        said = "; ".join(
            f"{formats.length(length)}: "
            + ", ".join(f"{scale.said(cells[length, d])} at {_percent(d)}" for d in depths if (length, d) in cells)
            for length in lengths
        )
        svg = figures.to_svg(figure, identity, f"{name} by length and depth, {run.label}", said)
    return Picture(run, svg, round(width * _POINTS))


def _percent(depth: float) -> str:
    return f"{100 * depth:g}\u00a0%"
