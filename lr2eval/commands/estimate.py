"""``lr2eval estimate``: print what evaluation, search and training of a model will cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from lr2eval.base.console import print_json, print_wrapped, printed_table, table
from lr2eval.base.units import format_length


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


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
    from lr2eval.estimate.cost import kv_bytes, read_weights
    from lr2eval.estimate.request import PUBLISHED, evaluation, read_request, searching, training

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
    shape, asked = read_request(flags)
    costs = [*evaluation(shape, asked), *searching(shape, asked), *training(shape, asked)]
    if as_json:
        value = {
            "assumptions": asdict(asked),
            "costs": [asdict(cost) for cost in costs],
            "published": [dict(zip(("what", "gpu_hours", "source"), row, strict=True)) for row in PUBLISHED],
        }
        print_json(value)
        return
    windows = f"{format_length(asked.original_window)} to {format_length(asked.target_length)}"
    shown = table("", "tokens", "operations", "GPU-hours", f"hours on {asked.gpus}", title=f"{asked.model}, {windows}")
    for cost in costs:
        cells = (f"{cost.tokens:,.4g}", f"{cost.operations:.3g}", _hours(cost.gpu_hours), _hours(cost.hours))
        shown.add_row(cost.name, *cells)
    for column in shown.columns[1:]:
        column.justify = "right"
    printed_table(shown)
    cache = kv_bytes(shape, 2)
    print_wrapped(
        f"Each token passes through {read_weights(shape):,} weights. Its keys and values take {cache / 1024:,.0f} KiB, "
        f"which makes {cache * asked.target_length / 2**30:,.1f} GiB at {format_length(asked.target_length)}."
    )
    print_wrapped(
        f"Assumed, not measured: {asked.gpus} {asked.gpu} with {asked.tflops:g} Tflop/s, {asked.bandwidth:g} GB/s and "
        f"{asked.memory:g} GB (data sheet); {asked.utilisation:.0%} of the peak arithmetic for prompts and search, "
        f"{asked.train_utilisation:.0%} for training; {asked.read_share:.0%} of the bandwidth for answers; every "
        "answer as long as its task allows. A flag changes each of them."
    )
    for what, hours, source in PUBLISHED:
        print_wrapped(f"For comparison, published: {what} took {hours:,.0f} GPU-hours ({source}).")
