"""The RULER tasks that read outside text: essays, SQuAD, HotpotQA. With their text they are tasks like the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lr2eval.benchmark import DataNeed, TaskContext
from lr2eval.errors import MissingDataError
from lr2eval.tasks import haystacks
from lr2eval.tasks.exact.draft import TaskRecipe
from lr2eval.tasks.ruler import questions
from lr2eval.tasks.ruler.essay import EssayRecipe
from lr2eval.tasks.ruler.qa import QaRecipe
from lr2eval.tasks.ruler.suite import TASKS, VERSION, RulerTask
from lr2eval.tasks.shared.hub import load_each
from lr2eval.tasks.shared.options import DataOptions

Source = Literal["essays", "squad", "hotpotqa"]
Text = haystacks.Haystack | questions.Questions


class RulerOptions(DataOptions):
    """``--set ruler.key=value``."""

    PREFIX = "ruler"

    squad: str | None = None
    """The SQuAD file for qa_1. Default: from --data-dir, else from the hub."""
    hotpotqa: str | None = None
    """The HotpotQA file for qa_2. Default: from --data-dir, else from the hub."""
    compat: Literal["lm-eval", "nvidia"] | None = None
    """lm-eval: score qa_1 and qa_2 as lm-eval does. nvidia: put needles, words and documents in the fixed order of
    NVIDIA/RULER, and the same number of documents into each qa sample. Default: a new order in each sample, and the
    scores of NVIDIA/RULER."""


def need(source: Source) -> DataNeed:
    """The data set behind the tasks of one source."""
    return haystacks.essays() if source == "essays" else questions.SETS[source]


@dataclass(frozen=True)
class OutsideTask:
    """A task without its text. ``recipe`` makes it from the text."""

    name: str
    description: str
    source: Source
    min_length: int
    recipe: Callable[[Any], TaskRecipe]
    metric: str = "string_match_all"

    def over(self, text: Text) -> RulerTask:
        """The task over this text."""
        recipe = self.recipe(text)
        available = len(text.items) if isinstance(text, questions.Questions) else None
        return RulerTask(
            self.name,
            self.description,
            text.name,
            self.min_length,
            lambda *_: recipe,
            self.metric,
            text.facts,
            available,
            text.edition if isinstance(text, haystacks.Haystack) else VERSION,
        )


def _essay(name: str, description: str, min_length: int = 512, **numbers: Any) -> OutsideTask:
    kind = numbers.pop("kind", "numbers")
    return OutsideTask(name, description, "essays", min_length, lambda text: EssayRecipe(text, kind, **numbers))


def _qa(name: str, description: str, source: Source, min_length: int) -> OutsideTask:
    return OutsideTask(name, description, source, min_length, QaRecipe, "string_match_part")


OUTSIDE: dict[str, OutsideTask] = {
    task.name: task
    for task in (
        _essay("niah_single_2", "one word -> number needle in essays"),
        _essay("niah_single_3", "one word -> UUID needle in essays", kind="uuids"),
        _essay("niah_multikey_1", "one of four word -> number needles in essays", keys=4),
        _essay("niah_multivalue", "four needles in essays with numbers of one word, all asked for", values=4),
        _essay("niah_multiquery", "four word -> number needles in essays, all asked for", keys=4, queries=4),
        _qa("qa_1", "SQuAD question; its paragraph is among other paragraphs", "squad", 2048),
        _qa("qa_2", "HotpotQA question; its documents are among other documents", "hotpotqa", 4096),
    )
}


def load(names: Sequence[str], options: RulerOptions, context: TaskContext) -> dict[str, RulerTask]:
    """The tasks that need no outside text and those among ``names`` that do, with their text.

    Raises :class:`MissingDataError` that lists every missing text and the tasks that would read it.
    """
    tasks = [OUTSIDE[name] for name in names if name in OUTSIDE]
    readers: dict[str, list[str]] = {}
    for task in tasks:
        readers.setdefault(task.source, []).append(task.name)
    try:
        texts = load_each("ruler", list(readers), lambda source: _text(source, options, context))
    except MissingDataError as error:
        without = {name: why for source, why in error.tasks.items() for name in readers[source]}
        raise MissingDataError(str(error), error.missing, tasks=without) from error
    found = TASKS | {task.name: task.over(texts[task.source]) for task in tasks}
    return {name: task.as_nvidia() for name, task in found.items()} if options.compat == "nvidia" else found


def _text(source: str, options: RulerOptions, context: TaskContext) -> Text:
    if source == "essays":
        return haystacks.load(options.haystack, context.data_dir, context.offline, repeat=options.repeat)
    return questions.load(source, getattr(options, source), context.data_dir, context.offline)
