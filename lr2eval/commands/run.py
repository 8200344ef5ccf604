"""``lr2eval run``: print the plan, run, print the scores and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lr2eval.base.console import printed_table, table
from lr2eval.base.units import format_length, format_seconds
from lr2eval.commands.compare import print_pair
from lr2eval.commands.options import spread_flags, typed_command

if TYPE_CHECKING:
    from lr2eval.record.results import OverLengths
    from lr2eval.runs.runner import Finished
    from lr2eval.workflows.run import RunOutcome


def print_outcome(done: RunOutcome) -> None:
    """The scores of every model, then the comparison with the baseline and the verdict."""
    _print_summary(list(done.models.values()))
    if done.pair is not None:
        print_pair(done.pair)
    print(f"report: {done.report}")


def _print_summary(finished: Sequence[Finished]) -> None:
    for done in finished:
        results = done.results
        shown = table("benchmark", "length", "score", "95 % interval", "samples", title=f"{results.model.name}")
        for row in results.summaries:
            if row.headline:
                shown.add_row(
                    row.benchmark if row.tasks == 1 else f"{row.benchmark} ({row.tasks} tasks)",
                    "-" if row.length is None else format_length(row.length),
                    f"{row.score:.1f}",
                    f"{row.interval.low:.1f} .. {row.interval.high:.1f}",
                    str(row.n),
                )
        printed_table(shown)
        for over in results.over_lengths:
            print(_over_lengths(over))
        for item in results.not_run:
            at = "" if item.length is None else f" at {format_length(item.length)}"
            print(f"not run: {item.task}{at}: {item.reason}")
        spent = format_seconds(done.wall_seconds)
        print(f"digest {results.digest[:16]}  {spent}, of which {format_seconds(done.model_seconds)} in the model")


def _over_lengths(over: OverLengths) -> str:
    of = "" if over.tasks >= 13 else " of 13"
    reached = "none" if over.effective_length is None else format_length(over.effective_length)
    text = f"{over.benchmark} effective length: {reached} (mean above {over.threshold} over {over.tasks}{of} tasks)"
    if over.weighted_increasing is not None and over.weighted_decreasing is not None:
        text += f"; wAvg inc {over.weighted_increasing:.1f}, dec {over.weighted_decreasing:.1f}"
    return text


# The flags of design.md: twenty, everything else through --config and --set; but where a run is spread over workers is
# written as it is for a search, and read in `spread_flags`.
def run(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Checkpoint folder, or a name (`lr2eval models list`).")] = None,
    tasks: Annotated[str | None, typer.Option(help="Comma list: ruler,mmlu or ruler:vt or any lm-eval task.")] = None,
    baseline: Annotated[str | None, typer.Option(help="The original model, run on the same samples.")] = None,
    lengths: Annotated[str | None, typer.Option(help="4k,8k,... [default: doubling from 4k to the window]")] = None,
    limit: Annotated[str | None, typer.Option(help="First N samples (or share, 0.1) of each task.")] = None,
    samples_per_task: Annotated[int | None, typer.Option(help="Per synthetic task and length. [default: 100]")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the synthetic data. [default: 0]")] = None,
    backend: Annotated[str | None, typer.Option(help="hf, or an lm-eval model type. [default: hf]")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16. [default: auto]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:0, mps. [default: the best there is]")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Rows, or auto (planned by memory). [default: auto]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Local benchmark data, instead of the hub.")] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Never use the network.")] = None,
    truncation: Annotated[
        str | None, typer.Option(help="Over-long prompts: error, skip, middle. [default: error]")
    ] = None,
    window_policy: Annotated[str | None, typer.Option(help="exact or budget (design D6). [default: exact]")] = None,
    chat: Annotated[bool | None, typer.Option("--chat", help="Wrap prompts in the model's chat template.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with any of these and more.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value; repeatable. Also ruler.key=value.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, stop.")] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder. [default: runs/MODEL-CONFIG]")] = None,
) -> None:
    """Evaluate a model (and its baseline); the same command again resumes.

    Over several workers: --workers N --executor processes|ray --gpus-per-worker K.
    """
    from lr2eval.commands.plan import print_plan
    from lr2eval.commands.progress import ProgressDisplay
    from lr2eval.runs.config import load_config
    from lr2eval.workflows.run import prepare_run, run_ready

    flags = spread_flags(context) | {
        "model": model,
        "tasks": tasks,
        "baseline": baseline,
        "lengths": lengths,
        "limit": limit,
        "samples_per_task": samples_per_task,
        "seed": seed,
        "backend": backend,
        "dtype": dtype,
        "device": device,
        "batch_size": batch_size,
        "data_dir": data_dir,
        "offline": offline,
        "truncation": truncation,
        "window_policy": window_policy,
        "chat": chat,
        "out": out,
    }
    asked = load_config(flags, config, set_ or ())
    with ProgressDisplay() as progress:
        ready = prepare_run(asked, progress)
        print_plan(ready, progress.message)
        if asked.workers > 1:
            progress.message(f"the times are those of one worker on this machine; {asked.workers} share the work")
        if dry_run:
            return
        done = run_ready(ready, listener=progress, command=typed_command())
    print_outcome(done)
