"""``lr2eval run``: print the plan, run, print the scores and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lr2eval.base.console import printed_table, say, table
from lr2eval.base.units import format_length, format_seconds
from lr2eval.commands.compare import print_pair
from lr2eval.commands.options import ConfigFile, DryRun, Sets, configured, task_keys, typed_command

if TYPE_CHECKING:
    from lr2eval.record.results import OverLengths
    from lr2eval.runs.runner import Finished
    from lr2eval.workflows.run import Ready, RunOutcome

T = TypeVar("T")


def print_outcome(done: RunOutcome) -> None:
    """The scores of every model, then the comparison with the baseline and the verdict."""
    _print_summary(list(done.models.values()))
    if done.pair is not None:
        print_pair(done.pair)
    say(f"report: {done.report}")


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
            say(_over_lengths(over))
        for item in results.not_run:
            at = "" if item.length is None else f" at {format_length(item.length)}"
            say(f"not run: {item.task}{at}: {item.reason}")
        spent = format_seconds(done.wall_seconds)
        say(f"digest {results.digest[:16]}  {spent}, of which {format_seconds(done.model_seconds)} in the model")


def _over_lengths(over: OverLengths) -> str:
    of = "" if over.tasks >= 13 else " of 13"
    reached = "none" if over.effective_length is None else format_length(over.effective_length)
    text = f"{over.benchmark} effective length: {reached} (mean above {over.threshold} over {over.tasks}{of} tasks)"
    if over.weighted_increasing is not None and over.weighted_decreasing is not None:
        text += f"; wAvg inc {over.weighted_increasing:.1f}, dec {over.weighted_decreasing:.1f}"
    return text


@configured("lr2eval.runs.config:RunConfig", keys=task_keys)
def run(given: dict[str, Any], config: ConfigFile = None, set_: Sets = None, dry_run: DryRun = False) -> None:
    """Evaluate a model, or an original and an extended model. Run the same command again to resume."""
    from lr2eval.runs.config import RunConfig
    from lr2eval.workflows.run import prepare_run, run_ready

    if done := planned(RunConfig.load(given, config, set_ or ()), prepare_run, run_ready, dry_run):
        print_outcome(done)


def planned(asked: Any, prepare: Callable[..., Ready], run_ready: Callable[..., T], dry_run: bool) -> T | None:
    """What ``run_ready`` returns after ``prepare`` and the plan; ``None`` for a ``dry_run``."""
    from lr2eval.commands.progress import ProgressDisplay

    with ProgressDisplay() as progress:
        ready = prepare(asked, listener=progress)
        from lr2eval.commands.plan import print_plan  # it imports torch: a refusal need not wait for that

        print_plan(ready, progress.message)
        if asked.workers > 1:
            progress.message(f"the times are those of one worker on this machine; {asked.workers} share the work")
        return None if dry_run else run_ready(ready, listener=progress, command=typed_command())
