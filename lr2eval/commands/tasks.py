"""``lr2eval tasks``: tasks, the data they need, and the shortest length of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lr2eval.base.console import print_wrapped, printed_table, say, table
from lr2eval.base.files import cache_dir
from lr2eval.commands.options import DataDir
from lr2eval.errors import UsageError

MEASURED = 20
"""Number of samples from which ``lr2eval tasks --model`` measures a minimum length."""


def _exact_minimums(model: str, data_dir: Path | None) -> tuple[dict[str, int], dict[str, str]]:
    """Minimum length by ``benchmark:task``, and why some are not measured. Never uses the network."""
    from lr2eval.benchmark import TaskContext
    from lr2eval.model.names import locate
    from lr2eval.model.tokenizer import PromptTokenizer
    from lr2eval.registry import benchmarks

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


def tasks(
    model: Annotated[str | None, typer.Option(help="Measure the minimum lengths with this model's tokenizer.")] = None,
    data_dir: DataDir = None,
) -> None:
    """List the tasks. Show the data that each needs and its minimum length."""
    from lr2eval.method.rope.rules import rule_failures
    from lr2eval.registry import benchmarks, failures
    from lr2eval.runs.backend import backend_failures

    if data_dir is not None and not data_dir.is_dir():
        raise UsageError(f"--data-dir {data_dir}: no such folder")
    minimum, missing = ({}, {}) if model is None else _exact_minimums(model, data_dir)
    for benchmark in benchmarks().values():
        known = benchmark.tasks()
        needs = list(dict.fromkeys(info.needs for info in known))
        count = "1 task" if len(known) == 1 else f"{len(known)} tasks"
        say()
        say(f"{benchmark.name}: {count}" + (f"; needs {needs[0]}" if len(needs) == 1 else ""))
        if all(info.min_length is None for info in known):
            names = ", ".join(info.name for info in known)
            print_wrapped(names, first="  ", rest="  ")
            continue
        shown = table("task", "description", "shortest length", *(["needs"] if len(needs) > 1 else []))
        for info in known:
            name = f"{info.benchmark}:{info.name}"
            usual = "-" if info.min_length is None else f"{'~' if model else ''}{info.min_length}"
            row = [name, info.description, str(minimum.get(name, usual))]
            shown.add_row(*row, *([info.needs] if len(needs) > 1 else []))
        printed_table(shown)
    for problem in (*failures().values(), *rule_failures().values(), *backend_failures().values()):
        say()
        say(problem)
    source = (
        f"measured on the first {MEASURED} samples with the tokenizer of {model}"
        if model
        else "rounded, for common tokenizers (--model DIR measures them)"
    )
    say()
    say(f"Shortest lengths in tokens, {source}. Any other name is looked up among lm-eval's tasks, such as hellaswag.")
    for reason in dict.fromkeys(missing.values()):
        names = ", ".join(name for name, why in missing.items() if why == reason)
        say()
        say(f"~ not measured, because the data is missing: {names} ({reason})")
