"""Finding benchmarks: plug-ins of the entry-point group ``lr2eval.tasks``, then plain lm-eval task names.

A plug-in is an object that satisfies :class:`lr2eval._types.Benchmark`; the name of its entry point is the name users
type. One that cannot be imported harms nobody until it is asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from lr2eval._errors import TaskError
from lr2eval._types import Benchmark

GROUP = "lr2eval.tasks"
LM_EVAL = EntryPoint("lm_eval", "lr2eval.tasks.lmeval:lm_eval_benchmark", GROUP)
"""Who answers for names that no plug-in owns. It is found like a plug-in, so that the core imports no task."""


def benchmarks() -> dict[str, Benchmark]:
    """Every plug-in that loads, by name, built-in ones included; :func:`failures` says which do not."""
    return {name: found for name in sorted(_points()) if not isinstance(found := _load(name), str)}


def failures() -> dict[str, str]:
    """One line for every plug-in that cannot be used: its distribution, the reason and the mend."""
    return {name: found for name in sorted(_points()) if isinstance(found := _load(name), str)}


def resolve(spec: str | Sequence[str], *, include_path: Path | None = None) -> list[tuple[Benchmark, list[str]]]:
    """Benchmarks and their tasks for what the user typed: ``ruler``, ``ruler:vt,mmlu:anatomy``, ``hellaswag``.

    Names are separated by commas; ``benchmark:task`` selects one task. The order is the user's, a benchmark stands
    where it is first named and nothing is run twice. A name that no plug-in owns is looked up among lm-eval's tasks
    and the YAML files under ``include_path``. Raises :class:`TaskError` for unknown names (with the nearest known
    ones) and for plug-ins that cannot be loaded.
    """
    texts = [spec] if isinstance(spec, str) else spec
    names = [name.strip() for text in texts for name in text.split(",") if name.strip()]
    if not names:
        raise TaskError("no task given; `lr2eval tasks` lists all names")
    order: list[Benchmark] = []
    chosen: dict[str, list[str]] = {}
    for name in names:
        benchmark, tasks = _owner(name, include_path)
        if benchmark.name not in chosen:
            order.append(benchmark)
        known = chosen.setdefault(benchmark.name, [])
        known.extend(task for task in tasks if task not in known)
    return [(benchmark, chosen[benchmark.name]) for benchmark in order]


def _owner(name: str, include_path: Path | None) -> tuple[Benchmark, Sequence[str]]:
    plugin, colon, selector = name.partition(":")
    if plugin in _points():
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
        # lm-eval has tasks of such names too (its own port of RULER, 0-shot MMLU): never run them by mistake.
        raise TaskError(f"{name}: did you mean {' or '.join(meant)}? (lm-eval's own would be {LM_EVAL.name}:{name})")
    foreign = LM_EVAL.load()(include_path)
    if not foreign.knows(name):
        raise TaskError(f"{name}: unknown task; {suggestion(name, [*_points(), *ours, *foreign.names()])}")
    return foreign, foreign.select(name)


def suggestion(name: str, known: Iterable[str]) -> str:
    """``did you mean 'a' or 'b'?``, or where to look when nothing is near."""
    near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.6)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else "`lr2eval tasks` lists all names"


def _points() -> dict[str, list[EntryPoint]]:
    """Entry points by name. Several with one target are one: a source tree may be seen twice on ``sys.path``."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        same = found.setdefault(point.name, [])
        if point.value not in [other.value for other in same]:
            same.append(point)
    return found


def _load(name: str) -> Benchmark | str:
    """The plug-in, or the one line that says why not."""
    points = _points()[name]
    if len(points) > 1:
        owners = " and ".join(sorted(_distribution(point) for point in points))
        return f"task plug-in {name!r} is provided by {owners}; uninstall one of them"
    return _load_point(points[0])


@cache
def _load_point(point: EntryPoint) -> Benchmark | str:
    try:
        plugin: Any = point.load()
    except Exception as error:  # whatever a stranger's module raises while it is imported
        first = (str(error).strip().splitlines() or [""])[0]
        reason = f"{type(error).__name__}: {first}"
    else:
        missing = [each for each in ("version", "headline", "tasks", "select", "prepare") if not hasattr(plugin, each)]
        if getattr(plugin, "name", None) == point.name and not missing:
            benchmark: Benchmark = plugin
            return benchmark
        reason = (
            f"{point.value} lacks {', '.join(missing)}" if missing else f"{point.value} is not named {point.name!r}"
        )
    return f"task plug-in {point.name!r} of {_distribution(point)} cannot be used ({reason}); update or uninstall it"


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.module
