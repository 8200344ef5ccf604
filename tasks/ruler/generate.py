"""Samples of a RULER task: each a function of its identity and the tokenizer alone (design D3, D4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from lr2eval.base import ids
from lr2eval.errors import TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact import parallel
from lr2eval.tasks.exact.counting import counting
from lr2eval.tasks.exact.draft import Draw, TaskRecipe
from lr2eval.tasks.exact.fit import Near, TooSmallError, fitting_in_steps, largest_fitting
from lr2eval.tasks.ruler.suite import VERSION, RulerTask


@dataclass(frozen=True)
class RulerMaker:
    """How the samples of one task and length are made. It can be sent to another process.

    ``near`` is sample 0's size, from which the others are guessed. ``by_words``: whether prompts are counted by words.
    ``first`` is sample 0's size where all samples follow it (:attr:`step`). They follow from task,
    length, seed and tokenizer, so it does not matter which process makes which samples.
    """

    task: str
    recipe: TaskRecipe
    length: int
    seed: int
    max_new_tokens: int
    version: str = VERSION
    near: Near | None = None
    by_words: bool = False
    first: int = 0

    @property
    def name(self) -> str:
        """What the user calls the task."""
        return f"ruler:{self.task}"

    @property
    def step(self) -> int | None:
        """Units by which samples shrink from the size of the first, ``None`` if each has a size of its own."""
        return getattr(self.recipe, "step", None)

    def sample(self, index: int, tokenizer: PromptTokenizer) -> parallel.Row:
        """One sample (:class:`lr2eval.tasks.exact.parallel.SampleMaker`)."""
        length, seed, new_tokens = self.length, self.seed, self.max_new_tokens
        draw = _draw(self.task, self.recipe, length, index, seed)
        if self.step:
            fit = fitting_in_steps(draw, tokenizer, length - new_tokens, self.first, self.step)
        else:
            counter = counting(tokenizer) if self.by_words else tokenizer
            fit = largest_fitting(draw, counter, length - new_tokens, self.near)
        if fit.size == fit.available:
            raise TaskError(
                f"{self.name} at length {length}: its haystack has only {fit.available} words, which fit into "
                f"{fit.tokens + new_tokens} tokens; use a shorter length or repeat it (--set ruler.repeat=true)"
            )
        id_ = ids.sample_id(self.version, full_name(self.task), length, index, seed)
        return parallel.row({"id": id_, "task": self.task, "length": length, "index": index}, fit, new_tokens)


def samples(
    task: RulerTask, length: int, count: int, seed: int, tokenizer: PromptTokenizer, workers: int | None = None
) -> Iterator[parallel.Row]:
    """The first ``count`` samples of ``task`` at ``length`` tokens, as they stand in the data file.

    ``workers`` processes make them; ``None`` takes one, or one per core when there is much to do. Raises
    :class:`TaskError` naming a sufficient length when the smallest sample exceeds ``length``, and when the task runs
    out of text below it.
    """
    try:
        yield from parallel.rows(ruler_maker(task, length, seed, tokenizer), count, tokenizer, workers)
    except TooSmallError as error:
        enough = sufficient_length(task, length, count, seed, tokenizer)
        raise TaskError(
            f"ruler:{task.name} at length {length}: the smallest sample takes "
            f"{error.tokens + task.max_new_tokens} tokens with this tokenizer; use a length of at least {enough}"
        ) from error


def ruler_maker(task: RulerTask, length: int, seed: int, tokenizer: PromptTokenizer) -> RulerMaker:
    """Size sample 0 the long way; if its real tokenisation is as long as its words say, the rest starts from there."""
    maker = RulerMaker(task.name, task.recipe(tokenizer, length, seed), length, seed, task.max_new_tokens, task.version)
    draw = _draw(maker.task, maker.recipe, length, 0, seed)
    if maker.step:
        maker = replace(maker, first=largest_fitting(draw, tokenizer, length - maker.max_new_tokens).size)
    counter = counting(tokenizer)
    fit = largest_fitting(draw, counter, length - maker.max_new_tokens)
    by_words = counter.verified(fit.draft.prompt, fit.draft.answer_prefix)
    smallest = draw.render(draw.smallest)
    tokens = fit.tokens - counter.count_prompt(smallest.prompt, smallest.answer_prefix)
    near = Near(fit.size, max(tokens / max(fit.size - draw.smallest, 1), 1.0))
    return replace(maker, near=near, by_words=by_words)


def full_name(task: str) -> str:
    """The task's name in identities: the runner derives the same ids from benchmark and task."""
    return f"ruler/{task}"


def _draw(task: str, recipe: TaskRecipe, length: int, index: int, seed: int) -> Draw:
    return recipe.draw(Random(ids.sample_seed(VERSION, full_name(task), length, index, seed)), index)


def sufficient_length(task: RulerTask, length: int, count: int, seed: int, tokenizer: PromptTokenizer) -> int:
    """The first length found, from ``length`` upwards, at which the smallest of all ``count`` samples fit.

    Samples of another length have other words, so a length found is tried and raised until it holds.
    """
    while True:
        recipe = task.recipe(tokenizer, length, seed)
        draws = (_draw(task.name, recipe, length, index, seed) for index in range(count))
        drafts = (draw.render(draw.smallest) for draw in draws)
        most = max(tokenizer.count_prompt(draft.prompt, draft.answer_prefix) for draft in drafts)
        if task.max_new_tokens + most <= length:
            return length
        length = task.max_new_tokens + most
