"""``lr2eval data make`` and ``lr2eval data mix``: the data files of a run, and rows for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lr2eval.base.console import say
from lr2eval.commands.options import (
    ConfigFile,
    Messages,
    Offline,
    OriginalModel,
    Sets,
    configured,
    task_keys,
    to_stderr,
)
from lr2eval.errors import UsageError


def data_mix(
    model: OriginalModel,
    recipe: Annotated[
        str, typer.Option(help="The training recipe, a TOML file or a name: its windows and its [data] table.")
    ],
    out: Annotated[Path, typer.Option(help="The folder for the rows.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="Use these text, JSONL or Parquet files or folders; may be repeated.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="The number of processes that tokenise.")] = 1,
    offline: Offline = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Set a key of the [data] table.", metavar="<key=value>")
    ] = None,
) -> None:
    """Make training rows for `lr2eval train`. Run the same command again to resume."""
    from lr2eval.base.settings import put, read_sets
    from lr2eval.method.data.config import MixtureConfig
    from lr2eval.method.data.mixing import prepare_mixture
    from lr2eval.method.train.recipe import read_recipe
    from lr2eval.model.names import locate
    from lr2eval.model.tokenizer import PromptTokenizer

    asked = read_recipe(recipe)
    table: dict[str, Any] = dict(asked.data)
    for key, value in read_sets(set_ or ()):
        put(table, key, value)
    if data:
        table["sources"] = [{"name": path.stem, "path": str(path)} for path in data]
    if not table.get("sources"):
        raise UsageError("there is no data; give --data, or a recipe whose [data] table has sources")
    windows = {"original_window": asked.original_window, "target_window": asked.target_window}
    tokenizer = PromptTokenizer.load(locate(model, offline=offline))
    rows = prepare_mixture(MixtureConfig(**table | windows), tokenizer, out, workers, to_stderr)
    long = sum(rows.long)
    say(f"{len(rows):,} rows of {rows.target_window:,} tokens: {len(rows) - long:,} short, {long:,} long")
    say(out)


MAKE = ("model", "tasks", "lengths", "limit", "samples_per_task", "seed", "data_dir", "offline", "chat")
"""What of a run decides its data files."""


@configured("lr2eval.runs.config:RunConfig", only=MAKE, keys=task_keys)
def data_make(
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help="The folder for the files: new, empty or made by this command.")],
    config: ConfigFile = None,
    set_: Sets = None,
) -> None:
    """Write the data files that a run with these options would use: one JSONL file per task and length."""
    from lr2eval.base.settings import read_sets, refuse_unknown
    from lr2eval.registry import benchmarks
    from lr2eval.runs.config import RunConfig
    from lr2eval.workflows.data import make_data

    groups = {*MAKE, "missing_data", "truncation", "lm_eval", *benchmarks()}
    refuse_unknown((key.partition(".")[0] for key, _ in read_sets(set_ or ())), groups)
    made = make_data(RunConfig.load(given, config, set_ or ()), out, listener=Messages())
    for name, facts in made.items():
        say(f"{name}  {facts['samples']} samples, {facts['fill_min']:.1%} to {facts['fill_max']:.1%} full")
    say(out)
