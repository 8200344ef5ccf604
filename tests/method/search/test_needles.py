from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lr2eval.errors import UsageError
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.search.needles import TokenText, Wording, make_samples
from lr2eval.model.tokenizer import PromptTokenizer

SENTENCES = [f"Line {number} tells of the {word} river." for number in range(40) for word in ("slow", "cold", "wide")]


def byte_tokenizer(*, bos: bool = True) -> PromptTokenizer:
    """One token a byte, with or without ``<s>`` in front."""
    vocabulary = {"<s>": 0, **{c: i + 1 for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
        )
    return PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>" if bos else None))


TOKENIZER = byte_tokenizer()
TEXT = TokenText("lines", [SENTENCES], TOKENIZER)


def asked(length: int, **settings: Any) -> SearchConfig:
    return SearchConfig(model="m", target_length=length, **settings)


def decoded(ids: Any) -> str:
    return str(TOKENIZER.tokenizer.decode(list(ids), skip_special_tokens=True))


@given(
    length=st.integers(900, 6000),
    needles=st.integers(1, 3),
    distractors=st.integers(0, 3),
    depths=st.sampled_from(["start", "grid"]),
    seed=st.integers(0, 5),
    number=st.integers(0, 12),
)
def test_exactly_the_length_and_only_the_answers(
    length: int, needles: int, distractors: int, depths: Any, seed: int, number: int
) -> None:
    config = asked(length, depths=depths, needles=needles, distractors=distractors, repeat=True, seed=seed)
    (sample,) = make_samples(TEXT, TOKENIZER, config, Wording(), 1, first=number)
    assert len(sample.ids) == length
    assert sample.ids[0] == 0
    assert sample.ids.count(0) == 1
    assert decoded(sample.ids[place] for place in sample.scored) == "".join(f" {value}" for value in sample.answers)
    text = decoded(sample.ids)
    for value in sample.answers:
        assert text.count(value) == 2, "once in its needle, once as the answer"
    assert text.count("the locker number of") == needles + distractors
    assert text.endswith(sample.answers[-1])
    assert make_samples(TEXT, TOKENIZER, config, Wording(), 1, first=number) == [sample]


def test_needles_at_the_start_or_over_a_grid() -> None:
    config = asked(4000, repeat=True)
    assert [each.depths for each in make_samples(TEXT, TOKENIZER, config, Wording(), 4)] == [(0.0,)] * 4
    grid = make_samples(TEXT, TOKENIZER, config.model_copy(update={"depths": "grid"}), Wording(), 4)
    for number, sample in enumerate(grid):
        assert sample.depths[0] == pytest.approx(number / 4, abs=40 / 4000)
        text = decoded(sample.ids)
        before = text[: text.index("Keep in mind that")].rstrip()
        assert before.endswith((".", "end."))
    # Held-out samples have the same depths and other contents.
    held = make_samples(TEXT, TOKENIZER, config.model_copy(update={"depths": "grid"}), Wording(), 4, first=4)
    assert [round(s.depths[0], 1) for s in held] == [round(s.depths[0], 1) for s in grid]
    assert not {s.answers for s in held} & {s.answers for s in grid}


def test_several_asked_needles_spread_over_the_grid() -> None:
    config = asked(6000, depths="grid", needles=3, repeat=True)
    depths = sorted(depth for each in make_samples(TEXT, TOKENIZER, config, Wording(), 2) for depth in each.depths)
    assert depths == pytest.approx([i / 6 for i in range(6)], abs=40 / 5000)


def test_seed_and_number_change_keys_and_text() -> None:
    config = asked(2000, repeat=True)
    found = [
        s.sha256
        for seed in (0, 1)
        for s in make_samples(TEXT, TOKENIZER, config.model_copy(update={"seed": seed}), Wording(), 5)
    ]
    assert len(set(found)) == 10
    # More samples change none before.
    assert [s.sha256 for s in make_samples(TEXT, TOKENIZER, config, Wording(), 2)] == found[:2]


def test_each_sample_takes_another_book_as_long_as_there_are_any() -> None:
    books = TokenText("books", [[f"Book {letter} page {n}." for n in range(90)] for letter in "ABCDE"], TOKENIZER)
    samples = make_samples(books, TOKENIZER, asked(1200, repeat=True), Wording(), 5)
    first = [decoded(s.ids).split("Book ")[1][0] for s in samples]
    assert sorted(first) == list("ABCDE")


def test_a_short_haystack_is_refused_or_repeated_as_chosen() -> None:
    short = TokenText("note", [SENTENCES[:10]], TOKENIZER)
    with pytest.raises(UsageError, match=r"haystack note: has 3\d\d tokens, but a sample of 2,000 needs .*--repeat"):
        make_samples(short, TOKENIZER, asked(2000), Wording(), 1)
    (sample,) = make_samples(short, TOKENIZER, asked(2000, repeat=True), Wording(), 1)
    assert decoded(sample.ids).count("Line 1 tells of the slow river.") > 3
    # Long enough: nothing is repeated without leave, wherever samples begin.
    for sample in make_samples(TEXT, TOKENIZER, asked(len(TEXT.ids)), Wording(), 5):
        text = decoded(sample.ids)
        assert all(text.count(sentence) <= 1 for sentence in SENTENCES)


def test_no_room_is_an_error() -> None:
    with pytest.raises(UsageError, match="no room for a haystack"):
        make_samples(TEXT, TOKENIZER, asked(200, repeat=True), Wording(), 1)
    with pytest.raises(UsageError, match="contains no words"):
        TokenText("empty", [[]], TOKENIZER)


def test_without_a_bos_there_is_none() -> None:
    bare = byte_tokenizer(bos=False)
    text = TokenText("lines", [SENTENCES], bare)
    (sample,) = make_samples(text, bare, asked(1500), Wording(), 1)
    assert len(sample.ids) == 1500
    assert sample.ids[0] != 0


def test_wording_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "wording.json"
    file.write_text(json.dumps({"needle": " {key}={value}", "stem": " {key}=", "answer": "{value}", "values": ["xy"]}))
    wording = Wording.read(file)
    (sample,) = make_samples(TEXT, TOKENIZER, asked(1500), wording, 1)
    assert decoded(sample.ids[place] for place in sample.scored) == "xy"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"needles": ""}', "needles: unknown option; did you mean needle"),
        ('{"needle": "{key} only"}', "needle must hold"),
        ('{"stem": "it is {value}"}', "must not give the value away"),
        ('{"needle": "{key} {value} {more}"}', "needle must hold"),
        ('{"keys": []}', "keys is empty"),
        ('{"keys": "ab"}', "keys must be a list"),
        ('{"stem": 3}', "stem must be a text"),
    ],
)
def test_a_wrong_wording_is_named(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "wording.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=said):
        Wording.read(file)


def test_more_needles_than_keys_or_values() -> None:
    few = Wording(keys=("a", "b"), values=("1",))
    with pytest.raises(UsageError, match="needles: 3 are asked for, but the wording has only 2 keys"):
        make_samples(TEXT, TOKENIZER, asked(1500, needles=2, distractors=1), few, 1)
    with pytest.raises(UsageError, match="needles: 2 are asked for, but the wording has only 1 values"):
        make_samples(TEXT, TOKENIZER, asked(1500, needles=2), few, 1)
