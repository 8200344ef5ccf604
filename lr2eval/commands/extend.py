"""``lr2eval extend``: search, mix, train, export and compare with the original, in one command that resumes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lr2eval.base.console import say
from lr2eval.base.units import format_length
from lr2eval.commands.options import ConfigFile, DryRun, Sets, configured, typed_command

if TYPE_CHECKING:
    from lr2eval.base.config import Config, Option
    from lr2eval.workflows.extend_config import Steps


def _plan(steps: Steps) -> list[str]:
    windows = f"{format_length(steps.recipe.original_window)} to {format_length(steps.recipe.target_window)}"
    return [
        f"factors: {steps.factors or f'{steps.search.strategy} search'}",
        f"training: {windows}, on {', '.join(source.name for source in steps.data.sources)}",
        f"evaluation: {', '.join(steps.evaluation.tasks)}, original against extended",
    ]


def _step_keys() -> dict[str, list[Option]]:
    """The keys of each step's table, less those that the extension itself sets."""
    from lr2eval.base.config import options
    from lr2eval.method.data.config import MixtureConfig
    from lr2eval.method.search.config import SearchConfig
    from lr2eval.method.train.recipe import Recipe
    from lr2eval.runs.config import RunConfig

    tables: dict[str, type[Config]] = {
        "search": SearchConfig,
        "data": MixtureConfig,
        "training": Recipe,
        "evaluation": RunConfig,
    }
    own = {"model", "target_length", "out", "data_dir", "offline", "device", "baseline", "original_window"}
    return {
        f"the table {name}": [each for each in options(model, f"{name}.") if each.key.partition(".")[2] not in own]
        for name, model in tables.items()
    }


@configured(
    "lr2eval.workflows.extend_config:ExtendConfig",
    borrow={
        "search.haystack": "lr2eval.method.search.config:SearchConfig",
        "evaluation.tasks": "lr2eval.runs.config:RunConfig",
        "evaluation.lengths": "lr2eval.runs.config:RunConfig",
    },
    keys=_step_keys,
)
def extend(
    given: dict[str, Any],
    data: Annotated[
        list[Path] | None, typer.Option(help="Train on these text, JSONL or Parquet files or folders; may be repeated.")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="The training recipe: a TOML file or a name.")] = None,
    config: ConfigFile = None,
    set_: Sets = None,
    dry_run: DryRun = False,
) -> None:
    """Search, train, export and compare with the original. Run the same command again to resume."""
    from lr2eval.commands.progress import ProgressDisplay
    from lr2eval.commands.run import print_outcome
    from lr2eval.commands.search import print_search
    from lr2eval.workflows.extend import extend as run_extension
    from lr2eval.workflows.extend import plan_extension
    from lr2eval.workflows.extend_config import load_extend_config

    given |= {
        "data.sources": [{"name": path.stem, "path": str(path)} for path in data] if data else None,
        "training.recipe": recipe,
    }
    asked = load_extend_config(given, config, set_ or ())
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
    say(f"extended model: {done.model}")
    say(f"report: {done.report}")
