"""Samples of a RULER task: each a function of its identity and the tokenizer alone (design D3, D4)."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from random import Random
from typing import Any

from lr2eval import _ids
from lr2eval._errors import TaskError
from lr2eval._tokens import PromptTokenizer
from lr2eval.tasks.ruler.draft import Draw, Recipe
from lr2eval.tasks.ruler.fit import TooSmallError, largest_fitting
from lr2eval.tasks.ruler.suite import VERSION, RulerTask


def samples(
    task: RulerTask, length: int, count: int, seed: int, tokenizer: PromptTokenizer
) -> Iterator[dict[str, Any]]:
    """The first ``count`` samples of ``task`` at ``length`` tokens, as they stand in the data file.

    Raises :class:`TaskError` naming a sufficient length when the smallest sample exceeds ``length``, and when the
    task runs out of text below it.
    """
    recipe = task.recipe(tokenizer, length, seed)
    memo: dict[str, int] = {}
    for index in range(count):
        try:
            yield make_sample(task, recipe, length, index, seed, tokenizer, memo)
        except TooSmallError as error:
            enough = sufficient_length(task, length, count, seed, tokenizer)
            raise TaskError(
                f"ruler:{task.name} at length {length}: the smallest sample takes "
                f"{error.tokens + recipe.max_new_tokens} tokens with this tokenizer; use a length of at least {enough}"
            ) from error


def make_sample(
    task: RulerTask,
    recipe: Recipe,
    length: int,
    index: int,
    seed: int,
    tokenizer: PromptTokenizer,
    memo: MutableMapping[str, int],
) -> dict[str, Any]:
    """One sample. ``memo`` caches token counts only; ``token_count`` includes the generation budget."""
    fit = largest_fitting(_draw(task, recipe, length, index, seed), tokenizer, length - recipe.max_new_tokens, memo)
    if fit.size == fit.available:
        raise TaskError(
            f"ruler:{task.name} at length {length}: its {fit.available} different words already fit into "
            f"{fit.tokens + recipe.max_new_tokens} tokens; use a shorter length"
        )
    return {
        "id": _ids.sample_id(VERSION, full_name(task), length, index, seed),
        "task": task.name,
        "length": length,
        "index": index,
        "prompt": fit.draft.prompt,
        "answer_prefix": fit.draft.answer_prefix,
        "answers": list(fit.draft.answers),
        "max_new_tokens": recipe.max_new_tokens,
        "token_count": fit.tokens + recipe.max_new_tokens,
        "depth": fit.draft.depth,
        "marks": list(fit.draft.marks),
    }


def full_name(task: RulerTask) -> str:
    """The task's name in identities: the runner derives the same ids from benchmark and task."""
    return f"ruler/{task.name}"


def _draw(task: RulerTask, recipe: Recipe, length: int, index: int, seed: int) -> Draw:
    return recipe.draw(Random(_ids.sample_seed(VERSION, full_name(task), length, index, seed)))


def sufficient_length(task: RulerTask, length: int, count: int, seed: int, tokenizer: PromptTokenizer) -> int:
    """The first length found, from ``length`` upwards, at which the smallest of all ``count`` samples fit.

    Samples of another length have other words, so a length found is tried and raised until it holds.
    """
    while True:
        recipe = task.recipe(tokenizer, length, seed)
        needed = 0
        for index in range(count):
            draw = _draw(task, recipe, length, index, seed)
            draft = draw.render(draw.smallest)
            needed = max(needed, tokenizer.count_prompt(draft.prompt, draft.answer_prefix))
        if needed + recipe.max_new_tokens <= length:
            return length
        length = needed + recipe.max_new_tokens
