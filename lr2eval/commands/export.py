"""``lr2eval export``: write a checkpoint with other RoPE factors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lr2eval.base.console import say
from lr2eval.commands.options import FromOriginal, OriginalModel, read_length, typed_command


def export(
    model: OriginalModel,
    factors: Annotated[Path, typer.Option(help="The CSV or JSON file with the RoPE factors.")],
    out: Annotated[Path, typer.Option(help="A new folder for the checkpoint.")],
    target_length: Annotated[
        str | None, typer.Option(help="The window to reach, in tokens: 128k. [default: the file's]", metavar="<length>")
    ] = None,
    attention_factor: Annotated[
        str | None,
        typer.Option(
            help="The attention temperature: a number, su or yarn. [default: the file's, else su]",
            metavar="<factor>",
        ),
    ] = None,
    short_attention_factor: Annotated[
        str | None,
        typer.Option(
            help="Another temperature inside the original window. Stock transformers ignores it.",
            metavar="<factor>",
        ),
    ] = None,
    from_original: FromOriginal = False,
    copy_weights: Annotated[
        bool, typer.Option("--copy-weights", help="Copy the weights instead of making hard links.")
    ] = False,
) -> None:
    """Write a checkpoint with these RoPE factors. Stock transformers loads it."""
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
        say(f"warning: {warning}", error=True)
    for line in done.notes:
        say(line)
    say(out)
