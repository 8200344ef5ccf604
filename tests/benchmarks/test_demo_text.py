from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from random import Random

import pytest
from demo_model import train
from demo_model.text import BOS, EOS, Document, Mixture, Task, Words, documents
from transformers import PreTrainedTokenizerFast

from lr2eval.benchmark import TaskContext
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.facts import table
from lr2eval.tasks.ruler import RULER
from lr2eval.tasks.ruler import words as ruler_words
from lr2eval.tasks.shared import upstream

TASKS: tuple[Task, ...] = ("single_1", "multikey_1", "multikey_2", "multivalue", "multiquery")


@lru_cache
def tokenizer() -> PreTrainedTokenizerFast:
    return train.make_tokenizer(2048)


@lru_cache
def text() -> train.Text:
    return train.Text(tokenizer(), train.DemoRecipe.read())


def plain(document: Document) -> str:
    return "".join(piece for piece, _ in document)


def stream(steps: int) -> list[str]:
    """Everything that some steps in the full window show, decoded."""
    rows = []
    for step in range(steps):
        tokens_BL, _ = text().windows(step, 512, 512)
        rows += [tokenizer().decode(row) for row in tokens_BL.tolist()]
    return rows


def test_keys_of_training_are_never_keys_of_an_evaluation() -> None:
    words = Words.load()
    adjectives, nouns = set(ruler_words.listed("adjective")), set(ruler_words.listed("noun"))
    rng = Random(0)
    for _ in range(5000):
        first, last = words.key(rng).split("-")
        assert not (first in adjectives and last in nouns)
        assert not {first, last} & {*words.held_adjectives, *words.held_nouns}
        held = words.held_out_key(rng).split("-")
        assert held[0] in adjectives
        assert held[1] in nouns


def test_no_key_and_no_asked_value_of_an_evaluation_is_in_the_training_text(tmp_path: Path) -> None:
    seen = "\n".join(stream(60))
    keys, numbers = set(re.findall(r"[a-z]+-[a-z]+", seen)), set(re.findall(r"\d{7}", seen))
    assert len(keys) > 500
    assert len(numbers) > 1000
    asked_keys, asked = _evaluation(tmp_path)
    assert len(asked_keys) >= 300
    assert not keys & asked_keys
    assert not numbers & asked


def _evaluation(folder: Path) -> tuple[set[str], set[str]]:
    """Keys and asked values of prompts as a run has them."""
    context = TaskContext(
        PromptTokenizer(tokenizer(), name="demo"),
        lengths=(512, 1024),
        samples_per_task=20,
        seed=0,
        cache_dir=folder,
        options={"haystack": "demo-filler"},
        offline=True,
    )
    tasks = ("niah_single_1", "niah_multikey_1", "niah_multikey_2")
    docs = [doc for shard in RULER.prepare(tasks, context) for doc in shard.load().eval_docs]
    keys = {key for doc in docs for key in re.findall(r"magic numbers for ([a-z]+-[a-z]+) is", doc["prompt"])}
    return keys, {value for doc in docs for value in doc["answers"]}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("room", [300, 512, 2000])
def test_prompts_fill_the_room_and_end_in_their_answers(task: Task, room: int) -> None:
    for seed in range(5):
        document = text().writer.task(Random(seed), task, room, 2 if task.startswith("multikey") else 1)
        ids, weights = text().encode(document)
        assert room - 60 <= len(ids) <= room
        assert ids[0] == train.BOS_ID
        assert ids[-1] == train.EOS_ID
        answers = [weight for weight in weights if weight == 1.0]
        assert len(answers) == 7 * {"multivalue": 4, "multiquery": 4, "single_1": 1}.get(task, 2)
        told = re.findall(r"\d{7}", plain([piece for piece in document if piece[1] == 1.0]))
        stated = dict.fromkeys(re.findall(r"is: (\d{7})\.", document[0][0]))
        assert set(told) <= set(stated), "what is asked stands in the text"
        if task == "multivalue":
            assert told == list(stated), "in the order of the text"


@pytest.mark.parametrize(("task", "many"), [("single_1", False), ("multikey_2", False), ("multiquery", True)])
def test_the_wording_is_that_of_the_benchmark(task: Task, many: bool) -> None:
    document = text().writer.task(Random(3), task, 500)
    said = plain(document).removeprefix(BOS).removesuffix(EOS)
    texts = upstream.niah_texts()
    template, prefix = texts.template, texts.answer_prefix
    kind = "numbers" if many else "number"
    if not many:
        template, prefix = upstream.single_answer(template), upstream.single_answer(prefix)
    query = said.rpartition(" for ")[2].partition(" mentioned")[0]
    head, tail = template.format(type_needle_v=kind, context="\0", query=query).split("\0")
    context = said.removeprefix(head).partition(tail)[0]
    answer = said.rpartition(prefix.format(type_needle_v=kind, query=query))[2]
    assert said == head + context + tail + prefix.format(type_needle_v=kind, query=query) + answer
    for key in query.replace("and ", "").split(", "):
        assert re.search(re.escape(texts.needle.format(type_needle_v="numbers", key=key, value="")[:-1]), context)


def test_depth_places_the_asked_needle() -> None:
    for depth in (0.0, 0.5, 1.0):
        document = text().writer.task(Random(1), "multikey_2", 500, depth=depth)
        (value,) = [piece for piece, weight in document if weight == 1.0]
        lines = [line for line in document[0][0].split("\n")[1:] if "is:" in line]
        place = next(at for at, line in enumerate(lines) if value in line)
        assert place == round(depth * (len(lines) - 1))


def test_facts_are_stated_as_the_table_has_them() -> None:
    said = plain(text().writer.known(Random(0), 200)).splitlines()
    known = {f"{fact.stem} {fact.object}." for fact in table.facts()}
    assert len(said) == 200 // 14
    assert set(said) <= known


@pytest.mark.parametrize("window", [24, 60, 100, 200, 400, 512])
def test_every_stage_of_the_curriculum_fills_its_windows(window: int) -> None:
    tokens_BL, weights_BL = text().windows(1, window, window)
    assert tokens_BL.shape == weights_BL.shape == (max(3, 1536 // window), window)
    share = (weights_BL > 0).float().mean()
    assert 0.02 < share < 0.6, "something to answer, and something to answer from"


def test_few_long_dependencies_on_request() -> None:
    long, short = [], []
    mix = Mixture(2, 0.25, 0.53, 0.2)
    for seed in range(200):
        long.append(_size(documents(text().writer, Random(seed), 512, 10**6, mix)))
        short.append(_size(documents(text().writer, Random(seed), 512, 10**6, mix, 0.05)))
    assert sum(size > 200 for size in long) > 60
    assert sum(size > 200 for size in short) < 0.6 * sum(size > 200 for size in long)


def _size(document: Document) -> int:
    return len(text().encode(document)[0])
