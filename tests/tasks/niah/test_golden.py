"""The bytes of samples never change while the version stays: data made earlier pairs with data made today."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lr2eval.benchmark import TaskContext
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.niah import NIAH

TEXT = "It was late. Nobody (so they said) had seen the boat; it was gone! Was it? Mr. Hale went home at 7 p.m. alone. "
GOLDEN = {"single": "a6c8434729aa52d1", "multi": "7b00d905310a5d5b", "distractor": "95034837a7c2bc90"}


@pytest.fixture(scope="module")
def bytewise() -> PromptTokenizer:
    """One token per byte: needs no training, so it is the same on every machine."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer), name="bytes")


@pytest.mark.parametrize("variant", GOLDEN)
def test_bytes_of_samples(
    variant: str, bytewise: PromptTokenizer, context: Callable[..., TaskContext], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    options = {"haystack": str(text), "depths": 4, "samples_per_cell": 1}
    made = context(tokenizer=bytewise, lengths=(4096,), seed=7, options=options)
    (shard,) = NIAH.prepare([variant], made)
    data = (made.cache_dir / str(shard.data["file"])).read_bytes()
    assert hashlib.sha256(data).hexdigest()[:16] == GOLDEN[variant]
