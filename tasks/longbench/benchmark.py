"""LongBench v1 and LongBench-E as benchmark plug-ins: every data set at every window."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from lr2eval.base.reading import parse_json
from lr2eval.base.settings import refuse_unknown
from lr2eval.benchmark import DataNeed, Shard, TaskContext, TaskInfo
from lr2eval.errors import StoreError
from lr2eval.tasks.longbench import layout, metrics, source
from lr2eval.tasks.longbench.prompts import prompt
from lr2eval.tasks.longbench.suite import BUCKETS, DATA_SETS, bucket
from lr2eval.tasks.shared import lm_eval
from lr2eval.tasks.shared.hub import load_each
from lr2eval.tasks.shared.select import limited, one_or_all

if TYPE_CHECKING:
    from lr2eval.record.results import ShardResult
    from lr2eval.record.store import StoredSample

VERSION = "1"


class LongBench:
    """The benchmark object behind ``longbench``, and behind ``longbench_e`` if ``extended``; tasks are data sets."""

    version = VERSION
    headline: Literal["tasks", "samples"] = "tasks"

    def __init__(self, name: str, *, extended: bool) -> None:
        self.name = name
        self.extended = extended
        self.groups = tuple(BUCKETS) if extended else ()
        self._names = [each for each, rules in DATA_SETS.items() if rules.extended or not extended]

    def tasks(self) -> Sequence[TaskInfo]:
        """The data sets, in the paper's order."""
        file = "longbench/DATASET_e.jsonl" if self.extended else "longbench/DATASET.jsonl"
        needs = replace(source.rows_of(self._names[0], extended=self.extended), file=file).needs
        return [TaskInfo(name, self.name, DATA_SETS[name].asks, needs) for name in self._names]

    def data_needs(self, tasks: Sequence[str]) -> Sequence[DataNeed]:
        """One data set for each task."""
        return [source.rows_of(task, extended=self.extended) for task in tasks]

    def select(self, selector: str | None) -> Sequence[str]:
        """All data sets, or the one named."""
        return one_or_all(self.name, selector, self._names)

    def prepare(self, tasks: Sequence[str], context: TaskContext) -> Sequence[Shard]:
        """Read the samples and lay their prompts out for every window of ``context``.

        Raises :class:`MissingDataError` naming every data set that is not there, and :class:`TaskError` for prompts
        longer than a window unless the truncation policy says what to do with them.
        """
        refuse_unknown(context.options, (), group=self.name)
        metrics.check_installed(tasks)  # before hours of answers that could not be scored

        def load(task: str) -> tuple[str, list[layout.Item]]:
            rows = source.rows_of(task, extended=self.extended)
            return rows.read(context.data_dir, offline=context.offline)

        found = load_each(self.name, tasks, load, brief=True)
        fingerprint = context.tokenizer.fingerprint()
        return [
            self._shard(task, where, items[: limited(len(items), context.limit)], window, context, fingerprint)
            for task, (where, items) in found.items()
            for window in context.windows or context.lengths
        ]

    def score_row(self, task: str, row: Mapping[str, Any]) -> float:
        """Score (0..1) of a line of LongBench's own prediction files."""
        return source.score_row(task, row)

    def group(self, row: Mapping[str, Any]) -> str:
        """The length bucket of such a line."""
        return source.group(row)

    def rescore(self, shard: ShardResult, sample: StoredSample) -> float:
        """Score (0..1) of an answer that a run of ours keeps."""
        stated = shard.data.get("classes")
        labels = parse_json(str(stated), f"{shard.id}: classes", error=StoreError) if stated else None
        return metrics.score(shard.task, sample.answer, sample.gold, labels)

    def _shard(
        self, task: str, where: str, items: list[layout.Item], window: int, context: TaskContext, fingerprint: str
    ) -> Shard:
        rules, asked = DATA_SETS[task], prompt(task)
        name = f"{self.name}/{task}"
        data = layout.lay_out(name, VERSION, items, asked, window, context, fingerprint, chat=rules.chat)
        facts = {"source": where}
        if rules.metric == "classification" and items:
            # One list for the whole data set, as in LongBench; scoring a run again needs it.
            facts["classes"] = json.dumps(items[0].extra["all_classes"], ensure_ascii=False)

        def columns(row: Mapping[str, Any]) -> dict[str, Any]:
            group = {"bucket": bucket(row["length"])} if self.extended else {}
            return {"document": row["document"], "item": layout.item(row), "source_length": row["length"], **group}

        return lm_eval.file_shard(
            data,
            context,
            benchmark=self.name,
            task=task,
            version=VERSION,
            metric=rules.metric,
            score=lambda answer, row: metrics.score(task, answer, row["answers"], row["all_classes"]),
            columns=columns,
            facts=facts,
            chat=rules.chat,
        )


LONGBENCH = LongBench("longbench", extended=False)
LONGBENCH_E = LongBench("longbench_e", extended=True)
