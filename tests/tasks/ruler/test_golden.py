"""The bytes of samples never change while the suite's version stays: data made earlier pairs with data made today."""

from __future__ import annotations

import hashlib
import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.ruler import generate
from lr2eval.tasks.ruler.suite import TASKS

GOLDEN = {
    "niah_single_1": "627b94625f57e00e",
    "niah_multikey_2": "2377447709f5f2f7",
    "niah_multikey_3": "7b082b1d48184479",
    "vt": "bdacd9675413516c",
    "cwe": "a1f188ff5dc14253",
    "fwe": "f1cc1ce7c256194d",
}


@pytest.fixture(scope="module")
def bytewise() -> PromptTokenizer:
    """One token per byte: needs no training, so it is the same on every machine."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer), name="bytes")


@pytest.mark.parametrize("task", GOLDEN)
def test_bytes_of_samples(task: str, bytewise: PromptTokenizer) -> None:
    rows = list(generate.samples(TASKS[task], 16_384, 3, 7, bytewise))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == GOLDEN[task]
