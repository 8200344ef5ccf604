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

from lr2eval._comparison import Comparison, Gate
from lr2eval._errors import UsageError
from lr2eval._paths import write_atomic
from lr2eval._stats import RULER_THRESHOLD
from lr2eval.reports import (
    _compared,
    _figures,
    _forest,
    _heatmaps,
    _load,
    _notices,
    _reference,
    _rope,
    _samples,
    _shares,
    _tables,
    _text,
)

TEMPLATES = Path(__file__).with_name("templates")


def render(runs: Sequence[Path], out: Path, *, comparison: Comparison | None = None, gate: Gate | None = None) -> Path:
    """Write the report of one or more run folders to ``out`` and return it.

    Several runs stand side by side, in the order given: the original first. With a ``comparison`` of them the page
    shows what changed; its original may be a baseline file, then ``runs`` are the extended models only. With a
    ``gate`` its verdict stands on top. Raises :class:`lr2eval._errors.UsageError` for a run that is not among the
    compared ones and :class:`lr2eval._errors.StoreError` for a folder
    that is no run or is damaged; ``out`` is then left as it was.
    """
    if not runs:
        raise UsageError("a report needs at least one run folder")
    write_atomic(out, html(_load.load(runs, comparison), comparison, gate))
    return out


def html(runs: Sequence[_load.Run], comparison: Comparison | None = None, gate: Gate | None = None) -> str:
    """The whole page as text."""
    samples, categories, places = _samples.collect(runs)
    tables = _tables.score_tables(runs, categories)
    effective = _compared.effective(comparison)
    charts = [_figures.chart(table, runs, f"chart{number}", effective) for number, table in enumerate(tables)]
    maps = [
        _heatmaps.heat_maps(table.benchmark, runs, f"map{number}", comparison) for number, table in enumerate(tables)
    ]
    differences = [_compared.difference_tables(table, comparison) for table in tables]
    gains = [_compared.gain_tables(table.benchmark, comparison) for table in tables]
    sides = [] if comparison is None else _load.sides(comparison)
    keys: list[_load.Key] = [*runs] if comparison is None else _load.keys(comparison)
    models = [run.results.model for run in runs] if comparison is None else [side.model for side in sides]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            runs=runs,
            sentences=[_tables.sentence(run) for run in runs],
            tiles=_tables.tiles(runs),
            comparison=comparison,
            gate=gate,
            keys=keys,
            sides=sides,
            changes=_compared.changes(comparison, gate),
            effective=effective,
            forests=_forest.forests(comparison, gate),
            ropes=_rope.ropes(list(zip(keys, models, strict=True))),
            share_rows=_shares.share_rows(runs),
            several=_compared.known_original(runs),
            baseline=comparison is not None and comparison.original.kind == "baseline",
            notices=_notices.notices(runs, comparison, gate),
            benchmarks=list(zip(tables, charts, maps, differences, gains, strict=True)),
            shard_rows=_tables.shard_rows(runs),
            fact_groups=_tables.fact_groups(runs),
            commands=[command(run.manifest.get("command")) for run in runs],
            samples=samples,
            places=places,
            reference=_reference,
            rule=_samples,
            compared=_compared,
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
        finalize=_text.finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        score=_text.score,
        number=_text.count,
        signed=_text.signed,
        percent=_text.percent,
        level=_text.level,
        p_value=_text.p_value,
        tokens=_text.length,
        benchmark=_text.title,
        clip=_text.clip,
        breakable=_text.breakable,
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
    return _text.NOTHING if value is None else str(value)
