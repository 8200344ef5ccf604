"""MMLU as a benchmark plug-in: lm-eval's own definition of the 57 subjects, 5-shot, over rows we have read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lr2eval.base import ids
from lr2eval.benchmark import SampleInfo, Shard, TaskContext, TaskInfo
from lr2eval.errors import MissingDataError
from lr2eval.tasks.mmlu.source import LETTERS, SPLITS, Row, Source, hub_source, local_source
from lr2eval.tasks.shared import lm_eval, upstream
from lr2eval.tasks.shared.select import limited, one_or_all

if TYPE_CHECKING:
    from lr2eval.record.results import ShardResult
    from lr2eval.record.store import StoredSample

VERSION = "1"
SHOTS = 5


class Mmlu:
    """The benchmark object behind the task name ``mmlu``; its tasks are the subjects."""

    name = "mmlu"
    version = VERSION
    headline: Literal["tasks", "samples"] = "samples"

    def tasks(self) -> Sequence[TaskInfo]:
        """The 57 subjects in alphabetical order."""
        needs = "mmlu_test_dev.zip or {test,dev}/*.csv under --data-dir, or the hub data set cais/mmlu"
        return [
            TaskInfo(subject, self.name, f"{subject.replace('_', ' ')}, {SHOTS}-shot multiple choice", needs)
            for subject in upstream.mmlu_files()
        ]

    def select(self, selector: str | None) -> Sequence[str]:
        """All subjects, or the one named (with or without ``mmlu_``)."""
        return one_or_all(self.name, selector and selector.removeprefix("mmlu_"), list(upstream.mmlu_files()))

    def prepare(self, tasks: Sequence[str], context: TaskContext) -> Sequence[Shard]:
        """Read the questions. Raises :class:`MissingDataError` naming the subjects that are not to be had."""
        source = local_source(context.data_dir) if context.data_dir else None
        if source is None:
            source = hub_source(hub(), context.offline, searched=context.data_dir)
        shards: list[Shard] = []
        missing: dict[str, str] = {}
        for subject in tasks:
            try:
                shards.append(self._shard(subject, source, context))
            except MissingDataError as error:
                missing[subject] = str(error)
                if source.where.startswith("hub:") and not context.offline:
                    missing |= dict.fromkeys(tasks[tasks.index(subject) :], str(error))
                    break  # without a network every further subject would try for as long
        if missing:
            first = next(iter(missing.values()))
            message = first if len(missing) == 1 else f"mmlu: no {', '.join(missing)} ({first.removeprefix('mmlu: ')})"
            raise MissingDataError(message, (message,), tasks=missing)
        return shards

    def _shard(self, subject: str, source: Source, context: TaskContext) -> Shard:
        rows = {split: source.rows(subject, split) for split in SPLITS}
        rows["test"] = rows["test"][: limited(len(rows["test"]), context.limit)]
        rows["dev"] = rows["dev"][:SHOTS]
        category = _definition(upstream.mmlu_files()[subject])["category"]

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
            data={"source": source.where, "shots": SHOTS, "category": category},
        )

    def rescore(self, shard: ShardResult, sample: StoredSample) -> float:
        """1 if the letter with the highest log-probability is right, else 0; a run keeps all four."""
        letter, _ = max(sample.choices or (), key=lambda choice: choice[1], default=("", 0.0))
        return float((letter,) == sample.gold)


MMLU = Mmlu()


def lm_eval_task(subject: str, rows: Mapping[str, Sequence[Row]]) -> Any:
    """lm-eval's task for a subject with our rows as its ``test`` and ``dev`` splits."""

    def dataset(**_: Any) -> Any:
        import datasets

        return datasets.DatasetDict({split: datasets.Dataset.from_list(list(rows[split])) for split in SPLITS})

    overrides = {"task": f"mmlu_{subject}", "num_fewshot": SHOTS, "custom_dataset": dataset}
    return lm_eval.build_task(overrides, upstream.mmlu_files()[subject].parent)


def hub() -> str:
    """The hub data set of lm-eval's definition."""
    return _definition(next(iter(upstream.mmlu_files().values())))["dataset_path"]


@cache
def _definition(path: Path) -> dict[str, str]:
    """Hub name and category (stem, humanities, social_sciences or other) of a subject's YAML file."""
    import yaml  # type: ignore[import-untyped]

    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    shared = yaml.safe_load((path.parent / own["include"]).read_text(encoding="utf-8"))
    category = own["tag"].removeprefix("mmlu_").removesuffix("_tasks")
    return {"dataset_path": shared["dataset_path"], "category": category}
