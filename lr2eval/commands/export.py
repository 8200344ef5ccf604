"""``lr2eval export``: write a checkpoint with other RoPE factors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lr2eval.commands.options import read_length, typed_command


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

    from lr2eval.workflows.export import export as write_checkpoint

    done = write_checkpoint(
        model,
        factors,
        out,
        target_length=read_length("--target-length", target_length),
        attention_factor=attention_factor,
        short_attention_factor=short_attention_factor,
        from_original=from_original,
        copy_weights=copy_weights,
        command=typed_command(),
    )
    for warning in done.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for line in done.notes:
        print(line)
    print(out)
