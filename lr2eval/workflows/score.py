"""Score existing predictions or the stored answers of a run, without a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lr2eval.benchmark import Benchmark
from lr2eval.errors import MissingPackageError, TaskError, UsageError
from lr2eval.record.results import RESULTS_FILE, ShardResult
from lr2eval.record.store import RunStore
from lr2eval.record.verified import verified_run

ID_FIELDS = ("_id", "id", "index")
"""Fields with the number of a prediction. A number must not occur twice in a file."""


@dataclass(frozen=True)
class DataSetScores:
    """The scores of one data set, 0..1. They are shown as 0..100."""

    scores: Sequence[float]
    groups: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """The scores by length bucket, if the benchmark has buckets."""
    before: float | None = None
    """The score (0..100) in ``results.json``, for the folder of a run."""

    @property
    def score(self) -> float:
        """0..100 with two decimals, summed and rounded like LongBench and RULER."""
        return percent(self.scores)


@dataclass(frozen=True)
class FolderScores:
    """The scores of a folder by data set."""

    scores: Mapping[str, DataSetScores]
    not_scored: Mapping[str, str]
    """The data sets that need a package that is not installed, each with the reason and the fix."""
    unfinished: bool = False
    """Whether the folder is a run that has not finished. Only its finished parts are scored."""


def score_folder(benchmark: str, folder: Path) -> FolderScores:
    """The scores of ``folder``.

    The folder is a run, whose stored answers are scored with today's metrics, or it has predictions in the layout of
    the benchmark, ``DATASET.jsonl``. Nothing is written. Raises :class:`UsageError` for any other folder, and if no
    data set can be scored.
    """
    name, colon, selector = benchmark.partition(":")
    found = _benchmark(name)
    tasks = found.select(selector if colon else None)
    if not folder.is_dir():
        raise UsageError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; give a folder")
    score = _run if (folder / RESULTS_FILE).is_file() else _files
    done = score(found, tasks if colon else None, folder)
    if done.not_scored and not done.scores:
        raise UsageError(f"{benchmark}: {next(iter(done.not_scored.values()))}")
    return done


def _benchmark(name: str) -> Benchmark:
    from lr2eval.base.console import suggestion
    from lr2eval.registry import benchmarks, failures

    known = benchmarks()
    if name not in known:
        raise TaskError(failures().get(name) or f"{name}: unknown benchmark; {suggestion(name, known)}")
    return known[name]


def _files(benchmark: Benchmark, tasks: Sequence[str] | None, folder: Path) -> FolderScores:
    """Score predictions in the layout of the benchmark, in the order of its tasks. ``None``: all tasks."""
    from lr2eval.base.console import suggestion
    from lr2eval.tasks.shared import jsonl

    score_row: Callable[[str, Mapping[str, Any]], float] | None = getattr(benchmark, "score_row", None)
    group: Callable[[Mapping[str, Any]], str] | None = getattr(benchmark, "group", None)
    if score_row is None:
        raise UsageError(
            f"{folder}: has no {RESULTS_FILE}; {benchmark.name} is scored from run folders only, so give one"
        )
    files = jsonl.find(folder)
    if not files:
        raise UsageError(
            f"{folder}: has neither predictions (DATASET.jsonl) nor a run; give a folder that has one of them"
        )
    known = [info.name for info in benchmark.tasks()]
    for name, path in files.items():
        if name not in known:
            raise UsageError(f"{path}: {benchmark.name} has no data set {name!r}; {suggestion(name, known)}")
    wanted = [name for name in known if name in files and (tasks is None or name in tasks)]
    if not wanted:
        raise UsageError(f"{folder}: has no {tasks[0] if tasks else ''}.jsonl; the files there are {', '.join(files)}")

    def scored(name: str) -> Iterator[tuple[float, str]]:
        for place, row in jsonl.read(files[name], ID_FIELDS):
            try:
                yield score_row(name, row), group(row) if group is not None else ""
            except MissingPackageError:
                raise
            except UsageError as error:
                raise UsageError(f"{place}, {error}") from error

    return _collected(benchmark, {name: (scored(name), None) for name in wanted})


def _run(benchmark: Benchmark, tasks: Sequence[str] | None, folder: Path) -> FolderScores:
    """Score the stored answers of a run, by ``task`` or ``task@length``. Skipped samples have no answer."""
    rescore: Callable[[ShardResult, Any], float] | None = getattr(benchmark, "rescore", None)
    if rescore is None:
        raise UsageError(f"{benchmark.name}: its metrics need more than the stored answers; run the model again")
    results, _ = verified_run(folder, unfinished=True)
    ours = [shard for shard in results.shards if shard.benchmark == benchmark.name]
    shards = [shard for shard in ours if tasks is None or shard.task.removeprefix(f"{benchmark.name}_") in tasks]
    if not shards:
        there = ", ".join(dict.fromkeys(f"{s.benchmark}:{s.task}" for s in results.shards)) or "no scores yet"
        wanted = benchmark.name if tasks is None else f"{benchmark.name}:{', '.join(tasks)}"
        raise UsageError(f"{folder}: the run has no {wanted}; it has {there}")

    def scored(shard: ShardResult) -> Iterator[tuple[float, str]]:
        for sample in store.samples(shard.id):
            if not sample.skipped:
                yield rescore(shard, sample), str(sample.columns.get("bucket"))

    with RunStore.read(folder) as store:
        parts = {shard.id.removeprefix(f"{shard.benchmark}/"): (scored(shard), shard.score) for shard in shards}
        return replace(_collected(benchmark, parts), unfinished=not results.complete)


def _collected(
    benchmark: Benchmark, parts: Mapping[str, tuple[Iterator[tuple[float, str]], float | None]]
) -> FolderScores:
    """The scores of each data set, from (score, length bucket) of its answers and its score in ``results.json``."""
    found: dict[str, DataSetScores] = {}
    not_scored: dict[str, str] = {}
    for name, (scored, before) in parts.items():
        scores: list[float] = []
        groups: dict[str, list[float]] = defaultdict(list, {each: [] for each in getattr(benchmark, "groups", ())})
        try:
            for score, bucket in scored:
                scores.append(score)
                if groups:
                    groups[bucket].append(score)
        except MissingPackageError as error:
            not_scored[name] = str(error)
            continue
        if scores:
            found[name] = DataSetScores(scores, groups, before)
    return FolderScores(found, not_scored)


def percent(scores: Sequence[float]) -> float:
    total = 0.0
    for each in scores:  # plain additions, one by one, like the published numbers
        total += each
    return round(100 * total / len(scores), 2)
