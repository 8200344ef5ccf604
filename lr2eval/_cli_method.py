"""The commands of the method on the command line: factors, search, training, export, all in one.

Heavy imports stay inside the commands so that ``--help`` is instant.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def rope(
    model: Annotated[str, typer.Option(help="Folder with a config.json (no weights needed), or a name.")],
    target_length: Annotated[str | None, typer.Option(help="Window to reach: 128k.")] = None,
    rule: Annotated[
        str | None,
        typer.Option(help="none, pi, ntk, ntk-aware, dynamic-ntk, yarn, llama3, longrope2, ntk-rcd, yarn-rcd, or all."),
    ] = None,
    factors: Annotated[Path | None, typer.Option(help="CSV or JSON file of factors to analyse instead.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Setting of the rule: beta_fast=64.")] = None,
    from_original: Annotated[
        bool, typer.Option("--from-original", help="Start from the window before the model's own rescaling.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """RoPE factors of a rule, a file or a longrope checkpoint, with periods and critical pairs."""
    from lr2eval._rope_command import rope_command

    rope_command(
        model,
        target_length=target_length,
        rule=rule,
        factors=factors,
        sets=set_ or (),
        from_original=from_original,
        as_json=as_json,
    )


def export(
    model: Annotated[str, typer.Option(help="Checkpoint folder of the original model, or a name.")],
    factors: Annotated[Path, typer.Option(help="CSV or JSON file of factors.")],
    out: Annotated[Path, typer.Option(help="New folder for the checkpoint.")],
    target_length: Annotated[str | None, typer.Option(help="Window to reach: 128k. [default: the file's]")] = None,
    attention_factor: Annotated[
        float | None, typer.Option(help="Temperature on both windows. [default: the file's, else sqrt(1 + ln s/ln Lt)]")
    ] = None,
    short_attention_factor: Annotated[
        float | None, typer.Option(help="Another one inside the original window (stock transformers ignores it).")
    ] = None,
    from_original: Annotated[
        bool, typer.Option("--from-original", help="Start from the window before the model's own rescaling.")
    ] = False,
    copy_weights: Annotated[bool, typer.Option("--copy-weights", help="Copy them instead of hard links.")] = False,
) -> None:
    """Write a longrope checkpoint with these factors that stock transformers loads."""
    from lr2eval._rope_command import export_command

    export_command(
        model,
        factors=factors,
        target_length=target_length,
        out=out,
        attention_factor=attention_factor,
        short_attention_factor=short_attention_factor,
        from_original=from_original,
        copy_weights=copy_weights,
        command=["lr2eval", *sys.argv[1:]],
    )


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
    from lr2eval._search_command import load_search_config, search_command

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
    search_command(load_search_config(flags, set_ or ()), command=["lr2eval", *sys.argv[1:]])


def train(
    recipe: Annotated[str, typer.Option(help="TOML file, or llama3-8b-128k, phi3-mini-128k, smollm2-135m-32k ...")],
    model: Annotated[str | None, typer.Option(help="Checkpoint folder of the original model, or a name.")] = None,
    factors: Annotated[Path | None, typer.Option(help="factors.json of a search.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of training rows.")] = None,
    held_out: Annotated[Path | None, typer.Option(help="Folder of rows to measure the loss on.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the training. [default: runs/train-MODEL-RECIPE]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. [default: the best there is]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local data with the essays, instead of the hub.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value of the recipe: optimizer.clip=0.5 ...")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print tokens, steps, memory and time, then stop.")
    ] = False,
) -> None:
    """Train on mixed windows (LongRoPE2) and export the model; the same command again resumes."""
    from lr2eval._train_command import load_recipe, train_command

    train_command(
        load_recipe(recipe, set_ or ()),
        model=model,
        factors=factors,
        data=data,
        held_out=held_out,
        out=out,
        device=device,
        data_dir=data_dir,
        offline=offline,
        dry_run=dry_run,
        command=["lr2eval", *sys.argv[1:]],
    )


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
    from lr2eval._extend_command import extend_command
    from lr2eval._extend_config import load_extend_config

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
    extend_command(load_extend_config(flags, config, set_ or ()), dry_run=dry_run, command=["lr2eval", *sys.argv[1:]])


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
    from lr2eval._data_commands import mix_command

    mix_command(recipe, model, data or (), set_ or (), out, workers=workers, offline=offline)


def estimate(
    model: Annotated[str, typer.Option(help="Folder with a config.json (no weights needed), such a file, or a name.")],
    tasks: Annotated[str, typer.Option(help="Of ruler, niah, mmlu, longbench, whole or as ruler:vt.")] = "ruler,mmlu",
    lengths: Annotated[str | None, typer.Option(help="4k..128k or 4k,8k. [default: 4k to the window]")] = None,
    gpu: Annotated[str, typer.Option(help="h100, h200, a100-80, a100-40, l40s, mi300x ...")] = "h100",
    gpus: Annotated[int, typer.Option(help="How many.")] = 1,
    samples_per_task: Annotated[int | None, typer.Option(help="Of RULER, per length. [default: 100]")] = None,
    original_window: Annotated[int | None, typer.Option(help="Tokens. [default: the configuration's]")] = None,
    search: Annotated[str, typer.Option(help="population x iterations x samples of a search.")] = "64x40x10",
    splits: Annotated[int, typer.Option(help="Splits searched.")] = 1,
    train_tokens: Annotated[str, typer.Option(help="Tokens of mixed-window training; 0: none.")] = "10B",
    short_share: Annotated[float, typer.Option(help="Of them in documents within the original window.")] = 0.3,
    tflops: Annotated[float | None, typer.Option(help="Peak of one GPU, dense. [default: its data sheet]")] = None,
    bandwidth: Annotated[float | None, typer.Option(help="GB/s of its memory. [default: its data sheet]")] = None,
    memory: Annotated[float | None, typer.Option(help="GB. [default: its data sheet]")] = None,
    utilisation: Annotated[float | None, typer.Option(help="Share of the peak in prompts. [default: 0.4]")] = None,
    train_utilisation: Annotated[float | None, typer.Option(help="The same in training. [default: 0.3]")] = None,
    read_share: Annotated[float | None, typer.Option(help="Of the bandwidth in decoding. [default: 0.5]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What evaluation, search and training of a model will cost: tokens, operations, GPU-hours."""
    from lr2eval._estimate_command import estimate_command

    flags = {
        "model": model,
        "tasks": tasks,
        "lengths": lengths,
        "gpu": gpu,
        "gpus": gpus,
        "samples_per_task": samples_per_task,
        "original_window": original_window,
        "search": search,
        "splits": splits,
        "train_tokens": train_tokens,
        "short_share": short_share,
        "tflops": tflops,
        "bandwidth": bandwidth,
        "memory": memory,
        "utilisation": utilisation,
        "train_utilisation": train_utilisation,
        "read_share": read_share,
    }
    estimate_command(flags, as_json=as_json)
