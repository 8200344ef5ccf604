from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lr2eval.method.rope.scaling import OriginalRope, RopeScaling, default_attention_factor
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
    # LLaMA3-8B 8k, Phi3-mini 2k and Phi-4-mini 4k, each to 128k.
    assert default_attention_factor(16, 8192) == pytest.approx(1.1435, abs=5e-5)
    assert default_attention_factor(64, 2048) == pytest.approx(1.2432, abs=5e-5)
    assert default_attention_factor(32, 4096) == pytest.approx(1.1902, abs=5e-5)
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
    with pytest.raises(ValueError, match=r"^long_factor has 3 numbers; a rotary dimension of 16 needs 8$"):
        RopeScaling.from_config(tiny_config("llama", longrope(long_factor=[1.0, 2.0, 3.0])))
    with pytest.raises(ValueError, match=r"^short_factor contains a factor that is not a positive number$"):
        RopeScaling.from_config(tiny_config("llama", longrope(short_factor=[0.0] * 8)))
    with pytest.raises(ValueError, match=r"^rope_type is 'default', not 'longrope'$"):
        RopeScaling.from_config(tiny_config("llama", {"rope_type": "default", "rope_theta": 1e4}))
    with pytest.raises(ValueError, match=r"^short_attention_factor is nan, not a positive number$"):
        RopeScaling.from_config(tiny_config("llama", longrope(attention_factor=math.nan)))


@st.composite
def scalings(draw: st.DrawFn) -> RopeScaling:
    pairs = draw(st.integers(1, 24))
    factor = st.floats(0.5, 200)
    factors = st.lists(factor, min_size=pairs, max_size=pairs).map(tuple)
    window = draw(st.integers(2, 1 << 20))
    attention = draw(st.floats(0.5, 3))
    return RopeScaling(
        long_factor=draw(factors),
        short_factor=draw(factors),
        long_attention_factor=attention,
        short_attention_factor=draw(st.sampled_from([attention, 1.0, 1.25])),
        original_window=window,
        target_window=draw(st.integers(window + 1, 1 << 24)),
        theta=draw(st.floats(1.5, 1e8)),
        rotary_dim=2 * pairs,
        provenance="drawn",
    )


@given(scalings())
def test_json_gives_back_the_same_numbers(scaling: RopeScaling) -> None:
    again = RopeScaling.from_json(json.loads(json.dumps(scaling.to_json())) | {"other": 1})
    assert again == scaling
    assert again.provenance == "drawn"


@given(scalings(), st.integers(0, 60))
def test_rope_parameters_give_back_the_same_numbers(scaling: RopeScaling, more: int) -> None:
    head_dim = scaling.rotary_dim + more
    rope = json.loads(json.dumps(scaling.rope_parameters(head_dim)))
    config = SimpleNamespace(
        rope_parameters=rope, max_position_embeddings=scaling.target_window, head_dim=head_dim, hidden_size=0
    )
    assert RopeScaling.from_config(config) == scaling
    assert ("partial_rotary_factor" in rope) == (more > 0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_reads_our_rope_parameters(architecture: str) -> None:
    scaling = RopeScaling.from_config(tiny_config(architecture, longrope(attention_factor=1.25)))
    again = tiny_config(architecture, scaling.rope_parameters(scaling.rotary_dim))
    assert RopeScaling.from_config(again) == scaling
    inv_freq, attention = ROPE_INIT_FUNCTIONS["longrope"](again, None, seq_len=ORIGINAL + 1)
    assert torch.equal(inv_freq, scaling.inv_freq("long"))
    assert attention == 1.25


def test_json_with_a_fault_is_named() -> None:
    value = RopeScaling.from_config(tiny_config("llama")).to_json()
    with pytest.raises(ValueError, match=r"^the field theta is missing$"):
        RopeScaling.from_json({key: item for key, item in value.items() if key != "theta"})
    with pytest.raises(ValueError, match=r"^the field long_factor contains something that is not a number$"):
        RopeScaling.from_json(value | {"long_factor": ["x"]})
    with pytest.raises(ValueError, match=r"^the field original_window contains something that is not a number$"):
        RopeScaling.from_json(value | {"original_window": None})


def test_numbers_no_rope_has_are_refused() -> None:
    for numbers, said in (((1e4, 7, 99), "dimension is 7"), ((1.0, 8, 99), "base is 1.0"), ((1e4, 8, 1), "1 tokens")):
        with pytest.raises(ValueError, match=said):
            OriginalRope(*numbers)
