"""Building lm-eval tasks from dict configurations, without the noise lm-eval makes while doing so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lr2eval.benchmark import SampleInfo, Scalar, Shard, TaskContext
from lr2eval.record.results import ShardResult
from lr2eval.record.store import StoredSample
from lr2eval.tasks.exact.files import DataFile


class Choices:
    """A benchmark of multiple choice."""

    def rescore(self, shard: ShardResult, sample: StoredSample) -> float:
        """1 if the choice with the highest log-probability is right, else 0; a run keeps all of them."""
        choice, _ = max(sample.choices or (), key=lambda pair: pair[1], default=("", 0.0))
        return float((choice.strip(),) == tuple(gold.strip() for gold in sample.gold))


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Keep warnings about custom data sets and missing defaults off the terminal; errors pass."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def build_task(config: Mapping[str, Any], folder: Path | None = None) -> Any:
    """One lm-eval task from a configuration dict.

    With ``folder`` the configuration overrides the task of that name in this folder of YAML files. lm-eval only
    applies overrides to members of a group, hence the group of one around it.
    """
    with quiet_lm_eval():
        spec = dict(config) if folder is None else {"group": "lr2eval", "task": [dict(config)]}
        (task,) = task_manager(*filter(None, [folder])).load([spec])["tasks"].values()
    return task


@cache
def task_manager(*folders: Path) -> Any:
    """lm-eval's index of the tasks in these folders, the last first. That of all its own takes 10 s or more."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=False, include_path=list(folders))


def dataset(splits: Callable[[], Mapping[str, Iterable[Mapping[str, Any]]]]) -> Callable[..., Any]:
    """What a task configuration takes as ``custom_dataset``: rows by split, read when the task is built."""

    def load(**_: Any) -> Any:
        import datasets

        made = {split: datasets.Dataset.from_list([dict(row) for row in rows]) for split, rows in splits().items()}
        return datasets.DatasetDict(made)

    return load


def file_shard(
    data: DataFile,
    context: TaskContext,
    *,
    benchmark: str,
    task: str,
    version: str,
    metric: str,
    score: Callable[[str, Mapping[str, Any]], float],
    columns: Callable[[Mapping[str, Any]], Mapping[str, Scalar]],
    facts: Mapping[str, Scalar],
    chat: bool = True,
    cells: str | None = None,
) -> Shard:
    """The shard of a data file. ``score`` (0..1) and ``columns`` get its rows; ``facts`` are for manifest and report.

    The prompts of its lm-eval task are exactly ``PromptTokenizer.render(prompt, answer_prefix)``.
    """
    manifest, file = data.manifest, data.path.relative_to(context.cache_dir).as_posix()
    tokens = manifest["max_new_tokens"]

    def load() -> Any:
        definition = {
            "task": task,
            "output_type": "generate_until",
            "custom_dataset": dataset(lambda: {"test": data.rows()}),
            "test_split": "test",
            "doc_to_text": "prompt",
            "gen_prefix": "answer_prefix",
            "doc_to_target": "answers",
            # The prefix brings its own space; a delimiter could only add a second one.
            "target_delimiter": "",
            "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": tokens},
            "process_results": lambda doc, results: {metric: score(results[0], doc)},
            "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": version},
        }
        return build_task(definition)

    def describe(row: Mapping[str, Any]) -> SampleInfo:
        return SampleInfo(
            gold=tuple(row["answers"]),
            columns=columns(row),
            marks=tuple(row.get("marks", ())),
            source=(file, row["offset"]),
            truncated_tokens=row.get("truncated_tokens", 0),
        )

    return Shard(
        benchmark=benchmark,
        task=task,
        length=manifest["length"],
        n=manifest["samples"],
        version=version,
        data_hash=manifest["sha256"],
        metric=metric,
        load=load,
        describe=describe,
        data={
            **facts,
            "file": file,
            "sha256": manifest["sha256"],
            **{f"fill_{key}": manifest["fill"][key] for key in ("min", "mean", "max")},
        },
        max_new_tokens=tokens,
        chat=chat,
        cells=cells,
    )
