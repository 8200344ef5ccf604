from __future__ import annotations

from collections.abc import Callable

from lr2eval.benchmark import TaskContext
from lr2eval.tasks.niah import NIAH
from lr2eval.tasks.niah.options import KEYS, ruler_wording
from lr2eval.tasks.ruler import RULER

Context = Callable[..., TaskContext]


def test_the_prompt_is_that_of_ruler_around_the_text(context: Context) -> None:
    options = {"haystack": "demo-filler", "wording": "ruler", "depths": 2, "samples_per_cell": 1}
    (grid,) = NIAH.prepare(["single"], context(lengths=(1024,), options=options))
    doc = next(iter(grid.load().eval_docs))
    (ruler,) = RULER.prepare(
        ["niah_single_2"], context(lengths=(1024,), samples_per_task=1, options={"haystack": "demo-filler"})
    )
    other = next(iter(ruler.load().eval_docs))

    def frame(row: dict[str, str]) -> tuple[str, str, str, bool]:
        lines = row["prompt"].split("\n")
        key = row["answer_prefix"].split(" for ")[1].split(" mentioned")[0]
        needle = f"One of the special magic numbers for {key} is: "
        return (
            lines[0],
            lines[-1].replace(key, "KEY"),
            row["answer_prefix"].replace(key, "KEY"),
            needle in row["prompt"],
        )

    assert frame(doc) == frame(other)
    assert frame(doc)[3]


def test_keys_are_many_and_always_the_same() -> None:
    first = ruler_wording().keys
    assert len(set(first)) == KEYS
    ruler_wording.cache_clear()
    assert ruler_wording().keys == first


def test_lengths_may_have_cells_of_their_own(context: Context) -> None:
    options = {"haystack": "demo-filler", "depths": 2, "samples_per_cell": 1, "samples": {"512": 3}}
    shards = NIAH.prepare(["single"], context(lengths=(512, 1024), options=options))
    assert [(shard.length, shard.n) for shard in shards] == [(512, 6), (1024, 2)]
