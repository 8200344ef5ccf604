"""Putting the page together: tables, charts and samples into the template, one file out."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lr2eval.base.files import write_atomic
from lr2eval.errors import UsageError
from lr2eval.record.comparison import Comparison, Gate
from lr2eval.reports import figures, formats, load
from lr2eval.reports.comparison import chart, forest
from lr2eval.reports.comparison import tables as compared
from lr2eval.reports.run import heatmaps, notices, rope, tables
from lr2eval.reports.run import samples as sampling
from lr2eval.stats.scores import RULER_THRESHOLD

TEMPLATES = Path(__file__).with_name("templates")


def render(runs: Sequence[Path], out: Path, *, comparison: Comparison | None = None, gate: Gate | None = None) -> Path:
    """Write the report of one or more run folders to ``out`` and return it.

    Several runs stand side by side, in the order given: the original first. With a ``comparison`` of them the page
    shows what changed; its original may be a baseline file, then ``runs`` are the extended models only. With a
    ``gate`` its verdict stands on top. Raises :class:`lr2eval.errors.UsageError` for a run that is not among the
    compared ones and :class:`lr2eval.errors.StoreError` for a folder
    that is not a run or is damaged; ``out`` is then left as it was.
    """
    if not runs:
        raise UsageError("a report needs at least one run folder")
    write_atomic(out, html(load.load(runs, comparison), comparison, gate))
    return out


def html(runs: Sequence[load.Run], comparison: Comparison | None = None, gate: Gate | None = None) -> str:
    """The whole page as text."""
    samples, categories, places = sampling.collect(runs)
    scores = tables.score_tables(runs, categories)
    effective = compared.effective(comparison)
    charts = [chart.chart(table, runs, f"chart{number}", effective) for number, table in enumerate(scores)]
    maps = [
        heatmaps.heat_maps(table.benchmark, runs, f"map{number}", comparison) for number, table in enumerate(scores)
    ]
    differences = [compared.difference_tables(table, comparison) for table in scores]
    gains = [compared.gain_tables(table.benchmark, comparison) for table in scores]
    sides = [] if comparison is None else load.sides(comparison)
    keys: list[load.Key] = [*runs] if comparison is None else load.keys(comparison)
    models = [run.results.model for run in runs] if comparison is None else [side.model for side in sides]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            runs=runs,
            sentences=[tables.sentence(run) for run in runs],
            tiles=tables.tiles(runs),
            comparison=comparison,
            gate=gate,
            keys=keys,
            sides=sides,
            changes=compared.changes(comparison, gate),
            effective=effective,
            forests=forest.forests(comparison, gate),
            ropes=rope.ropes(list(zip(keys, models, strict=True))),
            share_rows=tables.share_rows(runs),
            several=compared.known_original(runs),
            baseline=comparison is not None and comparison.original.kind == "baseline",
            notices=notices.notices(runs, comparison, gate),
            benchmarks=list(zip(scores, charts, maps, differences, gains, strict=True)),
            shard_rows=tables.shard_rows(runs),
            fact_groups=tables.fact_groups(runs),
            commands=[command(run.manifest.get("command")) for run in runs],
            samples=samples,
            places=places,
            tables=tables,
            rule=sampling,
            compared=compared,
            deepest=figures.DEEPEST,
            threshold=RULER_THRESHOLD,
            **assets(),
        )
    )


def environment() -> Environment:
    """Escapes everything, stumbles over every misspelt name, and makes visible what acts unseen."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=formats.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        score=formats.score,
        number=formats.count,
        signed=formats.signed,
        percent=formats.percent,
        level=formats.level,
        p_value=formats.p_value,
        tokens=formats.length,
        benchmark=formats.title,
        clip=formats.clip,
        breakable=formats.breakable,
    )
    return env


def assets() -> dict[str, Any]:
    """What the head and the end of every page need: style, script, and the script's hash for the policy."""
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": _asset("report.css"), "script": script, "script_hash": digest}


def _asset(name: str) -> Markup:
    """A file of ours that goes into the page as it is."""
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def command(value: Any) -> str:
    """The command as one would type it."""
    if isinstance(value, list):
        return shlex.join(str(part) for part in value)
    return formats.NOTHING if value is None else str(value)
