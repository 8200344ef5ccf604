"""Counting by words equals tokenising, for every kind of tokenizer it claims, and claims nothing it cannot prove."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact import counting, cuts

GPT2, LLAMA3, QWEN2 = sorted(cuts.KNOWN_PATTERNS, key=lambda pattern: (pattern.startswith("("), len(pattern)))
TEXTS = (
    "The grass is green. Here we go!\nOne of the special magic numbers for hazy-apple is: 1234567.\n\nWhat's 12. it? "
    "'ll x's We'RE  two   spaces \n newline\t tab VAR ABC = 12345 \nThe ÄÖ ﬁ e\u0301 \u0301 日本 ... ..! a1b2-c3 \r\n"
)
ALPHABET = " \n\t\r\u00a0\u180e\u3000'.,!-_aAbs1lLtedZ9\u0301é▁日½\u200b"
words = st.lists(st.sampled_from([*TEXTS.split(" "), "", "\n", "\n\n", " ", "'s", "a", "9", "<x>"]), max_size=30)
texts = st.one_of(st.text(ALPHABET, max_size=60), words.map(" ".join), words.map("\n".join))


def _trained(model: Any, trainer: Any, pre: Any, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator([TEXTS] * 3, trainer)
    return tokenizer


def _bpe(pre: Any, normalizer: Any = None) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    return _trained(models.BPE(), trainer, pre, normalizer)


def _split(pattern: str) -> Any:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


def _wordpiece() -> Tokenizer:
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    tokenizer = _trained(
        models.WordPiece(unk_token="[UNK]"), trainer, pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer()
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    return tokenizer


def _whole_text_bpe(pre: Any) -> Tokenizer:
    """Like Llama 2's: trained on words, used on whole texts."""
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False, min_frequency=1)
    tokenizer = _trained(models.BPE(unk_token="<unk>", fuse_unk=True), trainer, pre_tokenizers.Metaspace())
    if pre is None:
        tokenizer.normalizer = normalizers.Replace(" ", cuts.SPACE)
        tokenizer.pre_tokenizer = None
    else:
        tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _unigram() -> Tokenizer:
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    return _trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), normalizers.Replace(Regex(r"\s+"), " "))


byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
ADDITIVE = {
    "gpt2": lambda: _bpe(byte_level),
    "gpt2-nfkc": lambda: _bpe(byte_level, normalizers.NFKC()),
    "smollm": lambda: _bpe(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])),
    "digit-runs": lambda: _bpe(pre_tokenizers.Sequence([pre_tokenizers.Digits(), byte_level])),
    "punctuation": lambda: _bpe(pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), byte_level])),
    "llama3": lambda: _bpe(_split(LLAMA3)),
    "qwen2": lambda: _bpe(_split(QWEN2), normalizers.NFC()),
    "gpt2-split": lambda: _bpe(_split(GPT2)),
    "bert": _wordpiece,
    "llama2": lambda: _whole_text_bpe(pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "gemma": lambda: _whole_text_bpe(None),
    "unigram-by-words": _unigram,
}
made: dict[str, PromptTokenizer] = {}


def additive(name: str) -> PromptTokenizer:
    if name not in made:
        made[name] = PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=ADDITIVE[name]()), name=name)
    return made[name]


@pytest.mark.parametrize("name", ADDITIVE)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_counts_are_those_of_the_tokenizer(name: str, data: st.DataObject) -> None:
    tokenizer = additive(name)
    counter = counting.counting(tokenizer)
    assert counter.additive
    prompt, prefix = data.draw(texts), data.draw(texts)
    assert counter.count_prompt(prompt, prefix) == tokenizer.count_prompt(prompt, prefix)


@pytest.mark.parametrize("name", ADDITIVE)
@settings(max_examples=60, deadline=None)
@given(before=texts, after=texts, first=texts, second=texts, times=st.integers(1, 4))
def test_a_changed_stretch(name: str, before: str, after: str, first: str, second: str, times: int) -> None:
    """The same text with another middle, counted from the last one: what a search for a size asks for."""
    tokenizer = additive(name)
    counter = counting.counting(tokenizer)
    for middle in (first, second, "", f" {first}", f"{second} "):
        text = f"{before * times} x{middle}x {after * times}"
        assert counter.count_prompt(text) == tokenizer.count_prompt(text)


LINES = ("e\t f\ng h", "e f\n g h", "e\u180e f\ng\u180e h", "e f g\n\nh\ni j")
sentences = st.lists(
    st.sampled_from([*TEXTS.split(". "), "a b c d", "e f g\nh i", "a  b c ", " a b\n", "", "\n", *LINES])
)


@pytest.mark.parametrize("name", ADDITIVE)
@pytest.mark.parametrize("longest", [3, 1000])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=sentences, second=sentences)
def test_sentences(
    name: str, longest: int, first: list[str], second: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentences that were met before, that repeat, that span lines, and those too long to be remembered."""
    monkeypatch.setattr(counting, "LONGEST", longest)
    tokenizer = additive(name)
    counter = counting.CountingTokenizer(tokenizer)
    for each in (first, [*first, *second, *first], second):
        text = ". ".join(each)
        assert counter.count_prompt(text) == tokenizer.count_prompt(text)


@pytest.mark.parametrize("limit", [0, 5])
def test_forgetting(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MEMO_LIMIT", limit)
    tokenizer = additive("gpt2")
    counter = counting.CountingTokenizer(tokenizer)
    for text in (TEXTS, "One two three. Four five six. One two three. It is.", f"{TEXTS}. {TEXTS}. Four five six."):
        assert counter.count_prompt(text) == tokenizer.count_prompt(text)


PIECES = ("gpt2", "gpt2-nfkc", "smollm", "digit-runs", "llama3", "qwen2", "gpt2-split")


@pytest.mark.parametrize("name", PIECES)
@settings(max_examples=80, deadline=None)
@given(word=st.from_regex(cuts.PLAIN))
def test_a_word_is_the_sum_of_its_pieces(name: str, word: str) -> None:
    tokenizer = additive(name)
    pattern = cuts.pieces(json.loads(tokenizer.tokenizer.backend_tokenizer.to_str()))
    assert pattern is not None
    found = pattern.findall(f" {word}")
    assert "".join(found) == f" {word}"
    assert sum(map(len, map(tokenizer.encode, found))) == len(tokenizer.encode(f" {word}"))


@pytest.mark.parametrize("name", ["gpt2", "llama3"])
def test_fresh_numbers_and_pairs_have_parts_met_before(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = counting.CountingTokenizer(additive(name))
    counter.count_prompt("x hazy-apple 123456 blue-tree.\nOne")
    asked: list[str] = []
    monkeypatch.setattr(counter, "_encoded", lambda texts: asked.extend(texts) or [1] * len(texts))
    counter.count_prompt("x hazy-tree.\nOne blue-apple")
    assert asked == ["x"]


@pytest.mark.parametrize("name", ["bert", "llama2", "gemma", "unigram-by-words", "punctuation"])
def test_other_words_are_not_cut(name: str) -> None:
    assert cuts.pieces(json.loads(additive(name).tokenizer.backend_tokenizer.to_str())) is None


def test_cuts_within_words_are_claimed_with_care() -> None:
    state = json.loads(additive("gpt2-split").tokenizer.backend_tokenizer.to_str())
    alone = {**state, "model": {"type": "BPE", "vocab": {"1": 0, "\u0120a": 1}}}
    for vocabulary, digits in (({}, "[0-9])"), ({"12": 2}, "[0-9]+)"), ({"\u01201": 2}, "[0-9]+)")):
        alone["model"]["vocab"] = {"1": 0, "a": 1, **vocabulary}
        found = cuts.pieces(alone)
        assert found is not None
        assert digits in found.pattern
    assert cuts.pieces({**state, "added_tokens": [{"content": "<x>"}]}) is not None
    assert cuts.pieces({**state, "added_tokens": [{"content": "a-b"}]}) is None
    assert cuts.pieces({**state, "pre_tokenizer": {"type": "ByteLevel", "use_regex": False}}) is None


@pytest.mark.parametrize("name", ["gpt2", "llama3", "qwen2", "gpt2-split", "smollm", "digit-runs"])
@settings(max_examples=80, deadline=None)
@given(text=st.text(" \n'.,:-!sStlaAb19", max_size=60))
def test_words_of_letters_digits_and_marks(name: str, text: str) -> None:
    tokenizer = additive(name)
    assert counting.counting(tokenizer).count_prompt(text) == tokenizer.count_prompt(text)


def test_added_tokens_inside_words() -> None:
    tokenizer = PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=ADDITIVE["gpt2"]()), name="added")
    tokenizer.tokenizer.add_tokens(["een", "<x>"])
    counter = counting.counting(tokenizer)
    assert counter.additive
    for text in (TEXTS, "green <x>green<x> 1<x>"):
        assert counter.count_prompt(text) == tokenizer.count_prompt(text)


@pytest.mark.parametrize("name", ADDITIVE)
@settings(max_examples=30, deadline=None)
@given(lines=st.lists(st.sampled_from(["a line. Of words", "", " ", "one", "VAR X = 1 ", " x", "x"]), max_size=40))
def test_repeated_lines(name: str, lines: list[str]) -> None:
    tokenizer = additive(name)
    text = "\n".join(sorted(lines))
    assert counting.counting(tokenizer).count_prompt(text) == tokenizer.count_prompt(text)


def test_special_tokens_and_chat(trained: dict[str, Any]) -> None:
    for tokenizer in trained.values():
        for chat in (False, True):
            plain = PromptTokenizer(tokenizer, chat=chat)
            for text in (TEXTS, f"<|end|>{TEXTS}<|end|>", f"<s>{TEXTS}", ""):
                assert counting.counting(plain).count_prompt(text, " a prefix") == plain.count_prompt(text, " a prefix")


def _changed(name: str, change: Any) -> bool:
    state = json.loads(additive(name).tokenizer.backend_tokenizer.to_str())
    assert cuts.cuts_before_spaces(state)
    change(state)
    return cuts.cuts_before_spaces(state)


def _token(**changes: Any) -> Any:
    flags = {"content": "<x>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return lambda state: state["added_tokens"].append({**flags, **changes})


@pytest.mark.parametrize(
    ("name", "change", "still"),
    [
        ("gpt2", _token(), True),
        ("gpt2", _token(content="a"), True),
        ("gpt2", _token(lstrip=True), True),
        ("gpt2", _token(rstrip=True), False),
        ("gpt2", _token(content="a b"), False),
        ("gpt2", _token(content="\n\n"), False),
        ("gpt2", _token(content="a▁"), False),
        ("gpt2", lambda state: state.update(truncation={"max_length": 5}), False),
        ("gpt2", lambda state: state.update(padding={"length": 5}), False),
        ("gpt2", lambda state: state.update(normalizer={"type": "Strip"}), False),
        ("gpt2", lambda state: state.update(normalizer={"type": "StripAccents"}), False),
        ("gpt2", lambda state: state.update(pre_tokenizer=None), False),
        ("gpt2", lambda state: state["pre_tokenizer"].update(add_prefix_space=True), False),
        ("gpt2", lambda state: state["pre_tokenizer"].update(use_regex=False), False),
        ("gpt2", lambda state: state["model"].update(dropout=0.1), False),
        ("gpt2", lambda state: state.update(post_processor={"type": "Custom"}), False),
        ("llama3", lambda state: state["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=".+"), False),
        ("llama3", lambda state: state["pre_tokenizer"]["pretokenizers"][0].update(behavior="MergedWithNext"), False),
        ("llama2", lambda state: state["model"]["vocab"].update({"a▁b": 999}), False),
        ("llama2", lambda state: state["model"]["vocab"].update({"▁▁b": 999}), True),
        ("llama2", lambda state: state["model"].update(ignore_merges=True), False),
        ("llama2", lambda state: state.update(normalizer={"type": "Prepend", "prepend": "▁"}), False),
        ("unigram-by-words", lambda state: state["pre_tokenizer"].update(split=False), False),
    ],
)
def test_what_is_claimed(name: str, change: Any, still: bool) -> None:
    assert _changed(name, change) is still


def test_a_wrong_claim_is_noticed(monkeypatch: pytest.MonkeyPatch, trained: dict[str, Any]) -> None:
    """A tokenizer that is not additive after all is found out on a real prompt and counted whole from then on."""
    monkeypatch.setattr(counting, "cuts_before_spaces", lambda state: True)
    plain = PromptTokenizer(trained["sentencepiece-like"], name="claimed")
    counter = counting.CountingTokenizer(plain)
    text = "word  word " * 3
    monkeypatch.setattr(counter, "_special", 5)
    assert not counter.verified(text, "")
    assert counter.count_prompt(text) == plain.count_prompt(text)


@pytest.mark.shared_data
def test_real_essays(shared_data: Path, trained: dict[str, Any]) -> None:
    plain = PromptTokenizer(trained["byte-level"], name="byte-level")
    for path in sorted(shared_data.glob("paul_graham/**/*.txt"))[:10]:
        text = path.read_text(encoding="utf-8")
        assert counting.counting(plain).count_prompt(text) == plain.count_prompt(text)
