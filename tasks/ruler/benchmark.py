"""RULER as a benchmark plug-in: selects tasks, makes their data files and hands out shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lr2eval.base import ids
from lr2eval.benchmark import DataNeed, Shard, TaskContext, TaskInfo
from lr2eval.errors import TaskError
from lr2eval.record.results import ShardResult
from lr2eval.record.store import StoredSample
from lr2eval.tasks.exact import files
from lr2eval.tasks.ruler import generate, outside
from lr2eval.tasks.ruler.outside import OUTSIDE
from lr2eval.tasks.ruler.score import COMPAT, METRICS
from lr2eval.tasks.ruler.suite import TASKS, VERSION, RulerTask
from lr2eval.tasks.shared import jsonl, lm_eval, upstream
from lr2eval.tasks.shared.select import by_length, limited, one_or_all

NIAH = (
    *("niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
    *("niah_multivalue", "niah_multiquery"),
)
QA = ("qa_1", "qa_2")
NAMES = (*NIAH, "vt", "cwe", "fwe", *QA)
"""All 13 tasks in upstream's order."""
GROUPS: dict[str, Sequence[str]] = {"niah": NIAH, "qa": QA}
WITH_CONFIG = ("vt", "cwe", "fwe", "qa")
"""Modules in which lm-eval keeps the texts of other tasks than niah."""


class Ruler:
    """The benchmark object behind the task name ``ruler``."""

    name = "ruler"
    version = VERSION
    headline: Literal["tasks", "samples"] = "tasks"
    options = outside.RulerOptions

    def tasks(self) -> Sequence[TaskInfo]:
        """Every task, in upstream's order."""
        return [_info(name) for name in NAMES]

    def select(self, selector: str | None) -> Sequence[str]:
        """All tasks, the one named, or a group: ``niah``, ``qa``."""
        return one_or_all(self.name, selector, NAMES, GROUPS)

    def prepare(self, tasks: Sequence[str], context: TaskContext) -> Sequence[Shard]:
        """Make or find the data of every task and length.

        Raises :class:`TaskError` below a task's minimum, and :class:`MissingDataError` before anything is made.
        """
        if not context.lengths:
            raise TaskError("ruler: needs at least one length in tokens, for example --lengths 4k")
        options = outside.RulerOptions(**context.options)
        own = by_length(self.name, options.samples, context.lengths)
        counts = {at: limited(own.get(at, context.samples_per_task), context.limit) for at in context.lengths}
        scoring = COMPAT.get(options.compat or "", {})
        known = outside.load(tasks, options, context)
        fingerprint = context.tokenizer.fingerprint()  # takes a second for large vocabularies
        shards = []
        for task in tasks:
            for length, count in counts.items():
                data = _data_file(known[task], length, count, context, fingerprint, options.workers)
                shards.append(self._shard(known[task], data, context, scoring))
        return shards

    def data_needs(self, tasks: Sequence[str]) -> Sequence[DataNeed]:
        """The texts behind the tasks that read any."""
        return [outside.need(source) for source in dict.fromkeys(OUTSIDE[t].source for t in tasks if t in OUTSIDE)]

    def score_row(self, task: str, row: Mapping[str, Any]) -> float:
        """Score (0..1) of a line of NVIDIA/RULER's prediction files: ``pred`` against ``outputs``."""
        known: RulerTask | outside.OutsideTask = TASKS.get(task) or OUTSIDE[task]
        return METRICS[known.metric](jsonl.text(row, "pred"), jsonl.texts(row, "outputs"))

    def rescore(self, shard: ShardResult, sample: StoredSample) -> float:
        """Score (0..1) of an answer that a run of ours keeps, by the metric of that run."""
        if shard.metric not in METRICS:
            raise TaskError(f"{shard.id}: scored by {shard.metric!r}, an unknown metric; run it again")
        return METRICS[shard.metric](sample.answer, sample.gold)

    def _shard(self, task: RulerTask, data: files.DataFile, context: TaskContext, scoring: Mapping[str, str]) -> Shard:
        metric = scoring.get(task.metric, task.metric)

        def columns(row: Mapping[str, Any]) -> dict[str, Any]:
            # Questions about one paragraph, at any length, are one cluster in the statistics.
            asked = {"document": ids.text_hash(row["marks"][0])[:12]} if task.name in QA and row["marks"] else {}
            return {"depth": row["depth"], "token_count": row["token_count"], **asked}

        return lm_eval.file_shard(
            data,
            context,
            benchmark=self.name,
            task=task.name,
            version=task.version,
            metric=metric,
            score=lambda answer, row: METRICS[metric](answer, row["answers"]),
            columns=columns,
            facts={
                "haystack": task.haystack,
                **task.facts,
                **({} if metric == task.metric else {"scoring": context.options["compat"]}),
            },
        )


RULER = Ruler()


def _info(name: str) -> TaskInfo:
    if name in TASKS:
        task = TASKS[name]
        return TaskInfo(name, RULER.name, task.description, min_length=task.min_length)
    other = OUTSIDE[name]
    return TaskInfo(name, RULER.name, other.description, outside.need(other.source).needs, other.min_length)


def _data_file(
    task: RulerTask, length: int, count: int, context: TaskContext, fingerprint: str, workers: int | None
) -> files.DataFile:
    tokenizer = context.tokenizer
    facts = {
        "generator": task.version,
        "task": task.name,
        "length": length,
        "seed": context.seed,
        "haystack": task.haystack,
        "tokenizer": fingerprint,
        "chat": tokenizer.chat,
        "max_new_tokens": task.max_new_tokens,
        # The installed lm-eval provides the prompt texts.
        "texts": ids.digest([repr(upstream.niah_texts()), *(repr(upstream.task_texts(t)) for t in WITH_CONFIG)]),
        **task.facts,
    }
    if task.available is not None and task.available < count:
        context.progress(f"ruler:{task.name}: {task.haystack} has {task.available} questions, so not {count} samples")
        count = task.available
    return files.sample_file(
        context,
        RULER.name,
        facts,
        count,
        lambda: generate.samples(task, length, count, context.seed, tokenizer, workers),
    )
