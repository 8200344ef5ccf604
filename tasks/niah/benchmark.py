"""Needle in a haystack as a benchmark plug-in: variants as tasks, every depth of the grid in one shard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Literal, get_args

from lr2eval import _ids
from lr2eval._errors import TaskError
from lr2eval._types import SampleInfo, Shard, TaskContext, TaskInfo
from lr2eval.tasks import _lm_eval, _select, haystacks
from lr2eval.tasks.niah import score
from lr2eval.tasks.niah.background import Background
from lr2eval.tasks.niah.draw import TOKENS_PER_VALUE, Variant, draw
from lr2eval.tasks.niah.options import HAYSTACK, Grid
from lr2eval.tasks.ruler import files
from lr2eval.tasks.ruler.fit import TooSmallError, largest_fitting

VERSION = "1"
"""Part of every sample's identity and seed: raise it when the same identity would give another text."""
METRIC = "found"
DESCRIPTIONS: dict[Variant, str] = {
    "single": "one number hidden at each depth of the grid",
    "multi": "several numbers from each depth to the end, all asked for",
    "distractor": "one number among others with similar keys",
}
NEEDS = "a haystack: essays (--data-dir or hub), or --set niah.haystack=python-docs or a text file"
MIN_LENGTHS: dict[Variant, int] = {"single": 512, "multi": 1024, "distractor": 512}


class Niah:
    """The benchmark object behind the task name ``niah``. ``--samples-per-task`` does not apply: cells decide."""

    name = "niah"
    version = VERSION
    headline: Literal["tasks", "samples"] = "tasks"

    def tasks(self) -> Sequence[TaskInfo]:
        """The three variants."""
        return [TaskInfo(name, self.name, text, NEEDS, MIN_LENGTHS[name]) for name, text in DESCRIPTIONS.items()]

    def select(self, selector: str | None) -> Sequence[str]:
        """All variants, or the one named."""
        return _select.one_or_all(self.name, selector, list(DESCRIPTIONS))

    def prepare(self, tasks: Sequence[str], context: TaskContext) -> Sequence[Shard]:
        """Make or find the data of every variant and length. Raises :class:`TaskError` for too short a length."""
        if not context.lengths:
            raise TaskError("niah needs at least one length in tokens, for instance --lengths 4k")
        grid = Grid.parse(context.options)
        chosen = {key: context.options[key] for key in HAYSTACK if key in context.options}
        haystack = haystacks.load(chosen, context.data_dir, context.offline, benchmark=self.name)
        background = Background(haystack, context.tokenizer)
        fingerprint = context.tokenizer.fingerprint()
        return [
            _Cells(variant, length, grid, context, background).shard(fingerprint)
            for variant in get_args(Variant)
            if variant in tasks
            for length in context.lengths
        ]


NIAH = Niah()


@dataclass(frozen=True)
class _Cells:
    """One variant at one length: the cells of all depths."""

    variant: Variant
    length: int
    grid: Grid
    context: TaskContext
    background: Background

    @property
    def version(self) -> str:
        """Identity of the grid's samples: sample 7 of another set of depths is another sample."""
        if self.grid == Grid.parse({"samples_per_cell": self.grid.samples_per_cell}):
            return VERSION
        kept = [self.grid.depths, self.grid.needles, self.grid.distractors]
        return f"{VERSION}+{_ids.digest(kept)[:8]}"

    @property
    def max_new_tokens(self) -> int:
        return TOKENS_PER_VALUE * (self.grid.needles if self.variant == "multi" else 1)

    def shard(self, fingerprint: str) -> Shard:
        data = self._data_file(fingerprint)
        source = data.path.relative_to(self.context.cache_dir).as_posix()
        manifest = data.manifest

        def describe(doc: Mapping[str, Any]) -> SampleInfo:
            return SampleInfo(
                gold=tuple(doc["answers"]),
                columns={key: doc[key] for key in ("depth", "token_depth", "token_count")},
                marks=tuple(doc["marks"]),
                source=(source, doc["offset"]),
            )

        return Shard(
            benchmark=NIAH.name,
            task=self.variant,
            length=self.length,
            n=manifest["samples"],
            version=self.version,
            data_hash=manifest["sha256"],
            metric=METRIC,
            load=lambda: _lm_eval.generation_task(
                self.variant, data.rows, METRIC, lambda answer, doc: score.found(answer, doc["answers"]),
                max_new_tokens=self.max_new_tokens, version=VERSION,
            ),
            describe=describe,
            data={
                **self.background.haystack.facts,
                "comparable": False,  # the wording is ours: no published number was measured with it
                "depths": len(self.grid.depths),
                "file": source,
                "sha256": manifest["sha256"],
                **{f"fill_{key}": manifest["fill"][key] for key in ("min", "mean", "max")},
            },
            max_new_tokens=self.max_new_tokens,
            cells="depth",
        )  # fmt: skip

    def _data_file(self, fingerprint: str) -> files.DataFile:
        context, grid = self.context, self.grid
        count = _select.limited(grid.samples_per_cell * len(grid.depths), context.limit)
        facts = {
            "generator": self.version,
            "benchmark": NIAH.name,
            "task": self.variant,
            "length": self.length,
            "seed": context.seed,
            "depths": list(grid.depths),
            "needles": grid.needles,
            "distractors": grid.distractors,
            "haystack": dict(self.background.haystack.facts),
            "tokenizer": fingerprint,
            "chat": context.tokenizer.chat,
            "max_new_tokens": self.max_new_tokens,
        }
        key = _ids.digest([facts, count])[:16]
        return files.ensure(
            context.cache_dir / "data" / NIAH.name / f"{self.variant}-{self.length}-{key}.jsonl",
            facts,
            lambda: self._samples(count),
            lambda row: float(row["token_count"]) / self.length,
            context.progress,
        )

    def _samples(self, count: int) -> Iterator[dict[str, Any]]:
        memo: dict[str, int] = {}
        for index in range(count):
            yield self._sample(index, memo)

    def _sample(self, index: int, memo: dict[str, int]) -> dict[str, Any]:
        """Sample 0 has the first depth, sample 1 the second ...: any first samples spread over the grid."""
        identity = (self.version, f"{NIAH.name}/{self.variant}", self.length, index, self.context.seed)
        depth = self.grid.depths[index % len(self.grid.depths)]
        sample = draw(self.variant, self.grid, depth, self.background, Random(_ids.sample_seed(*identity)))
        try:
            fit = largest_fitting(sample, self.context.tokenizer, self.length - self.max_new_tokens, memo)
        except TooSmallError as error:
            enough = -(-(error.tokens + self.max_new_tokens) // 128) * 128 + 128
            raise TaskError(
                f"niah:{self.variant} at length {self.length}: the smallest sample takes "
                f"{error.tokens + self.max_new_tokens} tokens with this tokenizer; use a length of {enough} or more"
            ) from error
        if fit.size == fit.available:
            raise TaskError(
                f"niah:{self.variant} at length {self.length}: the haystack {self.background.haystack.name} has only "
                f"{fit.size} words; use a shorter length, a longer text or --set niah.repeat=true"
            )
        return {
            "id": _ids.sample_id(*identity),
            "task": self.variant,
            "length": self.length,
            "index": index,
            "prompt": fit.draft.prompt,
            "answer_prefix": fit.draft.answer_prefix,
            "answers": list(fit.draft.answers),
            "max_new_tokens": self.max_new_tokens,
            "token_count": fit.tokens + self.max_new_tokens,
            "depth": fit.draft.depth,
            "token_depth": round(sample.token_depth(fit.size), 6),
            "marks": list(fit.draft.marks),
        }
