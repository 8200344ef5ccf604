"""The bytes of samples never change while the suite's version stays: data made earlier pairs with data made today."""

from __future__ import annotations

import hashlib
import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.haystacks import Haystack, filler
from lr2eval.tasks.ruler import generate
from lr2eval.tasks.ruler.outside import OUTSIDE
from lr2eval.tasks.ruler.suite import TASKS, RulerTask

GOLDEN = {
    "niah_single_1": "627b94625f57e00e",
    "niah_multikey_2": "2377447709f5f2f7",
    "niah_multikey_3": "7b082b1d48184479",
    "vt": "bdacd9675413516c",
    "cwe": "a1f188ff5dc14253",
    "fwe": "f1cc1ce7c256194d",
}
NVIDIA = {
    "cwe": "7a6f879332ca7b57",
    "fwe": "63b402a37d2c0ec4",
    "niah_multikey_1": "a0a8da2736246741",
    "niah_multivalue": "14fed38b6839827c",
    "niah_multiquery": "6ea9b295809b3c16",
}
ESSAYS = {
    "niah_single_2": "0c472250d465c9c7",
    "niah_single_3": "f087a5d2c225581a",
    "niah_multikey_1": "ad9a75e96f941220",
    "niah_multivalue": "7f9215763503eafd",
    "niah_multiquery": "131e6b5a3d1016a5",
}
FILLER = {"niah_single_2": "3781ea56d1bdc4f0", "niah_multiquery": "b7698f38219dd9c6"}
"""Older than the trained sentence splitter, which changes nothing in the demo's text."""
TEXT = "It was late. Nobody (so they said) had seen the boat; it was gone! Was it? Mr. Hale went home at 7 p.m. alone. "


@pytest.fixture(scope="module")
def bytewise() -> PromptTokenizer:
    """One token per byte: needs no training, so it is the same on every machine."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer), name="bytes")


def digest(task: RulerTask, tokenizer: PromptTokenizer) -> str:
    rows = list(generate.samples(task, 16_384, 3, 7, tokenizer))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


@pytest.mark.parametrize("task", GOLDEN)
def test_bytes_of_samples(task: str, bytewise: PromptTokenizer) -> None:
    assert digest(TASKS[task], bytewise) == GOLDEN[task]


@pytest.mark.parametrize("task", ESSAYS)
def test_bytes_of_samples_in_text(task: str, bytewise: PromptTokenizer) -> None:
    assert digest(OUTSIDE[task].over(Haystack("text", False, (TEXT,))), bytewise) == ESSAYS[task]


@pytest.mark.parametrize("task", FILLER)
def test_bytes_of_samples_in_the_demos_text(task: str, bytewise: PromptTokenizer) -> None:
    assert digest(OUTSIDE[task].over(Haystack(filler.NAME, False, filler.pieces())), bytewise) == FILLER[task]


@pytest.mark.parametrize("task", NVIDIA)
def test_bytes_of_samples_in_nvidias_order(task: str, bytewise: PromptTokenizer) -> None:
    made = TASKS[task] if task in TASKS else OUTSIDE[task].over(Haystack("text", False, (TEXT,)))
    assert digest(made.as_nvidia(), bytewise) == NVIDIA[task]
