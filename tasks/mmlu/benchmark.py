"""MMLU as a benchmark plug-in: lm-eval's own definition of the 57 subjects, 5-shot, over rows we have read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lr2eval.base import ids
from lr2eval.base.settings import refuse_unknown
from lr2eval.benchmark import DataNeed, SampleInfo, Shard, TaskContext, TaskInfo
from lr2eval.tasks.mmlu import source
from lr2eval.tasks.mmlu.source import LETTERS, SPLITS, MmluQuestions, Row
from lr2eval.tasks.shared import lm_eval, upstream
from lr2eval.tasks.shared.hub import load_each
from lr2eval.tasks.shared.select import limited, one_or_all

VERSION = "1"
SHOTS = 5


class Mmlu(lm_eval.Choices):
    """The benchmark object behind the task name ``mmlu``; its tasks are the subjects."""

    name = "mmlu"
    version = VERSION
    headline: Literal["tasks", "samples"] = "samples"

    def tasks(self) -> Sequence[TaskInfo]:
        """The 57 subjects in alphabetical order."""
        needs = source.MmluData().needs
        return [
            TaskInfo(subject, self.name, f"{subject.replace('_', ' ')}, {SHOTS}-shot multiple choice", needs)
            for subject in upstream.mmlu_files()
        ]

    def select(self, selector: str | None) -> Sequence[str]:
        """All subjects, or the one named (with or without ``mmlu_``)."""
        return one_or_all(self.name, selector and selector.removeprefix("mmlu_"), list(upstream.mmlu_files()))

    def prepare(self, tasks: Sequence[str], context: TaskContext) -> Sequence[Shard]:
        """Read the questions. Raises :class:`MissingDataError` naming the subjects whose data is missing."""
        refuse_unknown(context.options, (), group=self.name)
        found = source.read(context.data_dir, context.offline)
        return list(load_each(self.name, tasks, lambda each: self._shard(each, found, context), brief=True).values())

    def data_needs(self, tasks: Sequence[str]) -> Sequence[DataNeed]:
        """One data set for all subjects."""
        return [source.MmluData(subjects=tasks)]

    def _shard(self, subject: str, found: MmluQuestions, context: TaskContext) -> Shard:
        rows = {split: found.rows(subject, split) for split in SPLITS}
        rows["test"] = rows["test"][: limited(len(rows["test"]), context.limit)]
        rows["dev"] = rows["dev"][:SHOTS]
        category = upstream.mmlu_definition(subject)["category"]

        def describe(doc: Mapping[str, Any]) -> SampleInfo:
            return SampleInfo(gold=(LETTERS[doc["answer"]],), columns={"subject": subject, "category": category})

        return Shard(
            benchmark=self.name,
            task=f"mmlu_{subject}",
            length=None,
            n=len(rows["test"]),
            version=VERSION,
            data_hash=ids.digest(rows),
            metric="acc",
            load=lambda: lm_eval_task(subject, rows),
            describe=describe,
            data={"source": found.where, "shots": SHOTS, "category": category},
        )


MMLU = Mmlu()


def lm_eval_task(subject: str, rows: Mapping[str, Sequence[Row]]) -> Any:
    """lm-eval's task for a subject with our rows as its ``test`` and ``dev`` splits."""
    overrides = {"task": f"mmlu_{subject}", "num_fewshot": SHOTS, "custom_dataset": lm_eval.dataset(lambda: rows)}
    return lm_eval.build_task(overrides, upstream.mmlu_files()[subject].parent)
