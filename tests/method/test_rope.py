from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lr2eval.method.rope import RopeScaling, default_attention_factor
from tests.tiny_models import ARCHITECTURES, LONG_FACTOR, ORIGINAL, SHORT_FACTOR, WINDOW, longrope, tiny_config


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "rope",
    [{}, {"attention_factor": 1.0}, {"attention_factor": 1.3}, {"factor": 4.0}, {"factor": 0.5}],
    ids=lambda rope: str(rope) or "plain",
)
def test_equals_transformers_bit_by_bit(architecture: str, rope: dict[str, Any]) -> None:
    config = tiny_config(architecture, longrope(**rope))
    scaling = RopeScaling.from_config(config)
    stock = ROPE_INIT_FUNCTIONS["longrope"]
    for which, length in (("short", ORIGINAL), ("long", ORIGINAL + 1)):
        inv_freq, attention = stock(config, None, seq_len=length)
        assert torch.equal(scaling.inv_freq(which), inv_freq)
        assert scaling.attention_factor(which) == attention


def test_partial_rotary_dimension() -> None:
    half = longrope(short_factor=SHORT_FACTOR[:4], long_factor=LONG_FACTOR[:4], partial_rotary_factor=0.5)
    config = tiny_config("phi3", half)
    scaling = RopeScaling.from_config(config)
    assert scaling.rotary_dim == 8
    assert torch.equal(scaling.inv_freq("long"), ROPE_INIT_FUNCTIONS["longrope"](config, None, seq_len=99)[0])


def test_top_level_original_window_wins() -> None:
    config = tiny_config("llama", longrope(original_max_position_embeddings=64), original_max_position_embeddings=16)
    assert RopeScaling.from_config(config).original_window == 16


def test_default_attention_factor() -> None:
    # The paper's models: spec section 4.
    assert default_attention_factor(16, 8192) == pytest.approx(1.1435, abs=1e-4)
    assert default_attention_factor(1.0, 8192) == 1.0
    scaling = RopeScaling.from_config(tiny_config("llama"))
    assert scaling.long_attention_factor == math.sqrt(1 + math.log(WINDOW / ORIGINAL) / math.log(ORIGINAL))
    assert scaling.short_attention_factor == scaling.long_attention_factor


def test_own_keys_separate_the_attention_factors() -> None:
    rope = longrope(attention_factor=1.2, lr2eval_short_attention_factor=1.0)
    scaling = RopeScaling.from_config(tiny_config("llama", rope))
    assert (scaling.short_attention_factor, scaling.long_attention_factor) == (1.0, 1.2)
    rope = longrope(attention_factor=1.2, lr2eval_long_attention_factor=1.5)
    scaling = RopeScaling.from_config(tiny_config("llama", rope))
    assert (scaling.short_attention_factor, scaling.long_attention_factor) == (1.2, 1.5)


def test_is_one_value() -> None:
    first, second = (RopeScaling.from_config(tiny_config("qwen3")) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.theta = 1.0  # type: ignore[misc]


def test_wrong_factor_lists_are_named() -> None:
    with pytest.raises(ValueError, match=r"^long_factor has 3 numbers, a rotary dimension of 16 needs 8$"):
        RopeScaling.from_config(tiny_config("llama", longrope(long_factor=[1.0, 2.0, 3.0])))
    with pytest.raises(ValueError, match=r"^short_factor holds a factor that is not a positive number$"):
        RopeScaling.from_config(tiny_config("llama", longrope(short_factor=[0.0] * 8)))
    with pytest.raises(ValueError, match=r"^rope_type is 'default', not 'longrope'$"):
        RopeScaling.from_config(tiny_config("llama", {"rope_type": "default", "rope_theta": 1e4}))
