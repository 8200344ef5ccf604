"""``lr2eval search``: find RoPE factors for a longer window by needle perplexity, and compare them with the rules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lr2eval.base.console import printed_table, table
from lr2eval.base.units import format_length
from lr2eval.commands.options import typed_command

if TYPE_CHECKING:
    from lr2eval.workflows.search import SearchOutcome


def print_search(done: SearchOutcome) -> None:
    """The perplexity of the found factors and of every rule, then where the files are."""
    result = done.result
    shown = table("factors", f"search ({result.samples})", f"held out ({result.held_out})", "")
    for rule in sorted(result.rules, key=lambda each: each.held_out_perplexity or each.search_perplexity or 1e300):
        shown.add_row(rule.name, _shown(rule.search_perplexity), _shown(rule.held_out_perplexity), rule.made_by)
    for column in shown.columns[1:3]:
        column.justify = "right"
    print(f"{result.model}: {format_length(result.original_window)} to {format_length(result.target_length)}")
    print(
        "needle perplexity on the samples of the search and on held-out samples"
        if result.objective == "needle"
        else "plain perplexity on the samples of the search, needle perplexity on held-out samples"
    )
    printed_table(shown)
    reached = "none" if result.d_rcd is None else result.d_rcd
    print(f"best split: pair {result.split}; d_rcd {reached}, d_tcd {result.d_tcd} (pairs counted from 0)")
    print(
        f"{result.evaluations:,} evaluations; candidates without a finite perplexity: {result.discarded}, given up "
        f"early: {result.given_up}"
    )
    print(f"report: {done.report}")
    print(done.factors)


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def search(
    model: Annotated[str, typer.Option(help="Checkpoint folder of the original model, or a name.")],
    target_length: Annotated[str, typer.Option(help="Window to reach: 128k.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the search. [default: runs/search-MODEL-CONFIG]")] = None,
    haystack: Annotated[
        str | None, typer.Option(help="essays, python-docs, or a text file or folder of books. [default: essays]")
    ] = None,
    repeat: Annotated[bool | None, typer.Option("--repeat", help="Repeat a haystack that is too short.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local data with the essays, instead of the hub.")] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Never use the network.")] = None,
    wording: Annotated[Path | None, typer.Option(help="JSON file with the words around a needle.")] = None,
    samples: Annotated[int | None, typer.Option(help="Each candidate is scored on. [default: 10]")] = None,
    held_out: Annotated[int | None, typer.Option(help="Unseen samples to compare on. [default: 10]")] = None,
    depths: Annotated[
        str | None, typer.Option(help="start (as in the paper) or grid over the length. [default: start]")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="needle, or plain perplexity as an ablation. [default: needle]")
    ] = None,
    splits: Annotated[str | None, typer.Option(help="Pairs: 27,29,31. [default: d_tcd and 2, 4, 6 below it]")] = None,
    iterations: Annotated[int | None, typer.Option(help="Of each split. [default: 40]")] = None,
    seed: Annotated[int | None, typer.Option(help="Of samples and search. [default: 0]")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16. [default: auto]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:0, mps. [default: the best there is]")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that each keep the model. [default: 1]")] = None,
    executor: Annotated[str | None, typer.Option(help="Workers are processes, or ray. [default: processes]")] = None,
    gpus_per_worker: Annotated[
        float | None, typer.Option(help="Reserved for each Ray worker. [default: 1 on cuda]")
    ] = None,
    attention_factor: Annotated[float | None, typer.Option(help="Temperature. [default: sqrt(1 + ln s/ln Lt)]")] = None,
    from_original: Annotated[
        bool | None, typer.Option("--from-original", help="Start from the window before the model's own rescaling.")
    ] = None,
    race: Annotated[bool | None, typer.Option("--race", help="Give unpromising candidates up early.")] = None,
    random: Annotated[bool | None, typer.Option("--random", help="Random search, for comparison.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value: population, patience, powers ...")] = None,
) -> None:
    """Search LongRoPE2 factors by needle perplexity; the same command again resumes."""
    from lr2eval.commands.progress import SearchProgress
    from lr2eval.workflows.search import load_search_config
    from lr2eval.workflows.search import search as run_search

    flags = {
        "model": model,
        "target_length": target_length,
        "out": out,
        "haystack": haystack,
        "repeat": repeat,
        "data_dir": data_dir,
        "offline": offline,
        "wording": wording,
        "samples": samples,
        "held_out": held_out,
        "depths": depths,
        "objective": objective,
        "splits": splits,
        "iterations": iterations,
        "seed": seed,
        "dtype": dtype,
        "device": device,
        "workers": workers,
        "executor": executor,
        "gpus_per_worker": gpus_per_worker,
        "attention_factor": attention_factor,
        "from_original": from_original,
        "race": race,
        "random": random,
    }
    with SearchProgress() as progress:
        done = run_search(load_search_config(flags, set_ or ()), listener=progress, command=typed_command())
    print_search(done)
