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
from lr2eval.base.visible import short
from lr2eval.errors import UsageError
from lr2eval.record.comparison import Comparison, Gate
from lr2eval.record.opened import RunFolder
from lr2eval.reports import formats, load
from lr2eval.reports.caveats import caveats
from lr2eval.reports.comparison import tables as compared
from lr2eval.reports.comparison.chart import chart
from lr2eval.reports.comparison.forest import forests
from lr2eval.reports.run import samples as sampling
from lr2eval.reports.run import tables
from lr2eval.reports.run.heatmaps import heat_maps
from lr2eval.reports.run.rope import ropes
from lr2eval.stats.scores import RULER_THRESHOLD

TEMPLATES = Path(__file__).with_name("templates")
DEEPEST = 25.0
"""Points of difference beyond which the shading of a cell stays the same."""


def render(runs: Sequence[Path], out: Path, *, comparison: Comparison | None = None, gate: Gate | None = None) -> Path:
    """Write the report of one or more run folders to ``out`` and return it.

    Several runs stand side by side, in the order given: the original first. With a ``comparison`` of them the page
    shows what changed; its original may be a baseline file, then ``runs`` are the extended models only. With a
    ``gate`` on that comparison its verdict stands on top. Raises :class:`lr2eval.errors.UsageError` for a run that is
    not among the compared ones and :class:`lr2eval.errors.StoreError` for a folder that is not a run or is damaged;
    ``out`` is then left as it was.
    """
    write_atomic(out, report_html(runs, comparison, gate))
    return out


def report_html(
    runs: Sequence[Path | RunFolder], comparison: Comparison | None = None, gate: Gate | None = None
) -> str:
    """The page that :func:`render` writes, with the same errors. A folder that was opened is not verified again."""
    if not runs:
        raise UsageError("a report needs at least one run folder")
    return html(load.load(runs, comparison), comparison, gate)


def html(runs: Sequence[load.LoadedRun], comparison: Comparison | None = None, gate: Gate | None = None) -> str:
    """The whole page as text."""
    samples, categories, places = sampling.collect(runs)
    values: dict[str, Any] = {"effective": [], "forests": [], "sides": [], "changes": [], "alpha": None}
    keys: list[load.Key] = [*runs]
    models = [run.results.model for run in runs]
    if comparison is not None:
        keys, sides = load.keys(comparison), load.sides(comparison)
        models = [side.model for side in sides]
        values = {
            "effective": compared.effective(comparison),
            "forests": forests(comparison, gate),
            "sides": sides,
            "changes": compared.changes(comparison, gate),
            "alpha": compared.alpha(comparison),
        }
    benchmarks = [
        {
            "table": table,
            # The lines of many rules leave no room for the marks of their effective lengths.
            "chart": chart(table, f"chart{number}", [] if comparison and comparison.ranking else values["effective"]),
            "maps": heat_maps(table.benchmark, runs, comparison),
            "differences": [] if comparison is None else compared.difference_tables(table, comparison),
            "gains": [] if comparison is None else compared.gain_tables(table.benchmark, comparison),
        }
        for number, table in enumerate(tables.score_tables(runs, categories))
    ]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            runs=runs,
            comparison=comparison,
            gate=gate,
            keys=keys,
            ropes=ropes(list(zip(keys, models, strict=True))),
            # Whether the first of several runs is the original, so that answers can be set side by side.
            several=len(runs) > 1 and runs[0].number == 0,
            baseline=comparison is not None and comparison.original.kind == "baseline",
            caveats=caveats(runs, comparison),
            benchmarks=benchmarks,
            samples=samples,
            places=places,
            tables=tables,
            rule=sampling,
            compared=compared,
            deepest=DEEPEST,
            threshold=RULER_THRESHOLD,
            **values,
        )
    )


def environment() -> Environment:
    """Escapes everything, refuses misspelt names, makes invisible characters visible, and knows style and script."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=formats.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = "score", "signed", "percent", "level", "p_value", "breakable", "facts"
    env.filters.update({name: getattr(formats, name) for name in names})
    env.filters.update(
        clip=short, number=formats.count, tokens=formats.length, benchmark=formats.title, command=command
    )
    env.tests["differ"] = lambda values: len(set(values)) > 1
    script, style = (Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("report.js", "report.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    env.globals.update(script=script, style=style, script_hash=digest)  # the policy names the hash of the only script
    return env


def command(value: Any) -> str:
    """The command as one would type it."""
    if isinstance(value, list):
        return shlex.join(str(part) for part in value)
    return formats.NOTHING if value is None else str(value)
