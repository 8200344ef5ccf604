"""Tokenizers that need no download, and contexts over a temporary cache."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lr2eval.benchmark import TaskContext
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.ruler.words import common_words
from lr2eval.tasks.shared.upstream import niah_texts, task_texts

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def _corpus() -> list[str]:
    """English-looking lines with numbers and hexadecimal digits, so that both tokenizers have usual lengths."""
    rng = random.Random(0)
    words = ["the", "grass", "is", "green", "again", "special", "magic", "number", *common_words()[::2]]
    lines = [niah_texts().template, *(task_texts(task).template for task in ("vt", "cwe", "fwe"))] * 5
    for _ in range(2000):
        line = [rng.choice(words) for _ in range(12)]
        lines.append(f"{' '.join(line)} {rng.randint(10, 10**7)} {rng.getrandbits(64):x} {rng.choice(words).upper()}.")
    return lines


def _byte_level() -> PreTrainedTokenizerFast:
    """A byte-level BPE like GPT-2's or Llama 3's: no special token is added by itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=CHAT_TEMPLATE)


def _sentencepiece_like() -> PreTrainedTokenizerFast:
    """A unigram model over metaspaces like Llama 2's: adds BOS, and its counts are not additive over pieces.

    White space runs are collapsed, and a piece that stands alone gets a space in front which it lacks in its text.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    alphabet = sorted({*"".join(_corpus()), *map(chr, range(33, 127)), "▁"})
    trainer = trainers.UnigramTrainer(
        vocab_size=2000, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    # Like sentencepiece it does not split at spaces; training that way would take ten times as long.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template="<s>" + CHAT_TEMPLATE,
    )


TOKENIZERS = {"byte-level": _byte_level, "sentencepiece-like": _sentencepiece_like}


@pytest.fixture(scope="session")
def trained() -> dict[str, PreTrainedTokenizerFast]:
    """Two tokenizers of different kinds, trained here."""
    return {name: train() for name, train in TOKENIZERS.items()}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest, trained: dict[str, Any]) -> PromptTokenizer:
    """Each of the tokenizers in turn, without chat template."""
    return PromptTokenizer(trained[request.param], name=request.param)


@pytest.fixture
def one_tokenizer(trained: dict[str, Any]) -> PromptTokenizer:
    """The byte-level tokenizer, where one is enough."""
    return PromptTokenizer(trained["byte-level"], name="byte-level")


@pytest.fixture
def context(tmp_path: Path, one_tokenizer: PromptTokenizer) -> Callable[..., TaskContext]:
    """Makes task contexts: three samples of 2048 tokens, seed 0, a cache of the test's own."""

    def make(**changes: Any) -> TaskContext:
        return TaskContext(
            **{
                "tokenizer": one_tokenizer,
                "lengths": (2048,),
                "samples_per_task": 3,
                "seed": 0,
                "cache_dir": tmp_path / "cache",
                **changes,
            }
        )

    return make
