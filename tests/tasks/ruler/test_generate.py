"""What holds for every task: maximal, within budget, independent of everything else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lr2eval.base import ids
from lr2eval.benchmark import TaskContext
from lr2eval.errors import TaskError
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact import counting
from lr2eval.tasks.ruler import RULER, generate, outside
from lr2eval.tasks.ruler.outside import OUTSIDE
from lr2eval.tasks.ruler.suite import TASKS, VERSION, RulerTask
from tests.tasks.ruler.exact import all_tasks, check

LENGTHS = (512, 1024, 4096)
TASKS_WITHIN = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe")
"""Tasks that need no outside text."""


def make(task: str, length: int, count: int, tokenizer: PromptTokenizer, seed: int = 0) -> list[dict[str, Any]]:
    return list(generate.samples(TASKS[task], length, count, seed, tokenizer))


def one_more(task: str, row: dict[str, Any], tokenizer: PromptTokenizer) -> int:
    """Tokens of the sample with one unit more than ``row``, found without the product's search."""
    length = row["length"]
    recipe = TASKS[task].recipe(tokenizer, length, 0)
    seed = ids.sample_seed(VERSION, f"ruler/{task}", length, row["index"], 0)
    draw = recipe.draw(Random(seed))
    size = draw.smallest
    while draw.render(size).prompt != row["prompt"]:
        size += 1
    draft = draw.render(size + 1)
    return tokenizer.count_prompt(draft.prompt, draft.answer_prefix) + TASKS[task].max_new_tokens


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("task", TASKS)
def test_samples_are_maximal(task: str, length: int, chat: bool, tokenizer: PromptTokenizer) -> None:
    prompts = PromptTokenizer(tokenizer.tokenizer, chat=chat, name=tokenizer.name)
    minimum = generate.sufficient_length(TASKS[task], 1, 3, 0, prompts)
    try:
        rows = make(task, length, 3, prompts)
    except TaskError:
        assert length < minimum * 1.3 or (task, length) == ("cwe", 4096)  # words repeat more from 4096 on
        return
    for row in rows:
        rendered = prompts.render(row["prompt"], row["answer_prefix"])
        assert row["token_count"] == len(prompts.encode_rendered(rendered)) + row["max_new_tokens"]
        assert row["token_count"] <= length < one_more(task, row, prompts)


@pytest.mark.parametrize("task", TASKS)
def test_answers_and_marks_are_in_the_prompt(task: str, tokenizer: PromptTokenizer) -> None:
    for row in make(task, 2048, 5, tokenizer):
        question_free = row["prompt"]
        assert row["answers"]
        assert all(answer in question_free for answer in row["answers"])
        assert all(mark in question_free for mark in row["marks"])
        assert row["answer_prefix"].startswith(" ")
        assert not any(answer in row["answer_prefix"] for answer in row["answers"])


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_depends_on_its_identity_alone(task: str, one_tokenizer: PromptTokenizer) -> None:
    texts = {(length, row["index"]): row for length in (2048, 1536) for row in make(task, length, 4, one_tokenizer)}
    # In another order, in other company, with other numbers of samples, twice.
    make("fwe", 2048, 2, one_tokenizer)
    for length, count in ((1536, 2), (2048, 6), (2048, 1)):
        for row in make(task, length, count, one_tokenizer):
            if row["index"] < 4:
                assert row == texts[length, row["index"]]
    assert len({row["prompt"] for row in texts.values()}) == 8
    assert len({row["id"] for row in texts.values()}) == 8
    assert make(task, 2048, 1, one_tokenizer, seed=1)[0]["prompt"] != texts[2048, 0]["prompt"]


def test_ids_are_those_of_the_run_store(one_tokenizer: PromptTokenizer) -> None:
    (row,) = make("vt", 2048, 1, one_tokenizer, seed=3)
    assert row["id"] == ids.sample_id(VERSION, "ruler/vt", 2048, 0, 3)


def test_global_generators_are_left_alone(one_tokenizer: PromptTokenizer) -> None:
    import random

    state = random.getstate()
    first = [make(task, 2048, 1, one_tokenizer) for task in TASKS]
    assert random.getstate() == state
    random.seed(5)
    assert first == [make(task, 2048, 1, one_tokenizer) for task in TASKS]


@pytest.mark.parametrize("task", TASKS)
def test_below_the_minimum(task: str, tokenizer: PromptTokenizer) -> None:
    with pytest.raises(TaskError) as caught:
        make(task, 100, 4, tokenizer)
    message = str(caught.value)
    assert f"ruler:{task}" in message
    assert "100" in message
    enough = int(message.rsplit(" ", 1)[1])
    rows = make(task, enough, 4, tokenizer)
    assert max(row["token_count"] for row in rows) <= enough
    assert caught.value.exit_code == 2


def test_cwe_goes_on_with_pairs_of_words(one_tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All words of the list are used first; beyond its end no word comes twice, and the sample is maximal."""
    words = tuple(f"word{number}" for number in range(60))
    monkeypatch.setattr("lr2eval.tasks.ruler.words.common_words", lambda: words)
    (row,) = make("cwe", 2048, 1, one_tokenizer)
    counts = Counter(re.findall(r"\d+\. (\S+)", row["prompt"].split("\nBelow is")[1]))
    assert set(words) < set(counts)
    assert {word: counts[word] for word in row["answers"]} == dict.fromkeys(row["answers"], 6)
    assert {counts[word] for word in counts if word not in row["answers"]} == {1}
    assert all("-" in word for word in set(counts) - set(words))
    assert row["token_count"] > 2048 * 0.98


def _made_elsewhere(job: tuple[str, Callable[[], Any]]) -> list[dict[str, Any]]:
    task, tokenizer = job
    return make(task, 2048, 2, PromptTokenizer(tokenizer, name="elsewhere"))


def test_other_processes_make_the_same(one_tokenizer: PromptTokenizer) -> None:
    import multiprocessing

    jobs = [(task, one_tokenizer.tokenizer) for task in TASKS]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        elsewhere = list(pool.map(_made_elsewhere, jobs))
    assert elsewhere == [make(task, 2048, 2, one_tokenizer) for task in TASKS]


def test_a_file_costs_one_whole_tokenisation(one_tokenizer: PromptTokenizer) -> None:
    """Where prompts are counted by words: sample 0 is tokenised whole, to be sure, and no other."""
    counted = PromptTokenizer(one_tokenizer.tokenizer, name="counted")
    calls: list[int] = []
    plain = counted.count_prompt
    counted.count_prompt = lambda *texts: calls.append(1) or plain(*texts)  # type: ignore[method-assign, func-returns-value]
    for task in TASKS_WITHIN:
        make(task, 4096, 10, counted)
    assert len(calls) == len(TASKS_WITHIN)


def test_other_tokenizers_cost_three_tokenisations(trained: dict[str, Any]) -> None:
    """The smallest prompt, the guess and one more: the guess is right."""
    counted = PromptTokenizer(trained["sentencepiece-like"], name="counted")
    calls: list[int] = []
    plain = counted.count_prompt
    counted.count_prompt = lambda *texts: calls.append(1) or plain(*texts)  # type: ignore[method-assign, func-returns-value]
    for task in ("niah_single_1", "niah_multikey_3", "fwe"):
        make(task, 4096, 5, counted)
    assert len(calls) <= 3 * 5 * 5


@pytest.fixture(scope="module")
def wordpiece() -> PromptTokenizer:
    """BERT's kind, of letters and a few words, special tokens at both ends."""
    pieces = ["[UNK]", "[CLS]", "[SEP]", *map(chr, range(33, 127)), *(f"##{chr(code)}" for code in range(33, 127))]
    pieces += ["the", "grass", "green", "special", "magic", "number", "##er", "##in", "##10", "##7f", "one", "of", "is"]
    tokenizer = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    return PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"), name="wordpiece")


@pytest.fixture(scope="module")
def known() -> dict[str, RulerTask]:
    return all_tasks()


@pytest.mark.parametrize("length", [2048, 4096])
@pytest.mark.parametrize("task", TASKS_WITHIN)
def test_wordpiece_samples_are_maximal(task: str, length: int, wordpiece: PromptTokenizer) -> None:
    if (task, length) == ("cwe", 4096):
        length = 8192  # words repeat more from 4096 on
    for index in (0, 3):
        assert check(TASKS[task], length, index, wordpiece).fill >= 0.94


@pytest.mark.parametrize("task", RULER.select(None))
def test_long_samples_are_maximal(task: str, known: dict[str, RulerTask], tokenizer: PromptTokenizer) -> None:
    found = check(known[task], 32_768, 1, tokenizer)
    assert found.unit <= 0.02 * 32_768, "so that 98 % were asked for"


@pytest.mark.parametrize("task", ["vt", "cwe", "fwe"])
def test_longest_samples_are_maximal(task: str, tokenizer: PromptTokenizer) -> None:
    check(TASKS[task], 131_072, 1, tokenizer)


@pytest.mark.parametrize("task", ["vt", "cwe", "fwe"])
def test_longest_wordpiece_samples_are_maximal(task: str, wordpiece: PromptTokenizer) -> None:
    check(TASKS[task], 131_072, 2, wordpiece)


@pytest.mark.shared_data
@pytest.mark.parametrize("task", OUTSIDE)
def test_real_texts_make_maximal_samples(task: str, shared_data: Path, one_tokenizer: PromptTokenizer) -> None:
    context = TaskContext(one_tokenizer, (), 1, 0, shared_data, data_dir=shared_data, offline=True)
    real = outside.load([task], outside.RulerOptions(), context)[task]
    for length in (4096, 32_768):
        check(real, length, 2, one_tokenizer)


def test_a_wrong_size_is_noticed(one_tokenizer: PromptTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself can fail: a product that counts one token too many or too few is found out."""
    count = counting.CountingTokenizer.count_prompt
    for wrong in (-300, 300):
        monkeypatch.setattr(
            counting.CountingTokenizer, "count_prompt", lambda self, *texts, by=wrong: count(self, *texts) + by
        )
        monkeypatch.setattr(counting.CountingTokenizer, "verified", lambda self, *texts: True)
        with pytest.raises(AssertionError):
            check(TASKS["vt"], 4096, 1, one_tokenizer)
