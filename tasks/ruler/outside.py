"""The RULER tasks that read outside text: essays, SQuAD, HotpotQA. With their text they are tasks like the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from lr2eval.benchmark import TaskContext
from lr2eval.errors import MissingDataError, TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks import haystacks
from lr2eval.tasks.exact.draft import Recipe
from lr2eval.tasks.ruler import questions
from lr2eval.tasks.ruler.essay import EssayRecipe
from lr2eval.tasks.ruler.qa import QaRecipe
from lr2eval.tasks.ruler.suite import RulerTask

Source = Literal["essays", "squad", "hotpotqa"]
Text = haystacks.Haystack | questions.Questions
NEEDS: dict[Source, str] = {
    "essays": "PaulGrahamEssays.zip or PaulGrahamEssays/*.txt under --data-dir, the hub data set "
    "baber/paul_graham_essays, or --set ruler.haystack=PATH (python-docs: nothing)",
    "squad": "squad/dev-v2.0.json under --data-dir, the hub data set rajpurkar/squad_v2, or --set ruler.squad=FILE",
    "hotpotqa": "hotpotqa/hotpot_dev_distractor_v1.json under --data-dir, the hub data set hotpotqa/hotpot_qa, "
    "or --set ruler.hotpotqa=FILE",
}
OPTIONS = ("haystack", "repeat", "squad", "hotpotqa", "workers", "compat", "samples")


@dataclass(frozen=True)
class OutsideTask:
    """A task without its text. ``recipe`` makes it from the text."""

    name: str
    description: str
    source: Source
    min_length: int
    recipe: Callable[[Any], Recipe]
    metric: str = "string_match_all"

    def over(self, text: Text) -> RulerTask:
        """The task over this text."""
        recipe = partial(_any_length, self.recipe(text))
        available = len(text.items) if isinstance(text, questions.Questions) else None
        return RulerTask(
            self.name, self.description, text.name, self.min_length, recipe, self.metric, text.facts, available
        )


def _any_length(recipe: Recipe, tokenizer: PromptTokenizer, length: int, seed: int) -> Recipe:
    return recipe


def _essay(name: str, description: str, min_length: int = 512, **numbers: Any) -> OutsideTask:
    kind = numbers.pop("kind", "numbers")
    return OutsideTask(name, description, "essays", min_length, lambda text: EssayRecipe(text, kind, **numbers))


OUTSIDE: dict[str, OutsideTask] = {
    task.name: task
    for task in (
        _essay("niah_single_2", "one word -> number needle in essays"),
        _essay("niah_single_3", "one word -> UUID needle in essays", kind="uuids"),
        _essay("niah_multikey_1", "one of four word -> number needles in essays", keys=4),
        _essay("niah_multivalue", "four numbers of one word, in needles in essays", values=4),
        _essay("niah_multiquery", "four word -> number needles in essays, all asked for", keys=4, queries=4),
        OutsideTask(
            "qa_1",
            "SQuAD question over its paragraph among others",
            "squad",
            2048,
            QaRecipe,
            "string_match_part",
        ),
        OutsideTask(
            "qa_2",
            "HotpotQA question over its documents among others",
            "hotpotqa",
            4096,
            QaRecipe,
            "string_match_part",
        ),
    )
}


def load(names: Sequence[str], context: TaskContext) -> dict[str, RulerTask]:
    """Those of ``names`` that read outside text, with it.

    Raises :class:`MissingDataError` that lists every text that is not there and the tasks that would read it.
    """
    for key in context.options:
        if key not in OPTIONS:
            raise TaskError(f"--set ruler.{key}: ruler has no such option; its options are {', '.join(OPTIONS)}")
    tasks = [OUTSIDE[name] for name in names if name in OUTSIDE]
    texts: dict[Source, Text] = {}
    missing: dict[Source, str] = {}
    for source in dict.fromkeys(task.source for task in tasks):
        try:
            texts[source] = _text(source, context)
        except MissingDataError as error:
            missing[source] = str(error)
    if missing:
        without = {task.name: missing[task.source] for task in tasks if task.source in missing}
        raise MissingDataError("; ".join(missing.values()), tuple(missing.values()), tasks=without)
    return {task.name: task.over(texts[task.source]) for task in tasks}


def _text(source: Source, context: TaskContext) -> Text:
    if source == "essays":
        return haystacks.load(context.options, context.data_dir, context.offline)
    return questions.load(source, context.options.get(source), context.data_dir, context.offline)
