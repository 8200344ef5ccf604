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
GOLDEN = {
    ("text", "single"): "1c33237f081d1f9b",
    ("text", "multi"): "48ab5cc7e65d255b",
    ("text", "distractor"): "1eec0637016536d6",
    # Older than the trained sentence splitter, which changes nothing in the demo's text.
    ("demo-filler", "single"): "88e405effa3adfa7",
    ("demo-filler", "multi"): "064b8cd71475cf7e",
    ("demo-filler", "distractor"): "783e0313755bf8c2",
}


@pytest.fixture(scope="module")
def bytewise() -> PromptTokenizer:
    """One token per byte: needs no training, so it is the same on every machine."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PromptTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer), name="bytes")


@pytest.mark.parametrize(("haystack", "variant"), GOLDEN)
def test_bytes_of_samples(
    haystack: str, variant: str, bytewise: PromptTokenizer, context: Callable[..., TaskContext], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    options = {"haystack": str(text) if haystack == "text" else haystack, "depths": 4, "samples_per_cell": 1}
    made = context(tokenizer=bytewise, lengths=(4096,), seed=7, options=options)
    (shard,) = NIAH.prepare([variant], made)
    data = (made.cache_dir / str(shard.data["file"])).read_bytes()
    assert hashlib.sha256(data).hexdigest()[:16] == GOLDEN[haystack, variant]
