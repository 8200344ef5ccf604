from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lr2eval.base import ids
from lr2eval.errors import TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.ruler import generate, questions
from lr2eval.tasks.ruler.outside import OUTSIDE
from lr2eval.tasks.ruler.questions import Questions
from lr2eval.tasks.ruler.suite import VERSION, RulerTask
from lr2eval.tasks.shared.upstream import task_texts
from tests.tasks.ruler.exact import corpus


def make(task: RulerTask, length: int, count: int, tokenizer: PromptTokenizer) -> list[dict[str, Any]]:
    return list(generate.samples(task, length, count, 0, tokenizer))


def documents_of(row: dict[str, Any]) -> list[str]:
    """The documents of a prompt, which is all else upstream's text."""
    head, tail = task_texts("qa").template.split("{context}")
    middle, _ = tail.split("{query}")
    assert row["prompt"].startswith(head)
    context, _, _ = row["prompt"][len(head) :].rpartition(middle)
    parts = re.split(r"(?:^|\n\n)Document (\d+):\n", context)
    assert parts[0] == ""
    assert [int(number) for number in parts[1::2]] == list(range(1, len(parts) // 2 + 1))
    return parts[2::2]


def test_layout(one_tokenizer: PromptTokenizer) -> None:
    made = corpus()
    for row in make(OUTSIDE["qa_1"].over(made), 1024, 8, one_tokenizer):
        item = made.items[row["index"]]
        found = documents_of(row)
        assert row["prompt"].endswith(f"\n\nQuestion: {item.text}")
        assert row["answer_prefix"] == " Answer:"
        assert tuple(row["answers"]) == item.answers
        assert row["max_new_tokens"] == 32
        assert set(found) <= set(made.documents)
        assert len(set(found)) == len(found)
        assert {made.documents[n] for n in (*item.own, *item.related)} <= set(found), "related ones come first"
        assert row["depth"] == found.index(made.documents[item.own[0]]) / len(found)
        assert row["marks"] == [made.documents[item.own[0]]]


def test_documents_are_shuffled(one_tokenizer: PromptTokenizer) -> None:
    depths = [row["depth"] for row in make(OUTSIDE["qa_1"].over(corpus()), 2048, 30, one_tokenizer)]
    assert 0.3 < sum(depths) / len(depths) < 0.7
    assert len(set(depths)) > 15


def test_all_documents_come_before_any_comes_again(one_tokenizer: PromptTokenizer) -> None:
    made = Questions("few", False, corpus(40).documents, corpus(40).items)
    (row,) = make(OUTSIDE["qa_2"].over(made), 4096, 1, one_tokenizer)
    counts = Counter(documents_of(row))
    assert len(counts) == 40
    assert max(counts.values()) - min(counts.values()) == 1
    assert row["token_count"] > 4096 * 0.98


@pytest.mark.parametrize("length", [1024, 4096])
def test_maximal(length: int, tokenizer: PromptTokenizer) -> None:
    made = OUTSIDE["qa_1"].over(corpus())
    for row in make(made, length, 3, tokenizer):
        seed = ids.sample_seed(VERSION, "ruler/qa_1", length, row["index"], 0)
        recipe = made.recipe(tokenizer, length, 0)
        size = len(documents_of(row))
        assert recipe.draw(Random(seed), row["index"]).render(size).prompt == row["prompt"]
        more = recipe.draw(Random(seed), row["index"]).render(size + 1)
        assert row["token_count"] <= length < tokenizer.count_prompt(more.prompt, more.answer_prefix) + 32


def test_a_draw_is_the_same_in_whatever_order_sizes_are_tried() -> None:
    recipe = OUTSIDE["qa_1"].over(corpus(50)).recipe(None, 1, 0)  # type: ignore[arg-type]
    one, other = recipe.draw(Random(1)), recipe.draw(Random(1))
    prompts = [one.render(size).prompt for size in (90, 3, 10, 200)]
    assert prompts == [other.render(size).prompt for size in (90, 3, 10, 200)][:]
    assert other.render(10).prompt == prompts[2]
    fresh = recipe.draw(Random(1))
    assert fresh.render(200).prompt == prompts[3]


def test_documents_that_do_not_fit(one_tokenizer: PromptTokenizer) -> None:
    with pytest.raises(TaskError, match=r"ruler:qa_1 at length 64: .* at least"):
        make(OUTSIDE["qa_1"].over(corpus()), 64, 3, one_tokenizer)


@pytest.mark.shared_data
@pytest.mark.parametrize(("task", "source"), [("qa_1", "squad"), ("qa_2", "hotpotqa")])
def test_real_questions(task: str, source: str, shared_data: Path, one_tokenizer: PromptTokenizer) -> None:
    made = questions.load(source, None, shared_data)
    rows = make(OUTSIDE[task].over(made), 16_384, 4, one_tokenizer)
    for row in rows:
        item = made.items[row["index"]]
        text = row["prompt"]
        assert all(made.documents[n] in text for n in item.own)
        assert f"Question: {item.text}" in text
        if source == "squad":
            assert all(answer in made.documents[item.own[0]] for answer in item.answers)
        assert 16_384 * 0.95 < row["token_count"] <= 16_384
