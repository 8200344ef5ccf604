"""Needles in essays against an independent restatement of upstream's layout."""

from __future__ import annotations

import re
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lr2eval.base import ids
from lr2eval.errors import TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.haystacks import Haystack, load, split
from lr2eval.tasks.ruler import generate
from lr2eval.tasks.ruler.essay import DEPTHS, enumeration
from lr2eval.tasks.ruler.outside import OUTSIDE
from lr2eval.tasks.ruler.suite import VERSION, RulerTask
from lr2eval.tasks.shared.upstream import niah_texts, single_answer

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
SHAPES = {  # needles, asked keys, values of each, kind of value
    "niah_single_2": (1, 1, 1, "numbers"),
    "niah_single_3": (1, 1, 1, "uuids"),
    "niah_multikey_1": (4, 1, 1, "numbers"),
    "niah_multivalue": (4, 1, 4, "numbers"),
    "niah_multiquery": (4, 4, 1, "numbers"),
}


@pytest.fixture(scope="module")
def haystack() -> Haystack:
    return load("python-docs", None, offline=True)


def make(task: RulerTask, length: int, count: int, tokenizer: PromptTokenizer) -> list[dict[str, Any]]:
    return list(generate.samples(task, length, count, 0, tokenizer))


def taken_apart(row: dict[str, Any], kind: str, haystack: Haystack) -> tuple[list[tuple[str, str]], list[int]]:
    """Needles (key, value) in the order of the text and their sentences' numbers, all else being upstream's."""
    value = UUID if kind == "uuids" else r"[1-9]\d{6}"
    one = len(row["answers"]) == 1
    shown = kind.removesuffix("s") if one else kind
    template, prefix = niah_texts().template, niah_texts().answer_prefix
    if one:
        template, prefix = single_answer(template), single_answer(prefix)
    head, tail = template.split("{context}")
    head = head.replace("{type_needle_v}", shown)
    assert row["prompt"].startswith(head)
    context, question = row["prompt"][len(head) :].rsplit("\n", 1)
    asked = re.fullmatch(tail[1:].format(type_needle_v=shown, query="(.*)").replace("?", r"\?"), question)
    assert asked
    assert row["answer_prefix"] == prefix.format(type_needle_v=shown, query=asked[1])
    pattern = re.compile(rf"One of the special magic {kind} for ([^:]+?) is: ({value})\.")
    found = list(pattern.finditer(context))
    pieces, at = [], 0
    for match in found:
        pieces.append(context[at : match.start()])
        at = match.end()
    pieces.append(context[at:])
    # Joined by spaces: so the first piece ends in one, the last begins with one, the others do both.
    assert all(piece.endswith(" ") for piece in pieces[:-1])
    assert all(piece.startswith(" ") for piece in pieces[1:])
    # A sentence may end within a word ("end.)x"), where joining puts a space: so letters are counted, not words.
    letters = [len("".join(piece.split())) for piece in pieces]
    count = list(accumulate(map(len, haystack.take(0, sum(letters))))).index(sum(letters)) + 1
    whole = split(" ".join(haystack.take(0, count)))
    assert " ".join("".join(pieces).split()) == " ".join(whole)
    ends = [0, *accumulate(len("".join(sentence.split())) for sentence in whole)]
    numbers = [ends.index(end) for end in list(accumulate(letters))[:-1]]
    allowed = {int(len(whole) * (depth / 100)) for depth in DEPTHS}
    assert set(numbers) <= allowed
    assert set(row["marks"]) == {m.group() for m in found if m[1] in asked[1]}
    return [(match[1], match[2]) for match in found], numbers


@pytest.mark.parametrize("task", SHAPES)
def test_layout(task: str, haystack: Haystack, one_tokenizer: PromptTokenizer) -> None:
    needles, asked, values, kind = SHAPES[task]
    for row in make(OUTSIDE[task].over(haystack), 3072, 5, one_tokenizer):
        found, numbers = taken_apart(row, kind, haystack)
        assert len(found) == needles
        assert numbers == sorted(numbers)
        assert len({value for _, value in found}) == needles
        assert len(row["answers"]) == asked * values
        keys = {key for key, value in found if value in row["answers"]}
        assert len(keys) == asked
        assert len({key for key, _ in found}) == needles // values
        query = re.search(r"for (.*) mentioned", row["answer_prefix"])
        assert query
        assert all(key in query[1] for key in keys)
        if asked > 1:
            order = [next(k for k, v in found if v == answer) for answer in row["answers"]]
            assert query[1] == enumeration(order), "answers stand in the order of the question"
        assert (row["depth"] is None) == (asked * values > 1)


def test_depths_are_those_numpy_rounds() -> None:
    import numpy as np

    assert list(DEPTHS) == list(np.round(np.linspace(0, 100, num=40, endpoint=True)).astype(int))
    assert len(set(DEPTHS)) == 40


@pytest.mark.parametrize(("queries", "text"), [("a", "a"), ("ab", "a, and b"), ("abc", "a, b, and c")])
def test_enumeration(queries: str, text: str) -> None:
    assert enumeration(queries) == text


@pytest.mark.parametrize("length", [1024, 4096])
@pytest.mark.parametrize("task", SHAPES)
def test_maximal(task: str, length: int, haystack: Haystack, tokenizer: PromptTokenizer) -> None:
    made = OUTSIDE[task].over(haystack)
    recipe = made.recipe(tokenizer, length, 0)
    for row in make(made, length, 3, tokenizer):
        draw = recipe.draw(Random(ids.sample_seed(VERSION, f"ruler/{task}", length, row["index"], 0)))
        size = draw.smallest
        while draw.render(size).prompt != row["prompt"]:
            size += 1
        more = draw.render(size + 1)
        assert row["token_count"] == tokenizer.count_prompt(row["prompt"], row["answer_prefix"]) + 128
        assert row["token_count"] <= length < tokenizer.count_prompt(more.prompt, more.answer_prefix) + 128
        assert row["token_count"] > 0.98 * length


def test_haystack_is_repeated_beyond_its_end(one_tokenizer: PromptTokenizer) -> None:
    short = Haystack("short", False, ("One sentence only. And then another, which is the last one.",))
    (row,) = make(OUTSIDE["niah_single_2"].over(short), 32_768, 1, one_tokenizer)
    assert row["prompt"].count("One sentence only.") > 1000
    assert row["token_count"] > 32_768 * 0.99


def test_too_short_with_repetition_off(one_tokenizer: PromptTokenizer) -> None:
    short = Haystack("short", False, ("Only these few words.",), repeat=False)
    with pytest.raises(TaskError, match=r"niah_single_2 at length 1024: .* only 4 words.*ruler\.repeat=true"):
        make(OUTSIDE["niah_single_2"].over(short), 1024, 1, one_tokenizer)


def test_more_needles_than_places() -> None:
    flat = Haystack("flat.txt", False, ("words without an end " * 2000,))
    for task in ("niah_multikey_1", "niah_multivalue", "niah_multiquery"):
        with pytest.raises(
            TaskError, match=r"4 needles are more .* flat\.txt \(1 in its first 4096 .*haystack=PATH"
        ) as e:
            OUTSIDE[task].over(flat)
        assert "\n" not in str(e.value)
    assert OUTSIDE["niah_single_2"].over(flat)


def test_samples_depend_on_their_identity_alone(haystack: Haystack, one_tokenizer: PromptTokenizer) -> None:
    made = OUTSIDE["niah_multikey_1"].over(haystack)
    rows = make(made, 2048, 4, one_tokenizer)
    make(made, 8192, 1, one_tokenizer)
    fresh = load("python-docs", None, offline=True)
    assert make(OUTSIDE["niah_multikey_1"].over(fresh), 2048, 2, one_tokenizer) == rows[:2]
    assert len({row["prompt"] for row in rows}) == 4


@pytest.mark.shared_data
@pytest.mark.parametrize("task", SHAPES)
def test_real_essays(task: str, shared_data: Path, one_tokenizer: PromptTokenizer) -> None:
    essays = load("essays", shared_data, offline=True)
    (row,) = make(OUTSIDE[task].over(essays), 32_768, 1, one_tokenizer)
    taken_apart(row, SHAPES[task][3], essays)
    assert 32_768 * 0.99 < row["token_count"] <= 32_768
