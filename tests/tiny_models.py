"""Tiny random checkpoints with two RoPE windows, and the slow but certain way to decode them."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

ORIGINAL = 32
WINDOW = 256
PAIRS = 8
VOCABULARY = 320
EOS = 0
CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "phi3": (Phi3Config, Phi3ForCausalLM),
}
ARCHITECTURES = tuple(CLASSES)
SHORT_FACTOR = [1.0 + 0.05 * i for i in range(PAIRS)]
LONG_FACTOR = [1.5 + 0.9 * i for i in range(PAIRS)]
_WORDS = ("river", "stone", "lamp", "garden", "winter", "copper", "signal", "harbour", "quiet", "yellow", "seven")


def longrope(**changes: Any) -> dict[str, Any]:
    """``rope_parameters`` with distinct short and long factors."""
    return {
        "rope_type": "longrope",
        "rope_theta": 1000.0,
        "short_factor": SHORT_FACTOR,
        "long_factor": LONG_FACTOR,
        "original_max_position_embeddings": ORIGINAL,
        **changes,
    }


def tiny_config(architecture: str, rope: dict[str, Any] | None = None, **changes: Any) -> Any:
    """Two layers, four heads of 16 dimensions (two for keys and values), window 256, ``Lt`` 32."""
    if architecture != "phi3":
        changes.setdefault("head_dim", 2 * PAIRS)
    else:
        changes.setdefault("original_max_position_embeddings", ORIGINAL)
    if architecture == "mistral":
        changes.setdefault("sliding_window", None)
    return CLASSES[architecture][0](
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=WINDOW,
        initializer_range=0.3,  # sharp attention: a wrong angle anywhere changes the next token
        rope_parameters=rope if rope is not None else longrope(),
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=1,
        **changes,
    )


def tiny_model(architecture: str, seed: int = 0, **changes: Any) -> Any:
    """A random model as transformers makes it, but one that says plain ASCII and hardly ever EOS."""
    torch.manual_seed(seed)
    model = CLASSES[architecture][1](tiny_config(architecture, **changes)).eval()
    tokenizer = tiny_tokenizer()
    mute = [token for token in range(VOCABULARY) if token == EOS or not tokenizer.decode([token]).isascii()]
    model.lm_head.weight.data[mute] = 0.0
    return model


@lru_cache(maxsize=1)
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on a few words; ``<eos>`` is 0, ``<pad>`` is 1, no special token is added to a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(_WORDS)] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def save_checkpoint(folder: Path, model: Any) -> Path:
    """Model and tokenizer as a folder that loads like any real checkpoint."""
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def text_of(tokens: int, tokenizer: Any, seed: int = 0) -> str:
    """A text of exactly so many tokens."""
    chooser = random.Random(seed)
    ids: list[int] = []
    while len(ids) < tokens:
        ids = tokenizer.encode(tokenizer.decode(ids) + " " + chooser.choice(_WORDS))
    text: str = tokenizer.decode(ids[:tokens])
    assert len(tokenizer.encode(text)) == tokens
    return text


@torch.no_grad()
def cache_free(model: Any, prompt: list[int], new: int) -> list[int]:
    """Greedy decoding with one whole forward per token: stock transformers then picks the right window by itself."""
    ids = list(prompt)
    while len(ids) < len(prompt) + new:
        token = int(model(torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1].argmax())
        if token == EOS:
            break
        ids.append(token)
    return ids[len(prompt) :]


@torch.no_grad()
def cache_free_score(model: Any, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """(log-probability, greedy?) of a continuation from one forward of a stock model over this sequence alone."""
    logits = model(torch.tensor([context + continuation[:-1]]), use_cache=False).logits[0, -len(continuation) :]
    target = torch.tensor(continuation)
    picked = logits.log_softmax(-1).gather(1, target[:, None]).sum()
    return float(picked), bool((logits.argmax(-1) == target).all())
