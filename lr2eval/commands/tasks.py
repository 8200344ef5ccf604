"""``lr2eval tasks``: tasks, the data they need, and the shortest length of each."""

from __future__ import annotations

from lr2eval.base.console import print_wrapped, printed_table, say, table


def tasks() -> None:
    """List the tasks. Show the data that each needs and its minimum length."""
    from lr2eval.method.rope.rules import rule_failures
    from lr2eval.registry import benchmarks, failures
    from lr2eval.runs.backend import backend_failures

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
            shortest = "-" if info.min_length is None else str(info.min_length)
            shown.add_row(name, info.description, shortest, *([info.needs] if len(needs) > 1 else []))
        printed_table(shown)
    for problem in (*failures().values(), *rule_failures().values(), *backend_failures().values()):
        say()
        say(problem)
    say()
    say(
        "Shortest lengths in tokens, rounded, for common tokenizers; a run at too short a length names one that "
        "suffices. Any other name is looked up among lm-eval's tasks, such as hellaswag."
    )
