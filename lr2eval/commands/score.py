"""``lr2eval score``: score existing predictions, without a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lr2eval.base.console import print_json, printed_table, table
from lr2eval.commands.options import AsJson, to_stderr

if TYPE_CHECKING:
    from lr2eval.workflows.score import DataSetScores


def _print(benchmark: str, scored: Mapping[str, DataSetScores]) -> None:
    from lr2eval.workflows.score import percent

    ours = any(part.before is not None for part in scored.values())
    groups = next((list(part.groups) for part in scored.values() if part.groups), [])
    shown = table("data set", "samples", "score", *groups, *(["in results.json"] if ours else []), title=benchmark)
    for name, part in scored.items():
        cells = [f"{percent(part.groups[each]):.2f}" if part.groups.get(each) else "-" for each in groups]
        before = ["-" if part.before is None else f"{part.before:.2f}"] if ours else []
        shown.add_row(name, str(len(part.scores)), f"{part.score:.2f}", *cells, *before)
    mean = math.fsum(part.score for part in scored.values()) / len(scored)
    shown.add_row(f"mean of {len(scored)}", str(sum(len(part.scores) for part in scored.values())), f"{mean:.2f}")
    printed_table(shown)


def score(
    benchmark: Annotated[
        str, typer.Argument(help="The benchmark: longbench, longbench_e, ruler, or one task such as longbench:trec.")
    ],
    folder: Annotated[
        Path, typer.Argument(help="A run folder, or a folder of predictions as the benchmark writes them (NAME.jsonl).")
    ],
    as_json: AsJson = False,
) -> None:
    """Score answers that exist already. No model is needed."""
    from lr2eval.workflows.score import percent, score_folder

    done = score_folder(benchmark, folder)
    scored = done.scores
    if done.unfinished:
        to_stderr(f"{folder}: the run is not finished; only its finished parts are scored")
    for reason in dict.fromkeys(done.not_scored.values()):
        names = [name for name, why in done.not_scored.items() if why == reason]
        to_stderr(f"not scored: {', '.join(names)}: {reason}")
    if as_json:
        shown: dict[str, Any] = {"scores": {task: part.score for task, part in scored.items()}}
        if any(part.groups for part in scored.values()):
            shown["buckets"] = {
                task: {each: percent(scores) if scores else None for each, scores in part.groups.items()}
                for task, part in scored.items()
            }
        if done.not_scored:
            shown["not_scored"] = dict(done.not_scored)
        print_json(shown)
    else:
        _print(benchmark, scored)
