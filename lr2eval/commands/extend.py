"""``lr2eval extend``: search, mix, train, export and compare with the original, in one command that resumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lr2eval.base.units import format_length
from lr2eval.commands.options import typed_command

if TYPE_CHECKING:
    from lr2eval.workflows.extend_config import Steps


def _plan(steps: Steps) -> list[str]:
    splits = steps.search.splits
    at = f"at pairs {', '.join(map(str, splits))}" if splits else "near d_tcd"
    windows = f"{format_length(steps.recipe.original_window)} to {format_length(steps.recipe.target_window)}"
    return [
        f"factors: {steps.factors or f'search {at}'}",
        f"training: {windows}, on {', '.join(source.name for source in steps.data.sources)}",
        f"evaluation: {', '.join(steps.evaluation.tasks)}, original against extended",
    ]


def extend(
    model: Annotated[str | None, typer.Option(help="Checkpoint folder of the original model, or a name.")] = None,
    target_length: Annotated[str | None, typer.Option(help="Window to reach: 128k.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="Text, JSONL or Parquet files or folders to train on; may be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of everything. [default: runs/extend-MODEL-LENGTH]")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with a table per step (docs/extending.md).")] = None,
    factors: Annotated[Path | None, typer.Option(help="factors.json of a search, instead of searching.")] = None,
    recipe: Annotated[str | None, typer.Option(help="Training recipe: a TOML file or a name.")] = None,
    haystack: Annotated[str | None, typer.Option(help="Text of the search's needles. [default: essays]")] = None,
    tasks: Annotated[str | None, typer.Option(help="To compare on. [default: ruler,niah,mmlu]")] = None,
    lengths: Annotated[str | None, typer.Option(help="Of the comparison. [default: 4k doubling to the window]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda. [default: the best there is]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local benchmark data, instead of the hub.")] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Never use the network.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="table.key=value: search.iterations=20 ...")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the steps, then stop.")] = False,
) -> None:
    """Search, train, export and compare with the original in one go; the same command again resumes."""
    from lr2eval.commands.progress import ProgressDisplay
    from lr2eval.commands.run import print_outcome
    from lr2eval.commands.search import print_search
    from lr2eval.workflows.extend import extend as run_extension
    from lr2eval.workflows.extend import plan_extension
    from lr2eval.workflows.extend_config import load_extend_config

    flags = {
        "model": model,
        "target_length": target_length,
        "out": out,
        "factors": factors,
        "device": device,
        "data_dir": data_dir,
        "offline": offline,
        "search": {"haystack": haystack} if haystack else {},
        "data": {"sources": [{"name": path.stem, "path": str(path)} for path in data]} if data else {},
        "training": {"recipe": recipe} if recipe else {},
        "evaluation": {key: value for key, value in (("tasks", tasks), ("lengths", lengths)) if value},
    }
    asked = load_extend_config(flags, config, set_ or ())
    with ProgressDisplay() as progress:
        _, steps = plan_extension(asked)
        for line in _plan(steps):
            progress.message(line)
        if dry_run:
            return
        done = run_extension(asked, listener=progress, command=typed_command())
    if done.search is not None:
        print_search(done.search)
    if done.evaluation is not None:
        print_outcome(done.evaluation)
    print(f"extended model: {done.model}")
    print(f"report: {done.report}")
