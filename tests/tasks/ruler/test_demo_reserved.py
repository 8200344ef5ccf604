from __future__ import annotations

from collections.abc import Callable

from demo_model import reserved

from lr2eval.benchmark import TaskContext
from lr2eval.tasks.ruler import RULER

Context = Callable[..., TaskContext]
TASKS = ("niah_single_1", "niah_single_2", "niah_multikey_1", "niah_multikey_2", "niah_multivalue", "niah_multiquery")


def test_holds_what_a_default_evaluation_asks_for(context: Context) -> None:
    given = context(lengths=(512, 1024), samples_per_task=3, options={"haystack": "demo-filler"})
    shards = RULER.prepare(TASKS, given)
    asked = [value for shard in shards for doc in shard.load().eval_docs for value in doc["answers"]]
    assert len(asked) == 2 * 3 * (1 + 1 + 1 + 1 + 4 + 4)
    assert set(asked) <= reserved.values()


def test_holds_little_else() -> None:
    assert len(reserved.values()) <= len(reserved.LENGTHS) * reserved.SAMPLES * 12
