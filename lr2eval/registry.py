"""Finding benchmarks: task plug-ins first, then plain lm-eval task names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from lr2eval import plugins
from lr2eval.base.console import suggestion
from lr2eval.benchmark import Benchmark, DataNeed, TaskInfo
from lr2eval.errors import TaskError, UsageError

LM_EVAL = EntryPoint("lm_eval", "lr2eval.tasks.lmeval:lm_eval_benchmark", plugins.TASKS)
"""Handles all names that belong to no plug-in. It is loaded like a plug-in, so that the core imports no task."""


def benchmarks() -> dict[str, Benchmark]:
    """Every plug-in that loads, by name, built-in ones included; :func:`failures` says which do not."""
    return {name: found for name in plugins.names(plugins.TASKS) if not isinstance(found := _load(name), str)}


def failures() -> dict[str, str]:
    """One line for every plug-in that cannot be used: its package, the reason and what to do."""
    return {name: found for name in plugins.names(plugins.TASKS) if isinstance(found := _load(name), str)}


def resolve(spec: str | Sequence[str], *, include_path: Path | None = None) -> list[tuple[Benchmark, list[str]]]:
    """Benchmarks and their tasks for what the user typed: ``ruler``, ``ruler:vt,mmlu:anatomy``, ``hellaswag``.

    Names are separated by commas; ``benchmark:task`` selects one task. Benchmarks keep the order in which the user
    first names them, and no task occurs twice. A name that no plug-in owns is looked up among lm-eval's tasks
    and the YAML files under ``include_path``. Raises :class:`TaskError` for unknown names (with the nearest known
    ones) and for plug-ins that cannot be loaded.
    """
    texts = [spec] if isinstance(spec, str) else spec
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    if not names:
        raise TaskError("no task given; `lr2eval tasks` lists all names")
    chosen: dict[str, tuple[Benchmark, list[str]]] = {}
    for name in names:
        benchmark, tasks = _owner(name, include_path)
        _, known = chosen.setdefault(benchmark.name, (benchmark, []))
        known.extend(task for task in tasks if task not in known)
    return list(chosen.values())


def _owner(name: str, include_path: Path | None) -> tuple[Benchmark, Sequence[str]]:
    plugin, colon, selector = name.partition(":")
    if plugin in plugins.names(plugins.TASKS):
        found = _load(plugin)
        if isinstance(found, str):
            raise TaskError(found)
        return found, found.select(selector if colon else None)
    if plugin == LM_EVAL.name:
        foreign = LM_EVAL.load()(include_path)
        return foreign, foreign.select(selector if colon else None)
    ours = [f"{each}:{t.name}" for each, found in benchmarks().items() for t in found.tasks()]
    shared = [each for each, found in benchmarks().items() if getattr(found, "lm_eval_names", False)]
    own = [full for full in ours if full.partition(":")[0] not in shared]
    meant = [full for full in own if name in (full.partition(":")[2], full.replace(":", "_"))]
    if meant:
        # lm-eval has tasks of these names too (its own port of RULER, 0-shot MMLU). Never run them by mistake.
        raise TaskError(
            f"{name}: did you mean {' or '.join(meant)}? (for lm-eval's own task write {LM_EVAL.name}:{name})"
        )
    foreign = LM_EVAL.load()(include_path)
    if not foreign.knows(name):
        raise TaskError(
            f"{name}: unknown task; {suggestion(name, [*plugins.names(plugins.TASKS), *ours, *foreign.names()])}"
        )
    return foreign, foreign.select(name)


def data_needs(benchmark: Benchmark, tasks: Sequence[str]) -> Sequence[DataNeed]:
    """The data sets that tasks read. Raises :class:`UsageError` if a benchmark reads data but does not state which."""
    stated = getattr(benchmark, "data_needs", None)
    if stated is not None:
        needs: Sequence[DataNeed] = stated(tasks)
        return needs
    if any(info.needs != "nothing" for info in benchmark.tasks()):
        raise UsageError(
            f"{benchmark.name}:{tasks[0]}: {benchmark.name} does not state what data it reads, so a bundle cannot hold "
            "it; run the task once with a network and copy the hub's cache ($HF_HOME)"
        )
    return []


@cache
def _load(name: str) -> Benchmark | str:
    """The plug-in, or one line that says why it cannot be used."""
    try:
        plugin: Any = plugins.load(plugins.TASKS, name)
        missing = [each for each in ("version", "headline", "tasks", "select", "prepare") if not hasattr(plugin, each)]
        target = plugins.target(plugins.TASKS, name)
        if missing:
            raise plugins.unusable(plugins.TASKS, name, f"{target} lacks {', '.join(missing)}")
        if getattr(plugin, "name", None) != name:
            raise plugins.unusable(plugins.TASKS, name, f"{target} is not named {name!r}")
        _check_tasks(name, plugin)
    except plugins.PluginError as error:
        return str(error)
    author = plugins.made_by(plugins.TASKS, name)
    benchmark: Benchmark = plugins.Checked(plugin, f"benchmark {name} of {author}", TaskError) if author else plugin
    return benchmark


def _check_tasks(name: str, plugin: Any) -> None:
    """``lr2eval tasks`` calls ``tasks()`` of every benchmark, so one that fails must not break the list."""
    try:
        fine = all(isinstance(info, TaskInfo) for info in plugin.tasks())
    except (Exception, SystemExit) as error:  # code of another package may raise anything
        raise plugins.unusable(plugins.TASKS, name, f"tasks() raised {plugins.raised(error)}") from error
    if not fine:
        raise plugins.unusable(plugins.TASKS, name, "tasks() returned something that is not a TaskInfo")
