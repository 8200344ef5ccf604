"""The five short benchmarks of LongRoPE2's table 4 as one plug-in, each through lm-eval's own task definition.

A shard belongs to the benchmark it is of (``mmlu/mmlu_anatomy``, ``gsm8k/gsm8k``), not to ``short``: so every column of
the paper's table has a score, a difference and a verdict of its own, and MMLU here is the same as ``--tasks mmlu``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field

from lr2eval.base import ids
from lr2eval.base.config import Config
from lr2eval.base.console import suggestion
from lr2eval.benchmark import DataNeed, SampleInfo, Shard, TaskContext, TaskInfo
from lr2eval.errors import UsageError
from lr2eval.tasks.mmlu import MMLU
from lr2eval.tasks.mmlu.benchmark import SHOTS as MMLU_SHOTS
from lr2eval.tasks.shared import lm_eval, upstream
from lr2eval.tasks.shared.hub import load_each
from lr2eval.tasks.shared.select import limited, one_or_all
from lr2eval.tasks.short import source

VERSION = "1"
NEEDS = "mmlu, mmlu_pro, hellaswag, truthfulqa and gsm8k under --data-dir (docs/data.md), or their hub data sets"


@dataclass(frozen=True)
class Column:
    """One task of the suite. ``shots`` examples come from split ``examples``; ``metric`` is lm-eval's name.

    ``max_new_tokens``: what lm-eval lets a model generate, ``None`` for scored choices.
    """

    asks: str
    data: str
    shots: int
    metric: str
    examples: str | None = None
    max_new_tokens: int | None = None


COLUMNS: dict[str, Column] = {
    "mmlu_pro": Column("ten choices, reasoning in words", "mmlu_pro", 5, "exact_match", "validation", 2048),
    "hellaswag": Column("how a text continues, four endings", "hellaswag", 10, "acc_norm", "train"),
    "truthfulqa_mc1": Column("the true answer among false ones", "truthfulqa", 0, "acc"),
    "truthfulqa_mc2": Column("probability of the true answers", "truthfulqa", 0, "acc"),
    "gsm8k": Column("school mathematics, reasoning in words", "gsm8k", 5, "exact_match", "train", 256),
}
"""All but MMLU, which is a benchmark of its own. TruthfulQA's six examples are part of lm-eval's prompt."""
NAMES = ("mmlu", *COLUMNS)
GROUPS = {"truthfulqa": ["truthfulqa_mc1", "truthfulqa_mc2"]}


class ShortOptions(Config):
    """``--set short.key=value``."""

    HAS_FLAGS = False
    PREFIX = "short"

    mmlu_pro_shots: int = Field(5, ge=0, strict=True)
    """The number of examples in an MMLU-Pro prompt."""
    hellaswag_shots: int = Field(10, ge=0, strict=True)
    """The number of examples in a HellaSwag prompt."""
    gsm8k_shots: int = Field(5, ge=0, strict=True)
    """The number of examples in a GSM8K prompt."""
    max_new_tokens: int | None = Field(None, ge=1, strict=True)
    """The most tokens of an answer. Default: as in lm-eval."""


class Short:
    """The benchmark object behind the task name ``short``."""

    name = "short"
    version = VERSION
    headline: Literal["tasks", "samples"] = "samples"
    options = ShortOptions
    lm_eval_names = True
    """Without ``short:`` these names go on to mean lm-eval's tasks, with lm-eval's settings."""

    def tasks(self) -> Sequence[TaskInfo]:
        """MMLU and the others, in the order of the paper's table."""
        asks = {"mmlu": f"57 subjects, four choices, {MMLU_SHOTS}-shot"}
        asks |= {name: f"{column.asks}, {column.shots}-shot" for name, column in COLUMNS.items()}
        return [TaskInfo(name, self.name, asks[name], NEEDS) for name in NAMES]

    def select(self, selector: str | None) -> Sequence[str]:
        """All of them, or the one named; ``truthfulqa`` is both of its measures."""
        return one_or_all(self.name, selector, NAMES, GROUPS)

    def prepare(self, tasks: Sequence[str], context: TaskContext) -> Sequence[Shard]:
        """Read the rows. Raises :class:`MissingDataError` naming every task without data, and what is missing."""
        options = ShortOptions(**context.options)

        def load(task: str) -> list[Shard]:
            if task == "mmlu":
                return list(MMLU.prepare(MMLU.select(None), replace(context, options={})))
            return _shards(task, options, context)

        return [shard for shards in load_each(self.name, tasks, load).values() for shard in shards]

    def data_needs(self, tasks: Sequence[str]) -> Sequence[DataNeed]:
        """MMLU, and every split of the others."""
        names = dict.fromkeys(COLUMNS[task].data for task in tasks if task != "mmlu")
        rows = [source.rows_of(name, split) for name in names for split in source.SETS[name].files]
        return [*(MMLU.data_needs(MMLU.select(None)) if "mmlu" in tasks else []), *rows]


SHORT = Short()


def _shards(task: str, options: ShortOptions, context: TaskContext) -> list[Shard]:
    column, layout = COLUMNS[task], source.SETS[COLUMNS[task].data]
    shots = getattr(options, f"{task}_shots", column.shots)

    def load(split: str) -> tuple[str, list[Any]]:
        advice = "" if split == layout.split else f"ask without examples: --set short.{task}_shots=0"
        return source.rows_of(column.data, split).read(context.data_dir, offline=context.offline, advice=advice)

    asked = [layout.split, *([column.examples] if shots and column.examples else [])]
    found = load_each(f"short:{task}", asked, load)
    where, rows = found[layout.split]
    facts: dict[str, Any] = {"source": where, "shots": shots}
    examples: list[Any] = []
    if shots and column.examples:
        facts["examples"], examples = found[column.examples]
    if len(rows) != layout.published:
        facts |= {"comparable": False, "stand_in": True}
    if shots != column.shots:
        facts["comparable"] = False
    parts = {task: (rows, examples)} if task != "mmlu_pro" else _by_category(rows, examples)
    # lm-eval draws one more of HellaSwag's, in case the question is among them.
    spare = int(task == "hellaswag")
    for name, (_, own) in parts.items():
        if shots and shots + spare > len(own):
            raise UsageError(
                f"short:{name}: {shots} examples need {shots + spare} rows, {facts['examples']} has {len(own)}; use "
                f"fewer with --set short.{task}_shots=N, or the complete file"
            )
    return [_shard(task, name, of, own, shots, facts, context) for name, (of, own) in parts.items()]


def _by_category(rows: Sequence[Any], examples: Sequence[Any]) -> dict[str, tuple[list[Any], list[Any]]]:
    """MMLU-Pro's rows by lm-eval's name of their category; examples are those of the same category."""
    folder = upstream.lm_eval_folder() / "tasks" / "mmlu_pro"
    names = [path.stem for path in sorted(folder.glob("mmlu_pro_*.yaml"))]
    known = {name.removeprefix("mmlu_pro_").replace("_", " "): name for name in names}
    found: dict[str, tuple[list[Any], list[Any]]] = {}
    for side, part in enumerate((rows, examples)):
        for number, row in enumerate(part, 1):
            if row["category"] not in known:
                raise UsageError(f"mmlu_pro, row {number}, field category: {row['category']!r} is not a category; "
                                 f"{suggestion(row['category'], known)}")  # fmt: skip
            if not side or known[row["category"]] in found:
                found.setdefault(known[row["category"]], ([], []))[side].append(row)
    return {name: found[name] for name in names if name in found}


def _shard(
    task: str,
    name: str,
    rows: Sequence[Any],
    examples: Sequence[Any],
    shots: int,
    facts: Mapping[str, Any],
    context: TaskContext,
) -> Shard:
    column, layout = COLUMNS[task], source.SETS[COLUMNS[task].data]
    rows = rows[: limited(len(rows), context.limit)]
    new = column.max_new_tokens and (ShortOptions(**context.options).max_new_tokens or column.max_new_tokens)
    splits = {layout.split: rows}
    if column.examples:
        # With no examples asked for, lm-eval still wants the split to be there; it is not looked into.
        splits[column.examples] = examples or rows
    return Shard(
        benchmark=task,
        task=name,
        length=None,
        n=len(rows),
        version=VERSION,
        data_hash=ids.digest([rows, examples, shots]),
        metric=column.metric,
        load=lambda: lm_eval_task(task, name, splits, shots, new),
        describe=lambda doc: SampleInfo(gold=_gold(task, doc), columns=_columns(doc)),
        data=facts,
        max_new_tokens=new,
    )


def lm_eval_task(task: str, name: str, splits: Mapping[str, Sequence[Any]], shots: int, new: int | None) -> Any:
    """lm-eval's task ``name`` over rows of ours, with so many examples and at most ``new`` tokens generated."""
    overrides: dict[str, Any] = {"task": name, "num_fewshot": shots, "custom_dataset": lm_eval.dataset(lambda: splits)}
    if task == "truthfulqa_mc2":
        overrides["process_results"] = true_probability
    made = lm_eval.build_task(overrides, upstream.lm_eval_folder() / "tasks" / COLUMNS[task].data)
    if new is not None:
        made.set_config("generation_kwargs", {"max_gen_toks": new}, update=True)
    return made


def true_probability(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """TruthfulQA's MC2: the share of the true answers in the probability of all.

    lm-eval's own divides 0 by 0 where all probabilities are too small for a float (long answers, weak models); against
    the likeliest one they never are, and the share is the same.
    """
    most = max(value for value, _ in results)
    weights = [math.exp(value - most) for value, _ in results]
    true = (weight for weight, label in zip(weights, doc["mc2_targets"]["labels"], strict=True) if label)
    return {"acc": math.fsum(true) / math.fsum(weights)}


def _gold(task: str, doc: Mapping[str, Any]) -> tuple[str, ...]:
    match task:
        case "hellaswag":
            return (doc["choices"][doc["gold"]],)
        case "truthfulqa_mc1" | "truthfulqa_mc2":
            targets = doc[f"{task.removeprefix('truthfulqa_')}_targets"]
            return tuple(text for text, label in zip(targets["choices"], targets["labels"], strict=True) if label)
        case "gsm8k":
            return (doc["answer"].rpartition("####")[2].strip(),)
    return (doc["answer"],)


def _columns(doc: Mapping[str, Any]) -> dict[str, Any]:
    """HellaSwag's texts about one video or page stand and fall together: a cluster in the statistics."""
    return {"document": doc["source_id"]} if "source_id" in doc else {}
