"""``lr2eval data make`` and ``lr2eval data mix``: the data files of a run, and rows for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lr2eval.commands.options import Messages, to_stderr
from lr2eval.errors import UsageError


def data_mix(
    model: Annotated[str, typer.Option(help="Checkpoint folder (its tokenizer makes the tokens), or a name.")],
    recipe: Annotated[str, typer.Option(help="TOML file or name of a training recipe; its [data] table, its windows.")],
    out: Annotated[Path, typer.Option(help="Folder for the rows.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="Text, JSONL or Parquet files or folders, instead of its sources.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that tokenise.")] = 1,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value of the table: tokens=10000000 ...")] = None,
) -> None:
    """Rows for training on mixed windows, for lr2eval train; the same command again resumes."""
    from lr2eval.base.settings import put, read_sets
    from lr2eval.method.data.config import read_mixture
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
        raise UsageError("no data: name files or folders, or give the recipe a [data] table with sources")
    windows = {"original_window": asked.original_window, "target_window": asked.target_window}
    tokenizer = PromptTokenizer.load(locate(model, offline=offline))
    rows = prepare_mixture(read_mixture(table | windows), tokenizer, out, workers, to_stderr)
    long = sum(rows.long)
    print(f"{len(rows):,} rows of {rows.target_window:,} tokens: {len(rows) - long:,} short, {long:,} long")
    print(out)


def data_make(
    model: Annotated[str, typer.Option(help="Checkpoint folder (its tokenizer decides lengths), or a name.")],
    tasks: Annotated[str, typer.Option(help="Comma list: ruler,niah or ruler:vt.")],
    out: Annotated[Path, typer.Option(help="Folder for the files; new, empty or made by this command.")],
    lengths: Annotated[str | None, typer.Option(help="4k,8k,... [default: doubling from 4k to the window]")] = None,
    limit: Annotated[str | None, typer.Option(help="First N samples (or share, 0.1) of each task.")] = None,
    samples_per_task: Annotated[int | None, typer.Option(help="Per synthetic task and length. [default: 100]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the synthetic data. [default: 0]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local benchmark data, instead of the hub.")] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Never use the network.")] = None,
    chat: Annotated[bool | None, typer.Option("--chat", help="Wrap prompts in the model's chat template.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file as for `lr2eval run`.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value; repeatable. Also niah.key=value.")] = None,
) -> None:
    """Write exactly the data files a run with these flags would use: one JSONL per task and length."""
    from lr2eval.runs.config import load_config
    from lr2eval.workflows.data import make_data

    flags = {
        "model": model,
        "tasks": tasks,
        "lengths": lengths,
        "limit": limit,
        "samples_per_task": samples_per_task,
        "seed": seed,
        "data_dir": data_dir,
        "offline": offline,
        "chat": chat,
    }

    for name, facts in make_data(load_config(flags, config, set_ or ()), out, Messages()).items():
        print(f"{name}  {facts['samples']} samples, {facts['fill_min']:.1%} to {facts['fill_max']:.1%} full")
    print(out)
