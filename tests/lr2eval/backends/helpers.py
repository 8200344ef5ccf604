"""What the tests of the Hugging Face backend share: requests, texts, and a memory that runs out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from lr2eval.backends.hf import WindowedHFLM
from tests.tiny_models import (
    ARCHITECTURES,
    cache_free,
    text_of,
)

Load = Callable[..., WindowedHFLM]
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def generation(prompt: str, new: int, **kwargs: Any) -> Instance:
    return Instance("generate_until", {}, (prompt, {"until": [], "max_gen_toks": new, **kwargs}), 0)


def choice(context: str, continuation: str) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0)


def prompts(lm: WindowedHFLM, lengths: Sequence[int]) -> list[str]:
    return [text_of(length, lm.tokenizer, seed) for seed, length in enumerate(lengths)]


def decoded(lm: WindowedHFLM, model: Any, prompt: str, new: int) -> str:
    """What cache-free decoding answers, as text."""
    text: str = lm.tok_decode(cache_free(model, lm.tok_encode(prompt), new))
    return text


def assert_scores(got: Sequence[tuple[float, bool]], expected: Sequence[tuple[float, bool]]) -> None:
    for (value, greedy), (wanted, wanted_greedy) in zip(got, expected, strict=True):
        assert value == pytest.approx(wanted, abs=2e-4)
        assert greedy == wanted_greedy


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


def limit_forward(lm: WindowedHFLM, monkeypatch: pytest.MonkeyPatch, tokens: int) -> list[tuple[int, int]]:
    """Let every forward over more than so many tokens run out of memory; returns the shapes that passed."""
    forward, passed = lm.model.forward, []

    @functools.wraps(forward)  # generate looks at the signature before it makes position ids
    def limited(input_ids: torch.Tensor | None = None, **rest: Any) -> Any:
        assert input_ids is not None
        if input_ids.numel() > tokens:
            raise torch.OutOfMemoryError("out of memory")
        passed.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(lm.model, "forward", limited)
    return passed
