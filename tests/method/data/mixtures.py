"""What the tests of training data share: a tokenizer of one token a byte, and texts of chosen lengths."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lr2eval.model.tokenizer import PromptTokenizer

BOS, EOS = 0, 1


def byte_tokenizer(*, bos: bool = True, eos: bool = True) -> PromptTokenizer:
    """A text of n ASCII characters is n tokens, and BOS and EOS as asked."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": BOS, "</s>": EOS, **{symbol: i + 2 for i, symbol in enumerate(alphabet)}}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    ends = {"bos_token": "<s>" if bos else None, "eos_token": "</s>" if eos else None}
    return PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=made, **ends), name="bytes")


TOKENIZER = byte_tokenizer()


def text(number: int, tokens: int) -> str:
    """A text that is ``tokens`` tokens with BOS and EOS, and that no other number has."""
    words = f"{number} " + "".join(map(chr, np.random.default_rng(number).integers(97, 123, tokens)))
    return words[: tokens - 2]


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def corpus(path: Path, lengths: Sequence[int], begin: int = 0) -> Path:
    """JSONL with a document of each length (tokens with BOS and EOS)."""
    return write_jsonl(path, [{"text": text(begin + i, length)} for i, length in enumerate(lengths)])
