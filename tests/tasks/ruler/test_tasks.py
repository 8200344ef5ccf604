"""The layout of each task's prompt, against upstream's rules."""

from __future__ import annotations

import gzip
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.ruler import generate
from lr2eval.tasks.ruler.suite import TASKS
from lr2eval.tasks.ruler.vt import VtDraw, VtRecipe
from lr2eval.tasks.shared.upstream import niah_texts, task_texts

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
WORDS = r"[A-Za-z'. -]+-[A-Za-z'. -]+?"


def make(task: str, tokenizer: PromptTokenizer, length: int = 2048, count: int = 5) -> list[dict[str, Any]]:
    return list(generate.samples(TASKS[task], length, count, 0, tokenizer))


def needle(key: str, value: str, kind: str) -> re.Pattern[str]:
    text = re.escape(niah_texts().needle.format(type_needle_v=kind, key="KEY", value="VALUE"))
    return re.compile(text.replace("KEY", f"(?P<key>{key})").replace("VALUE", f"(?P<value>{value})"))


def check_niah(row: dict[str, Any], key: str, value: str, kind: str, noise: str | None) -> None:
    first, *lines, last = row["prompt"].split("\n")
    one = kind.removesuffix("s")
    assert first.startswith(f"A special magic {one} is hidden")
    assert first.endswith(f"I will quiz you about the {one} afterwards.")
    asked = re.fullmatch(f"What is the special magic {one} for (.+) mentioned in the provided text\\?", last)
    assert asked
    assert row["answer_prefix"] == f" The special magic {one} for {asked[1]} mentioned in the provided text is"
    matches = [needle(key, value, kind).fullmatch(line) for line in lines]
    if noise is not None:
        assert [line for line, match in zip(lines, matches, strict=True) if not match] == [noise] * (len(lines) - 1)
    found = {match["key"]: match["value"] for match in matches if match}
    assert len(found) == (1 if noise else len(lines)), "keys must be unique"
    assert row["answers"] == [found[asked[1]]]
    assert row["prompt"].count(row["answers"][0]) == 1
    (place,) = (index for index, line in enumerate(lines) if line == row["marks"][0])
    assert row["depth"] == place / (len(lines) - 1)


def test_niah_single_1(one_tokenizer: PromptTokenizer) -> None:
    for row in make("niah_single_1", one_tokenizer):
        check_niah(row, WORDS, r"[1-9]\d{6}", "numbers", niah_texts().noise)


def test_niah_multikey_2(one_tokenizer: PromptTokenizer) -> None:
    for row in make("niah_multikey_2", one_tokenizer):
        check_niah(row, WORDS, r"[1-9]\d{6}", "numbers", None)


def test_niah_multikey_3(one_tokenizer: PromptTokenizer) -> None:
    for row in make("niah_multikey_3", one_tokenizer):
        check_niah(row, UUID, UUID, "uuids", None)


def test_niah_depths_are_uniform(one_tokenizer: PromptTokenizer) -> None:
    depths = [row["depth"] for row in make("niah_single_1", one_tokenizer, 512, 300)]
    assert 0.43 < sum(depths) / 300 < 0.57
    assert sum(depth < 0.25 for depth in depths) > 45
    assert sum(depth >= 0.75 for depth in depths) > 30
    assert all(0 <= depth < 1 for depth in depths)


@pytest.mark.shared_data
def test_multikey_3_has_the_layout_of_upstream(shared_data: Path, one_tokenizer: PromptTokenizer) -> None:
    """Our checks, written for our samples, hold for upstream's 20 published ones; and the fixed texts are equal."""
    with gzip.open(shared_data / "ruler" / "niah_multikey_3_4096.jsonl.gz", "rt", encoding="utf-8") as file:
        examples = [json.loads(line) for line in file]
    (ours,) = make("niah_multikey_3", one_tokenizer, count=1)
    for example in examples:
        prompt, prefix = re.fullmatch(r"(?s)(.*\?)( The special magic .*)", example["input"]).groups()  # type: ignore[union-attr]
        (mark,) = (line for line in prompt.split("\n") if example["outputs"][0] in line)
        lines = prompt.split("\n")
        depth = (lines.index(mark) - 1) / (len(lines) - 3)
        row = {"prompt": prompt, "answer_prefix": prefix, "answers": example["outputs"], "marks": [mark]}
        check_niah({**row, "depth": depth}, UUID, UUID, "uuids", None)
        theirs, mine = (re.sub(UUID, "U", text) for text in (example["input"], ours["prompt"] + ours["answer_prefix"]))
        assert Counter(theirs.split("\n")).keys() == Counter(mine.split("\n")).keys()


def test_vt(one_tokenizer: PromptTokenizer) -> None:
    noise = niah_texts().noise
    start = task_texts("vt").template[:40]
    seen = set()
    for row in make("vt", one_tokenizer):
        assert row["prompt"].startswith(start)
        example, question = row["prompt"].split(f"\n\n{start}")
        question = start + question
        solved, answer = example.split(", they are: ")
        solved, _, _ = solved.partition(" Answer:")
        values = []
        for text, names, letters in ((solved, answer.split(), 3), (question, row["answers"], 5)):
            head, context = text.split("\n\n")
            *lines, last = context.split("\n")
            statements = [line for line in lines if line != noise]
            value = re.fullmatch(r"VAR (\w+) = (\d{5})", statements[0])
            assert value
            assert head.startswith("Memorize and track")
            assert last == f"Question: Find all variables that are assigned the value {value[2]} in the text above."
            copies = [f"VAR {new} = VAR {old} " for old, new in itertools.pairwise(names)]
            assert statements == [f"VAR {names[0]} = {value[2]}", *copies]
            assert len(set(names)) == 5
            assert all(re.fullmatch(f"[A-Z]{{{letters}}}", name) for name in names)
            values.append(value[2])
            if letters == 3:
                seen.add((len(lines), tuple(lines.index(line) for line in statements)))
                assert len(one_tokenizer.encode(text)) < 500
        assert values[0] != values[1]
        assert row["answer_prefix"].endswith(f"5 variables are assigned the value {values[1]}, they are: ")
    assert len(seen) == 1, "noise and places of the example are the same for all samples, names and values are not"


@pytest.mark.parametrize(("length", "repeats", "example"), [(2048, (6, 1), (20, 3, 1)), (4096, (30, 3), (40, 10, 3))])
def test_cwe(
    length: int, repeats: tuple[int, int], example: tuple[int, int, int], one_tokenizer: PromptTokenizer
) -> None:
    texts = task_texts("cwe")
    for row in make("cwe", one_tokenizer, length):
        assert row["answer_prefix"] == texts.answer_prefix
        solved, question = row["prompt"].split("\nBelow is")
        solved, answer = solved.split(texts.answer_prefix)
        counts = [Counter(listed(solved.split("\n")[1])), Counter(listed(question.split("\n")[1]))]
        for words, count, (often, seldom) in zip(
            (listed(answer.strip()), row["answers"]), counts, (example[1:], repeats), strict=True
        ):
            assert len(words) == 10
            assert {count[word] for word in words} == {often}
            assert {number for word, number in count.items() if word not in words} == {seldom}
        assert len(counts[0]) == example[0]


def listed(text: str) -> list[str]:
    """The words of "1. a 2. b ..."; fails unless the numbers run from 1."""
    numbers = [int(number) for number in re.findall(r"(?:^| )(\d+)\. ", text)]
    assert numbers == list(range(1, len(numbers) + 1))
    return re.split(r"(?:^| )\d+\. ", text)[1:]


@pytest.mark.parametrize("length", [1024, 4096])
def test_fwe(length: int, one_tokenizer: PromptTokenizer) -> None:
    for row in make("fwe", one_tokenizer, length):
        before, after = task_texts("fwe").template.split("{context}")
        assert row["prompt"].startswith(before)
        assert row["prompt"].endswith(after)
        words = row["prompt"][len(before) : -len(after)].split(" ")
        counts = Counter(words).most_common()
        assert counts[0][0] == "..."
        total = counts[0][1]
        # Ranks by zeta(2): the rank-k word occurs total // k^2 times.
        assert [count for _, count in counts] == sorted((count for _, count in counts), reverse=True)
        assert all(count == total // rank**2 for rank, (_, count) in enumerate(counts, 1))
        assert [word for word, _ in counts[1:4]] == row["answers"]
        assert counts[3][1] > counts[4][1]
        assert all(re.fullmatch("[a-z]{6}", word) for word, _ in counts[1:])
        assert len(counts) == min(length // 50, int(total**0.5))
        assert words != sorted(words, key=words.index), "shuffled"


def test_vt_with_a_tokenizer_of_characters() -> None:
    """No example fits 500 tokens then: it has the fewest noise lines, where upstream's search would never end."""
    letters = Tokenizer(models.BPE({chr(code): code - 9 for code in range(9, 127)}, [], unk_token="\t"))
    tokenizer = PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="\t"), name="letters")
    recipe = VtRecipe.make(tokenizer, "1", 0)
    assert recipe.example_size == VtDraw.smallest == 5
    (row,) = make("vt", tokenizer, 4096, 1)
    assert row["token_count"] == len(row["prompt"] + row["answer_prefix"]) + 30
