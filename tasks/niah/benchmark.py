"""Needle in a haystack as a benchmark plug-in: variants as tasks, every depth of the grid in one shard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from lr2eval.base import ids
from lr2eval.benchmark import DataNeed, Shard, TaskContext, TaskInfo
from lr2eval.errors import TaskError, UsageError
from lr2eval.record.results import ShardResult
from lr2eval.record.store import StoredSample
from lr2eval.tasks import haystacks
from lr2eval.tasks.exact import files, parallel
from lr2eval.tasks.niah.draw import Variant
from lr2eval.tasks.niah.generate import VERSION, NiahMaker
from lr2eval.tasks.niah.options import NiahOptions
from lr2eval.tasks.shared import lm_eval
from lr2eval.tasks.shared.select import by_length, limited, one_or_all

METRIC = "found"
DESCRIPTIONS: dict[Variant, str] = {
    "single": "one number hidden at each depth of the grid",
    "multi": "several numbers between each depth and the end, all asked for",
    "distractor": "one number among others with similar keys",
}
MIN_LENGTHS: dict[Variant, int] = {"single": 512, "multi": 1024, "distractor": 512}


class Niah:
    """The benchmark object behind the task name ``niah``. ``--samples-per-task`` does not apply: cells decide."""

    name = "niah"
    version = VERSION
    headline: Literal["tasks", "samples"] = "tasks"
    options = NiahOptions

    def tasks(self) -> Sequence[TaskInfo]:
        """The three variants."""
        needs = haystacks.essays(self.name).needs
        return [TaskInfo(name, self.name, text, needs, MIN_LENGTHS[name]) for name, text in DESCRIPTIONS.items()]

    def select(self, selector: str | None) -> Sequence[str]:
        """All variants, or the one named."""
        return one_or_all(self.name, selector, list(DESCRIPTIONS))

    def prepare(self, tasks: Sequence[str], context: TaskContext) -> Sequence[Shard]:
        """Make or find the data of every variant and length. Raises :class:`TaskError` for too short a length."""
        if not context.lengths:
            raise TaskError("niah: needs at least one length in tokens, for example --lengths 4k")
        options = NiahOptions(**context.options)
        haystack = _haystack(options, context)
        _check_wording(options, tasks)
        fingerprint = context.tokenizer.fingerprint()
        cells = by_length(self.name, options.samples, context.lengths)
        usual = options.samples_per_cell
        grids = {at: options.model_copy(update={"samples_per_cell": cells.get(at, usual)}) for at in context.lengths}
        makers = [
            NiahMaker(variant, length, of_length, context.seed, haystack)
            for variant in get_args(Variant)
            if variant in tasks
            for length, of_length in grids.items()
        ]
        return [_shard(maker, _data_file(maker, context, fingerprint, options.workers), context) for maker in makers]

    def data_needs(self, tasks: Sequence[str]) -> Sequence[DataNeed]:
        """The essays."""
        return [haystacks.essays(self.name)]

    def rescore(self, shard: ShardResult, sample: StoredSample) -> float:
        """Score (0..1) of an answer that a run keeps."""
        return found(sample.answer, sample.gold)


NIAH = Niah()


def _check_wording(grid: NiahOptions, tasks: Sequence[str]) -> None:
    if grid.words is None:
        return
    if "multi" in tasks:
        raise UsageError(
            "--set niah.wording: niah:multi cannot use it (one needle only); choose --tasks niah:single,niah:distractor"
        )
    for name, given in (("keys", grid.words.keys), ("values", grid.words.values)):
        if "distractor" in tasks and given and grid.distractors >= len(given):
            raise UsageError(
                f"--set niah.wording: {grid.distractors} distractors need more than {len(given)} {name}; add {name} to "
                "the file, or use fewer distractors with --set niah.distractors=N"
            )


def _haystack(options: NiahOptions, context: TaskContext) -> haystacks.Haystack:
    return haystacks.load(
        options.haystack, context.data_dir, context.offline, benchmark=NIAH.name, repeat=options.repeat
    )


def _shard(maker: NiahMaker, data: files.DataFile, context: TaskContext) -> Shard:
    return lm_eval.file_shard(
        data,
        context,
        benchmark=NIAH.name,
        task=maker.variant,
        version=maker.version,
        metric=METRIC,
        score=lambda answer, row: found(answer, row["answers"]),
        columns=lambda row: {key: row[key] for key in ("depth", "token_depth", "token_count")},
        facts={
            **maker.haystack.facts,
            **({"wording": ids.digest(maker.grid.changes)[:8]} if maker.grid.changes else {}),
            "comparable": False,  # the wording is ours: no published number was measured with it
            "depths": len(maker.grid.depths),
        },
        cells="depth",
    )


def _data_file(maker: NiahMaker, context: TaskContext, fingerprint: str, workers: int | None) -> files.DataFile:
    grid = maker.grid
    count = limited(grid.samples_per_cell * len(grid.depths), context.limit)
    facts = {
        "generator": maker.version,
        "benchmark": NIAH.name,
        "task": maker.variant,
        "length": maker.length,
        "seed": maker.seed,
        "depths": list(grid.depths),
        "needles": grid.needles,
        "distractors": grid.distractors,
        "haystack": dict(maker.haystack.facts),
        **grid.changes,
        "tokenizer": fingerprint,
        "chat": context.tokenizer.chat,
        "max_new_tokens": maker.max_new_tokens,
    }
    return files.sample_file(
        context, NIAH.name, facts, count, lambda: parallel.rows(maker, count, context.tokenizer, workers)
    )


def found(answer: str, values: Sequence[str]) -> float:
    """Share (0..1) of ``values`` in ``answer``; one inside a longer run of digits does not count.

    The order does not matter and neither do the words around: values are random numbers that nobody can guess or
    paraphrase, so no judge is needed.
    """
    if not values:
        raise ValueError("an answer is scored against at least one value")
    return sum(re.search(rf"(?<!\d){re.escape(value)}(?!\d)", answer) is not None for value in values) / len(values)
