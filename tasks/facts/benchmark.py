"""The task ``facts``: what the demo model knows by heart. A demonstration on invented facts, never a stand-in for MMLU.

Every fact is a sentence without its object; the four choices are scored by the log-probability of their text (cloze).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, Literal

from lr2eval.base import ids
from lr2eval.base.settings import refuse_unknown
from lr2eval.benchmark import SampleInfo, Shard, TaskContext, TaskInfo
from lr2eval.tasks.facts import table
from lr2eval.tasks.shared import lm_eval
from lr2eval.tasks.shared.select import limited, one_or_all

VERSION = "1"


class Facts(lm_eval.Choices):
    """The benchmark object behind the task name ``facts``; its one task has the same name."""

    name = "facts"
    version = VERSION
    headline: Literal["tasks", "samples"] = "samples"

    def tasks(self) -> Sequence[TaskInfo]:
        """One task."""
        return [TaskInfo(self.name, self.name, "1,000 invented facts, four choices, cloze (for the demo models only)")]

    def select(self, selector: str | None) -> Sequence[str]:
        """The task."""
        return one_or_all(self.name, selector, [self.name])

    def prepare(self, tasks: Sequence[str], context: TaskContext) -> Sequence[Shard]:
        """All facts, or the first ``limit`` of them in an order that mixes people and relations."""
        refuse_unknown(context.options, (), group=self.name)
        rows = _rows()
        rows = rows[: limited(len(rows), context.limit)]

        def describe(doc: Mapping[str, Any]) -> SampleInfo:
            return SampleInfo(gold=(doc["choices"][doc["answer"]],), columns={"subject": doc["relation"]})

        return [
            Shard(
                benchmark=self.name,
                task=self.name,
                length=None,
                n=len(rows),
                version=VERSION,
                data_hash=ids.digest(rows),
                metric="acc",
                load=lambda: _task(rows),
                describe=describe,
                data={"source": "invented", "choices": table.CHOICES},
                chat=False,
            )
        ]


FACTS = Facts()


def _rows() -> list[dict[str, Any]]:
    facts = list(table.facts())
    Random(ids.sample_seed(VERSION, "facts/order", None, 0, 0)).shuffle(facts)
    rows = []
    for index, fact in enumerate(facts):
        choices = fact.choices(Random(ids.sample_seed(VERSION, "facts/choices", None, index, 0)))
        rows.append(
            {
                "stem": fact.stem,
                "choices": list(choices),
                "answer": choices.index(fact.object),
                "relation": fact.relation,
            }
        )
    return rows


def _task(rows: Sequence[Mapping[str, Any]]) -> Any:
    return lm_eval.build_task(
        {
            "task": "facts",
            "output_type": "multiple_choice",
            "custom_dataset": lm_eval.dataset(lambda: {"test": rows}),
            "test_split": "test",
            "doc_to_text": "stem",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": VERSION},
        }
    )
