"""``lr2eval estimate``: print what evaluation, search and training of a model will cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lr2eval.base.console import print_json, print_wrapped, printed_table, table
from lr2eval.base.units import format_length
from lr2eval.commands.options import AsJson, configured


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


@configured("lr2eval.estimate.request:Request")
def estimate(given: dict[str, Any], as_json: AsJson = False) -> None:
    """Estimate what a model will cost: evaluation, search, training. Print tokens, operations and GPU-hours."""
    from lr2eval.estimate.cost import kv_bytes, read_weights
    from lr2eval.estimate.request import PUBLISHED, evaluation, read_request, searching, training

    shape, asked = read_request(given)
    costs = [*evaluation(shape, asked), *searching(shape, asked), *training(shape, asked)]
    if as_json:
        value = {
            "assumptions": asked.model_dump(mode="json") | {"target_length": asked.target_length},
            "costs": [asdict(cost) for cost in costs],
            "published": [dict(zip(("what", "gpu_hours", "source"), row, strict=True)) for row in PUBLISHED],
        }
        print_json(value)
        return
    windows = f"{format_length(asked.original_window)} to {format_length(asked.target_length)}"
    columns = ("", "tokens", "operations", "GPU-hours", f"hours on {asked.gpus}")
    shown = table(*columns, title=f"{asked.model}, {windows}", right=slice(1, None))
    for cost in costs:
        cells = (f"{cost.tokens:,.4g}", f"{cost.operations:.3g}", _hours(cost.gpu_hours), _hours(cost.hours))
        shown.add_row(cost.name, *cells)
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
