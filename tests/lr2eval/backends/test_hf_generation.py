"""Generation against cache-free decoding of the same weights by stock transformers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from lr2eval.backends.hf import WindowedHFLM
from lr2eval.model.checkpoint import Checkpoint
from tests.lr2eval.backends.helpers import (
    Load,
    decoded,
    every_architecture,
    generation,
    prompts,
)
from tests.tiny_models import (
    LONG_FACTOR,
    ORIGINAL,
    longrope,
    save_checkpoint,
    tiny_model,
)


@every_architecture
def test_generation_across_the_window_equals_cache_free_decoding(load: Load, architecture: str) -> None:
    """20 of 20: prompts of different lengths in one call, each crossing ``Lt`` = 32 at its own step."""
    lm, stock = load(architecture), tiny_model(architecture)
    texts = prompts(lm, [18 + seed % 15 for seed in range(20)])
    answers = lm.generate_until([generation(text, 24) for text in texts])
    details = lm.take_details()
    equal = [answer == decoded(lm, stock, text, 24) for answer, text in zip(answers, texts, strict=True)]
    assert equal == [True] * 20
    assert {detail.window for detail in details} == {"short->long"}
    assert {detail.new_tokens for detail in details} == {24}


def test_a_row_that_is_padded_beyond_the_window_keeps_its_cache(load: Load) -> None:
    """Phi-3's own class would read it again. Each row is read once, and the longer one again across the window."""
    lm = load("phi3")
    widths: list[int] = []
    forward = lm.model.forward

    def counted(input_ids: Any, *rest: Any, **inputs: Any) -> Any:
        widths.append(input_ids.shape[1])
        return forward(input_ids, *rest, **inputs)

    lm.model.forward = counted
    lm.generate_until([generation(text, 8) for text in prompts(lm, [5, ORIGINAL - 1])])
    assert [width for width in widths if width > 1] == [ORIGINAL - 2, 4, ORIGINAL + 1]


@every_architecture
def test_every_side_of_the_window_in_one_call(load: Load, architecture: str) -> None:
    lm, stock = load(architecture), tiny_model(architecture)
    lengths = [5, ORIGINAL - 8, ORIGINAL - 7, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 90]
    texts = prompts(lm, lengths)
    answers = lm.generate_until([generation(text, 8) for text in texts])
    assert answers == [decoded(lm, stock, text, 8) for text in texts]
    details = lm.take_details()
    # A row of 24 or 25 tokens ends at 32 or 33: the last forward read at most 32 of them.
    expected = ["short", "short", "short", "short->long", "short->long", "long", "long"]
    assert [detail.window for detail in details] == expected
    assert [detail.prompt_tokens for detail in details] == lengths
    assert lm.take_details() == []


@every_architecture
@pytest.mark.parametrize("chunk", [7, 40])
def test_chunked_prefill_equals_whole_prefill(load: Load, architecture: str, chunk: int) -> None:
    lm, stock = load(architecture, prefill_chunk=chunk), tiny_model(architecture)
    texts = prompts(lm, [20, 30, ORIGINAL + 1, 70, 95])
    assert lm.generate_until([generation(text, 10) for text in texts]) == [
        decoded(lm, stock, text, 10) for text in texts
    ]


@every_architecture
def test_policy_budget_starts_long_when_the_answer_might_cross(load: Load, architecture: str) -> None:
    lm = load(architecture, window_policy="budget")
    stock, long = tiny_model(architecture), tiny_model(architecture, rope=longrope(short_factor=LONG_FACTOR))
    texts = prompts(lm, [10, ORIGINAL - 20, ORIGINAL - 19, 30, 60])
    answers = lm.generate_until([generation(text, 20) for text in texts])
    assert [detail.window for detail in lm.take_details()] == ["short", "short", "long", "long", "long"]
    assert answers == [decoded(lm, stock, text, 20) for text in texts[:2]] + [
        decoded(lm, long, text, 20) for text in texts[2:]
    ]


def test_models_with_one_rope_are_left_to_transformers(folder: Path) -> None:
    shutil.rmtree(folder)
    stock = tiny_model("llama", rope={"rope_type": "default", "rope_theta": 1e3})
    lm = WindowedHFLM(Checkpoint.open(save_checkpoint(folder, stock)), device="cpu")
    texts = prompts(lm, [10, 40])
    assert lm.generate_until([generation(text, 30) for text in texts]) == [decoded(lm, stock, t, 30) for t in texts]
    assert {detail.window for detail in lm.take_details()} == {"only"}
