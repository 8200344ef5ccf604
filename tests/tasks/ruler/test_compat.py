"""``--set ruler.compat=nvidia``: the order of NVIDIA/RULER, which shuffles by one seed, 42."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from lr2eval.benchmark import Shard, TaskContext
from lr2eval.errors import UsageError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact.fit import fitting_in_steps, largest_fitting
from lr2eval.tasks.haystacks import Haystack, filler, load
from lr2eval.tasks.ruler import RULER, generate
from lr2eval.tasks.ruler.outside import OUTSIDE
from lr2eval.tasks.ruler.suite import FIXED_ORDER, TASKS, RulerTask
from tests.tasks.ruler.exact import corpus
from tests.tasks.ruler.test_qa import documents_of

Context = Callable[..., TaskContext]


def shuffled(entries: list[Any]) -> list[Any]:
    """By upstream's seed."""
    Random(42).shuffle(entries)
    return entries


def make(task: RulerTask, length: int, count: int, tokenizer: PromptTokenizer) -> list[dict[str, Any]]:
    return list(generate.samples(task, length, count, 0, tokenizer))


def listed(row: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The numbered words of a cwe prompt: of the solved example and of the question."""
    texts = re.findall(r"\n((?:\d+\. \S+ ?)+)\nQuestion", row["prompt"])
    example, question = (re.findall(r"\d+\. (\S+)", text) for text in texts)
    return example, question


@pytest.fixture
def squad(tmp_path: Path) -> Path:
    """A few questions, each about its own paragraph."""
    paragraphs = [
        {
            "context": f"Town {number} was founded in {1000 + number}. " * (1 + number % 3),
            "qas": [
                {
                    "question": f"When was town {number} founded?",
                    "is_impossible": False,
                    "answers": [{"text": str(1000 + number)}],
                }
            ],
        }
        for number in range(300)
    ]
    articles = [{"paragraphs": paragraphs[start : start + 5]} for start in range(0, 300, 5)]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": articles}), encoding="utf-8")
    return path


def test_what_it_changes_and_what_not(context: Context, squad: Path) -> None:
    tasks = [name for name in RULER.select(None) if name != "qa_2"]

    def shards(compat: str | None) -> dict[str, Shard]:
        options = {"haystack": "python-docs", "squad": str(squad), "compat": compat}
        return {shard.task: shard for shard in RULER.prepare(tasks, context(options=options, samples_per_task=2))}

    plain, nvidia = shards(None), shards("nvidia")
    for name in tasks:
        one, other = plain[name], nvidia[name]
        assert one.metric == other.metric
        if name in FIXED_ORDER:
            assert one.data_hash != other.data_hash
            assert other.version == f"{one.version}+nvidia"
            assert (one.data.get("order"), other.data["order"]) == (None, "nvidia")
        else:
            assert (one.data_hash, one.version, one.data) == (other.data_hash, other.version, other.data)
    assert set(FIXED_ORDER) - {"qa_2"} == {name for name in tasks if plain[name].version != nvidia[name].version}


def test_samples_have_identities_of_their_own(one_tokenizer: PromptTokenizer) -> None:
    (plain,), (fixed,) = (make(task, 1024, 1, one_tokenizer) for task in (TASKS["cwe"], TASKS["cwe"].as_nvidia()))
    assert plain["id"] != fixed["id"]
    assert plain["answers"] == fixed["answers"], "another order of the same words"


@pytest.mark.parametrize("compat", ["lm_eval", "NVIDIA", "ruler", True, 1, ["lm-eval"]])
def test_others_are_refused(compat: object, context: Context) -> None:
    with pytest.raises(UsageError, match=r"ruler\.compat.*: must be 'lm-eval' or 'nvidia'") as caught:
        RULER.prepare(["vt"], context(options={"compat": compat}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("size", "place"), [(20, 19), (27, 25), (60, 27)])
def test_place_of_the_own_document(size: int, place: int) -> None:
    recipe: Any = OUTSIDE["qa_1"].over(corpus(200)).as_nvidia().recipe(None, 1, 0)  # type: ignore[arg-type]
    for number in range(5):
        item = recipe.questions.items[number]
        draft = recipe.draw(Random(number), number).render(size)
        found = documents_of({"prompt": draft.prompt})
        assert found.index(recipe.questions.documents[item.own[0]]) == place - 1
        assert draft.depth == (place - 1) / size
        assert len(set(found)) == size
        related = [recipe.questions.documents[each] for each in item.related]
        start = [recipe.questions.documents[item.own[0]], *related]
        numbers = shuffled(list(range(size)))
        assert [found[numbers.index(at)] for at in range(len(start))] == start, "related ones in the order of the file"


def test_all_documents_are_there_beyond_their_number() -> None:
    recipe: Any = OUTSIDE["qa_1"].over(corpus(40)).as_nvidia().recipe(None, 1, 0)  # type: ignore[arg-type]
    documents = list(recipe.questions.documents)
    found = documents_of({"prompt": recipe.draw(Random(0), 3).render(90).prompt})
    assert found == shuffled((documents * 3)[:90])


def test_all_samples_have_the_size_of_the_first(tokenizer: PromptTokenizer) -> None:
    task = OUTSIDE["qa_1"].over(corpus()).as_nvidia()
    rows = make(task, 2048, 20, tokenizer)
    sizes = [len(documents_of(row)) for row in rows]
    recipe: Any = task.recipe(tokenizer, 2048, 0)
    assert all((sizes[0] - size) % 10 == 0 and size <= sizes[0] for size in sizes)
    assert all(row["token_count"] <= 2048 for row in rows)
    for row, size in zip(rows, sizes, strict=True):
        own = recipe.questions.documents[recipe.questions.items[row["index"]].own[0]]
        assert documents_of(row).index(own) == shuffled(list(range(size))).index(0)
    (first,) = make(task, 2048, 1, tokenizer)
    assert first == rows[0]


def test_steps_end_where_one_would_be_too_many(one_tokenizer: PromptTokenizer) -> None:
    recipe: Any = OUTSIDE["qa_1"].over(corpus()).recipe(None, 1, 0)  # type: ignore[arg-type]

    def draw() -> Any:
        return recipe.draw(Random(0))

    most = largest_fitting(draw(), one_tokenizer, 2000)
    assert most.size > 12
    at_once = fitting_in_steps(draw(), one_tokenizer, 2000, most.size - 1, 10)
    assert (at_once.size, at_once.tokens < most.tokens) == (most.size - 1, True)
    assert fitting_in_steps(draw(), one_tokenizer, 2000, most.size + 1, 10).size == most.size - 9
    few = largest_fitting(draw(), one_tokenizer, 300)
    assert few.size < 10
    assert fitting_in_steps(draw(), one_tokenizer, 300, 10, 10).size == few.size


def test_common_words_stand_at_the_same_numbers(one_tokenizer: PromptTokenizer) -> None:
    for row in make(TASKS["cwe"].as_nvidia(), 4096, 3, one_tokenizer):
        example, question = listed(row)
        counts = Counter(question)
        assert set(row["answers"]) == {word for word, count in counts.items() if count == 30}
        rest = list(dict.fromkeys(word for word in question if word not in row["answers"]))
        order = shuffled(list(range(len(question))))
        back = dict(zip(order, question, strict=True))
        text = [back[at] for at in range(len(question))]
        assert text[:300] == row["answers"] * 30
        assert text[300:] == text[300 : 300 + len(rest)] * 3
        places = shuffled([at < 100 for at in range(190)])
        often = {word for word, count in Counter(example).items() if count == 10}
        assert [word in often for word in example] == places


def test_frequent_words_are_ranked_and_ordered_alike(one_tokenizer: PromptTokenizer) -> None:
    for row in make(TASKS["fwe"].as_nvidia(), 2048, 3, one_tokenizer):
        context = row["prompt"].partition("coded words. ")[2].rpartition("\nQuestion")[0].split(" ")
        steps = context.count("...")
        ranked = [word for word, _ in sorted(Counter(context).items(), key=lambda each: -each[1])]
        assert ranked[:4] == ["...", *row["answers"]]
        order = shuffled(list(range(len(context))))
        text = [context[order.index(at)] for at in range(len(context))]
        ranks = list(dict.fromkeys(text))
        assert text == [word for rank, word in enumerate(ranks, 1) for _ in range(steps // rank**2)]
        # (2048 - 50) // 50 words, sorted, shuffled; the three most frequent ones have fixed places in the alphabet.
        alphabet = shuffled(list(range(39)))
        assert sorted(row["answers"]) == [word for _, word in sorted(zip(alphabet[1:4], row["answers"], strict=True))]


@pytest.mark.parametrize(("task", "fixed"), [("niah_multivalue", True), ("niah_multivalue", False)])
def test_needles_stand_in_one_order(task: str, fixed: bool, one_tokenizer: PromptTokenizer) -> None:
    made = OUTSIDE[task].over(load("python-docs", None, offline=True))
    orders = set()
    for row in make(made.as_nvidia() if fixed else made, 2048, 8, one_tokenizer):
        stand = [row["prompt"].index(f" is: {value}.") for value in row["answers"]]
        orders.add(tuple(sorted(range(4), key=stand.__getitem__)))
    assert (orders == {tuple(shuffled([0, 1, 2, 3]))}) == fixed
    assert (len(orders) > 1) != fixed


def test_haystacks_whose_sentences_changed_have_new_identities() -> None:
    docs, text = load("python-docs", None, offline=True), Haystack("x", False, filler.pieces())
    for task in ("niah_single_2", "niah_multikey_1"):
        assert OUTSIDE[task].over(docs).version == "2"
        assert OUTSIDE[task].over(text).version == "1", "the demo's samples stay"
    assert {task.version for task in TASKS.values()} == {OUTSIDE["qa_1"].over(corpus(9)).version} == {"1"}
