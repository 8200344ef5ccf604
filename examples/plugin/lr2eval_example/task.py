"""A task: ``lr2eval run --model DIR --tasks hidden --lengths 4k,8k``."""

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from lr2eval import SampleInfo, Shard, TaskContext, TaskError, TaskInfo

VERSION = "1"  # change it when samples change: it is part of their identity
NEW_TOKENS = 16
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
KEY = "One of the special magic numbers for old-harbor is: {}.\n"
QUESTION = (
    "What is the special magic number for old-harbor mentioned in the provided text?"
    " The special magic number for old-harbor mentioned in the provided text is"
)


class Hidden:
    """One number hidden in a long, dull text."""

    name = "hidden"
    version = VERSION
    headline = "tasks"  # the benchmark's one number is a mean over tasks; "samples" would be one over samples

    def tasks(self) -> Sequence[TaskInfo]:
        """What ``lr2eval tasks`` lists."""
        return [TaskInfo("number", self.name, "one number in a dull text", min_length=128)]

    def select(self, selector: str | None) -> Sequence[str]:
        """The tasks that ``hidden`` (``None``) or ``hidden:selector`` stands for."""
        if selector not in (None, "number"):
            raise TaskError(f"hidden:{selector}: hidden has no such task; write hidden:number, or hidden for all")
        return ["number"]

    def prepare(self, tasks: Sequence[str], context: TaskContext) -> Sequence[Shard]:
        """One shard for each length. This is the place to read files, too."""
        return [self._shard(length, context) for length in context.lengths]

    def _shard(self, length: int, context: TaskContext) -> Shard:
        rows = [sample(length, number, context) for number in range(count(context))]
        return Shard(
            benchmark=self.name,
            task="number",
            length=length,
            n=len(rows),
            version=VERSION,
            data_hash=hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
            metric="found",
            load=lambda: load(length, rows),
            describe=describe,
            max_new_tokens=NEW_TOKENS,
        )


HIDDEN = Hidden()


def count(context: TaskContext) -> int:
    """How many samples to make. ``--limit`` is a number of samples, or a share below 1."""
    asked, limit = context.samples_per_task, context.limit
    if limit is None:
        return asked
    return min(asked, math.ceil(asked * limit) if limit < 1 else int(limit))


def sample(length: int, number: int, context: TaskContext) -> dict[str, Any]:
    """One sample. The same seed, length and number always give the same sample."""
    rng = random.Random(f"{context.seed}/{length}/{number}")
    value, depth = str(rng.randrange(1_000_000, 10_000_000)), rng.random()

    def prompt(lines: int) -> str:
        before = round(lines * depth)
        return FILLER * before + KEY.format(value) + FILLER * (lines - before) + QUESTION

    def fits(lines: int) -> bool:
        # Counts what the model will see: special tokens and the chat template are included.
        return context.tokenizer.count_prompt(prompt(lines)) + NEW_TOKENS <= length

    if not fits(0):
        raise TaskError(f"hidden: does not fit into {length} tokens with this tokenizer; give longer --lengths")
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return {"prompt": prompt(low), "value": value, "depth": round(depth, 3)}


def describe(row: Mapping[str, Any]) -> SampleInfo:
    """What the run keeps of a sample beside prompt and answer. The report marks ``marks`` in the prompt."""
    return SampleInfo(gold=(row["value"],), columns={"depth": row["depth"]}, marks=(KEY.format(row["value"]).strip(),))


def load(length: int, rows: Sequence[Mapping[str, Any]]) -> Any:
    """The lm-eval task. It is built only when its shard runs."""
    import datasets
    from lm_eval.tasks import TaskManager

    config = {
        "task": f"hidden_number_{length}",
        "output_type": "generate_until",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list([dict(row) for row in rows])},
        "test_split": "test",
        "doc_to_text": "prompt",
        "doc_to_target": "value",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": NEW_TOKENS, "do_sample": False},
        "process_results": lambda row, answers: {"found": float(row["value"] in answers[0])},
        "metric_list": [{"metric": "found", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": VERSION},
    }
    (task,) = TaskManager(include_defaults=False).load([config])["tasks"].values()
    return task
