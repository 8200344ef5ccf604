"""Every plain lm-eval task as a benchmark: ``hellaswag``, ``gsm8k``, ``arc``, or a user's own YAML file.

The tasks keep lm-eval's prompts, few-shot settings and metrics. Only what lr2eval can compare sample by sample is
taken: the first metric whose aggregation is a mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Literal

from lr2eval.base import ids
from lr2eval.base.console import suggestion
from lr2eval.base.settings import refuse_unknown
from lr2eval.benchmark import SampleInfo, Shard, TaskContext, TaskInfo
from lr2eval.errors import Lr2EvalError, MissingDataError, TaskError, first_line
from lr2eval.registry import LM_EVAL
from lr2eval.tasks.shared import hub, index, lm_eval
from lr2eval.tasks.shared.select import limited

NAME = LM_EVAL.name
OUTPUT_TYPES = ("generate_until", "multiple_choice", "loglikelihood")
DEFAULT_NEW_TOKENS = 256
"""lm-eval's default for tasks that do not set ``max_gen_toks``."""


@cache
def lm_eval_benchmark(include_path: Path | None) -> LmEval:
    """The benchmark over lm-eval's tasks and the YAML files under ``include_path``."""
    if include_path is not None and not include_path.is_dir():
        raise TaskError(f"{include_path}: no such folder; give the folder of your task's YAML file")
    return LmEval(include_path)


class LmEval:
    """All tasks of lm-eval, and those of the user. Names come from our own index, so that lm-eval is imported late."""

    name = NAME
    headline: Literal["tasks", "samples"] = "samples"

    def __init__(self, include_path: Path | None) -> None:
        self._include_path = include_path
        self.version = installed_version("lm-eval")

    def tasks(self) -> Sequence[TaskInfo]:
        """Every lm-eval task and group (some thousands)."""
        return [TaskInfo(name, NAME, "lm-eval task", "its hub data set") for name in self.names()]

    def names(self) -> Sequence[str]:
        """All names of tasks, groups and tags."""
        return sorted(self._index)

    def knows(self, name: str) -> bool:
        """Whether lm-eval or the user's folder has a task, group or tag of this name."""
        return name in self._own or name in self._index

    @cached_property
    def _own(self) -> index.Index:
        return {} if self._include_path is None else index.names_in(self._include_path)

    @cached_property
    def _index(self) -> index.Index:
        return {**index.lm_eval_names(), **self._own}

    def select(self, selector: str | None) -> Sequence[str]:
        """The task or group itself; a group becomes its tasks when it is prepared."""
        if selector is None:
            raise TaskError(f"{NAME}: lm-eval has thousands of tasks; name one, for example {NAME}:hellaswag")
        if not self.knows(selector):
            raise TaskError(f"{selector}: no such lm-eval task; {suggestion(selector, self.names())}")
        return [selector]

    def prepare(self, tasks: Sequence[str], context: TaskContext) -> Sequence[Shard]:
        """Load the tasks. Raises :class:`MissingDataError` naming every task whose data set cannot be read."""
        refuse_unknown(context.options, ("include_path",), group=NAME)
        groups = hub.load_each(NAME, tasks, lambda name: self._load(name, context.offline))
        loaded = {name: task for group in groups.values() for name, task in group.items()}
        shards = []
        for name, task in loaded.items():
            with _readable(name):  # a task file of the user may hold any value
                shards.append(_shard(name, task, self.version, context))
        return shards

    def _load(self, name: str, offline: bool) -> dict[str, Any]:
        with _readable(name), hub.hub_access(offline), lm_eval.quiet_lm_eval():
            return dict(self._manager_for(name).load([name])["tasks"])

    def _manager_for(self, name: str) -> Any:
        """lm-eval's own index over no more than the user's folder and the one folder that has all of a task or group.

        Several folders of lm-eval would not do: of a tag in two of them it keeps the tasks of the last.
        """
        own = {file for file, *_ in self._own.values()}
        theirs = [os.path.dirname(file) for file in index.files_of(name, self._index) if file not in own]
        folder = Path(os.path.commonpath(theirs)) if theirs else None
        return lm_eval.task_manager(*(each for each in (folder, self._include_path) if each is not None))


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except Lr2EvalError:
        raise
    except ImportError as error:
        raise TaskError(f"{name}: needs a package that is not installed ({first_line(error)}); install it") from error
    except Exception as error:  # YAML and lm-eval raise anything
        if hub.is_missing_data(error):
            raise MissingDataError(
                f"{name}: its data set cannot be read ({first_line(error)}); connect once so that it is cached"
            ) from error
        raise TaskError(f"{name}: lm-eval cannot build this task ({first_line(error)}); correct its file") from error


def _shard(name: str, task: Any, version: str, context: TaskContext) -> Shard:
    kind = task.OUTPUT_TYPE
    if kind not in OUTPUT_TYPES or getattr(task, "MULTIMODAL", False):
        raise TaskError(f"{name}: lr2eval cannot run {kind} tasks; it runs {', '.join(OUTPUT_TYPES)} on text")
    if getattr(task, "UNSAFE_CODE", False):
        raise TaskError(f"{name}: its score runs code that the model writes; use lm-eval itself in a sandbox")
    docs = list(task.eval_docs)
    count = limited(len(docs), context.limit)
    _keep_first(task, count)
    settings = (getattr(task.config, "generation_kwargs", None) or {}) if kind == "generate_until" else {}
    return Shard(
        benchmark=NAME,
        task=name,
        length=None,
        n=count,
        version=f"{version}/{task.VERSION}",
        data_hash=ids.text_hash("\n".join(json.dumps(doc, sort_keys=True, default=repr) for doc in docs[:count])),
        metric=_metric(name, task),
        load=lambda: task,
        describe=lambda doc: SampleInfo(gold=_gold(task, doc)),
        data={"source": str(task.DATASET_PATH or "custom"), "shots": task.config.num_fewshot or 0},
        max_new_tokens=int(settings.get("max_gen_toks", DEFAULT_NEW_TOKENS)) if kind == "generate_until" else None,
    )


def _metric(name: str, task: Any) -> str:
    means = [metric for metric, function in task.aggregation().items() if function.__name__ in ("mean", "nanmean")]
    if not means:
        raise TaskError(
            f"{name}: its metrics ({', '.join(task.aggregation())}) are not means over samples, so runs cannot be "
            "compared; choose another task"
        )
    return str(means[0])


def _keep_first(task: Any, count: int) -> None:
    """Let the task see its first ``count`` evaluation documents only, whatever kind of container they come in."""
    split = "test_docs" if task.has_test_docs() else "validation_docs"
    all_docs = getattr(task, split)

    def first_docs() -> Any:
        docs = all_docs()
        return docs.select(range(count)) if hasattr(docs, "select") else list(docs)[:count]

    setattr(task, split, first_docs)


def _gold(task: Any, doc: Mapping[str, Any]) -> tuple[str, ...]:
    target = task.doc_to_target(doc)
    if isinstance(target, int) and task.OUTPUT_TYPE == "multiple_choice":
        target = task.doc_to_choice(doc)[target]
    return tuple(map(str, target)) if isinstance(target, list | tuple) else (str(target),)
