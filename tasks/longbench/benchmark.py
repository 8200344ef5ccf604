"""LongBench v1 and LongBench-E as benchmark plug-ins: every data set at every window."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lr2eval import _ids
from lr2eval._config import format_length
from lr2eval._errors import MissingDataError, TaskError
from lr2eval._tokens import PromptTokenizer
from lr2eval._types import SampleInfo, Scalar, Shard, TaskContext, TaskInfo
from lr2eval.tasks import _jsonl, _lm_eval, _select
from lr2eval.tasks.longbench import metrics, predictions, source
from lr2eval.tasks.longbench.cut import fitted
from lr2eval.tasks.longbench.prompts import Prompt, prompt
from lr2eval.tasks.longbench.suite import BUCKETS, DATA_SETS, bucket
from lr2eval.tasks.ruler import files

if TYPE_CHECKING:
    from lr2eval._results import ShardResult
    from lr2eval._store import StoredSample

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
        needs = f"{file} under --data-dir, or the hub data set Xnhyacinth/LongBench"
        return [TaskInfo(name, self.name, DATA_SETS[name].asks, needs) for name in self._names]

    def select(self, selector: str | None) -> Sequence[str]:
        """All data sets, or the one named."""
        return _select.one_or_all(self.name, selector, self._names)

    def prepare(self, tasks: Sequence[str], context: TaskContext) -> Sequence[Shard]:
        """Read the samples and lay their prompts out for every window of ``context``.

        Raises :class:`MissingDataError` naming every data set that is not there, and :class:`TaskError` for prompts
        longer than a window unless the truncation policy says what to do with them.
        """
        if context.options:
            raise TaskError(f"--set {self.name}.{next(iter(context.options))}: {self.name} has no options")
        found: dict[str, tuple[str, list[source.Item]]] = {}
        missing: dict[str, str] = {}
        for task in tasks:
            try:
                found[task] = self._load(task, context)
            except MissingDataError as error:
                missing[task] = str(error)
        if missing:
            raise MissingDataError("; ".join(missing.values()), tuple(missing.values()), tasks=missing)
        fingerprint = context.tokenizer.fingerprint()
        return [
            self._shard(task, where, items, window, context, fingerprint)
            for task, (where, items) in found.items()
            for window in context.windows or context.lengths
        ]

    def score_row(self, task: str, row: Mapping[str, Any]) -> float:
        """Score (0..1) of a line of LongBench's own prediction files."""
        return predictions.score_row(task, row)

    def group(self, row: Mapping[str, Any]) -> str:
        """The length bucket of such a line."""
        return predictions.group(row)

    def rescore(self, shard: ShardResult, sample: StoredSample) -> float:
        """Score (0..1) of an answer that a run of ours keeps."""
        labels = shard.data.get("classes")
        return metrics.score(shard.task, sample.answer, sample.gold, json.loads(str(labels)) if labels else None)

    def _load(self, task: str, context: TaskContext) -> tuple[str, list[source.Item]]:
        where, items = source.load(
            task,
            extended=self.extended,
            hub=prompt(task).hub,
            data_dir=context.data_dir,
            offline=context.offline,
        )
        return where, items[: _select.limited(len(items), context.limit)]

    def _shard(
        self, task: str, where: str, items: list[source.Item], window: int, context: TaskContext, fingerprint: str
    ) -> Shard:
        rules, asked = DATA_SETS[task], prompt(task)
        tokenizer = context.tokenizer
        if tokenizer.chat and not rules.chat:
            tokenizer = PromptTokenizer(tokenizer.tokenizer, name=tokenizer.name)
        room = window - asked.max_new_tokens
        cut = room if context.truncation == "middle" else None
        facts = {
            "generator": VERSION,
            "task": f"{self.name}/{task}",
            "length": window,
            "tokenizer": fingerprint,
            "chat": tokenizer.chat,
            "cut_to": cut,
            "max_new_tokens": asked.max_new_tokens,
            "prompt": _ids.digest(asked.pieces),
            "items": _ids.digest([[i.context, i.question, i.answers, i.all_classes, i.length] for i in items]),
        }
        path = context.cache_dir / "data" / self.name / f"{task}-{window}-{_ids.digest(facts)[:16]}.jsonl"
        data = files.ensure(
            path,
            facts,
            lambda: _rows(f"{self.name}:{task}", items, asked, tokenizer, cut),
            lambda row: (row["token_count"] + asked.max_new_tokens) / window,
            context.progress,
        )
        if context.truncation == "error" and data.manifest["fill"]["max"] > 1:
            over = sum(row["token_count"] > room for row in data.rows())
            raise TaskError(
                f"{self.name}:{task}: {over} of {len(items)} prompts are longer than {room} tokens (a window of "
                f"{format_length(window)} less {asked.max_new_tokens} to generate); choose --truncation middle, which "
                "shortens only the context, or skip"
            )
        file = path.relative_to(context.cache_dir).as_posix()
        labels = next((item.all_classes for item in items if item.all_classes), None)
        known: dict[str, Scalar] = {
            "source": where,
            "file": file,
            "sha256": data.manifest["sha256"],
            **{f"fill_{key}": data.manifest["fill"][key] for key in ("min", "mean", "max")},
            **({"classes": json.dumps(labels, ensure_ascii=False)} if labels else {}),
        }

        def describe(doc: Mapping[str, Any]) -> SampleInfo:
            return SampleInfo(
                gold=tuple(doc["answers"]),
                columns={
                    "document": doc["document"],
                    "source_length": doc["length"],
                    **({"bucket": bucket(doc["length"])} if self.extended else {}),
                },
                source=(file, doc["offset"]),
                truncated_tokens=doc["truncated_tokens"],
            )

        def score(answer: str, doc: Mapping[str, Any]) -> float:
            return metrics.score(task, answer, doc["answers"], doc["all_classes"])

        return Shard(
            benchmark=self.name,
            task=task,
            length=window,
            n=len(items),
            version=VERSION,
            data_hash=data.manifest["sha256"],
            metric=rules.metric,
            load=lambda: _lm_eval.generation_task(
                task, data.rows, rules.metric, score, max_new_tokens=asked.max_new_tokens, version=VERSION
            ),
            describe=describe,
            data=known,
            max_new_tokens=asked.max_new_tokens,
            chat=rules.chat,
        )


LONGBENCH = LongBench("longbench", extended=False)
LONGBENCH_E = LongBench("longbench_e", extended=True)


def _rows(
    name: str, items: Sequence[source.Item], asked: Prompt, tokenizer: PromptTokenizer, cut: int | None
) -> Iterator[_jsonl.Row]:
    """One line of the data file per sample. ``document`` is equal where samples share a context."""
    for number, item in enumerate(items):
        try:
            found = fitted(asked, item.context, item.question, tokenizer, cut)
        except TaskError as error:
            raise TaskError(f"{name}, sample {number}: {error}") from error
        yield {
            "index": number,
            "prompt": found.text,
            "answer_prefix": "",
            "answers": list(item.answers),
            "all_classes": None if item.all_classes is None else list(item.all_classes),
            "length": item.length,
            "document": _ids.text_hash(item.context)[:12],
            "token_count": found.tokens,
            "truncated_tokens": found.lost,
        }
