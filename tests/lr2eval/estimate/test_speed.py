from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config

from lr2eval.estimate import cost
from lr2eval.estimate.cost import STAND_IN, VOCABULARY, calibrate, kv_bytes, read_weights
from lr2eval.model.shape import config_shape, layer_parameters


def small(**changes: Any) -> LlamaConfig:
    given = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
             "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 512}  # fmt: skip
    return LlamaConfig(**(given | changes))


def test_every_speed_is_measured_and_no_random_state_is_spent() -> None:
    state = torch.random.get_rng_state()
    speed = calibrate(small(), "float32", "cpu", longest=300, rows=3)
    assert speed.matrix > 1e6
    assert speed.attention > 1e6
    assert 0 < speed.step < 1
    assert speed.row >= 0
    assert speed.context >= 0
    assert torch.equal(torch.random.get_rng_state(), state)


def test_steps_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of a known cost a step, a row and a cached token give these back, for the whole model's layers."""
    monkeypatch.setattr(cost, "_attention", lambda *_: 1.0)
    monkeypatch.setattr(cost, "_prefill", lambda *_: 2.0)
    monkeypatch.setattr(
        cost, "_step", lambda model, shape, kind, device, rows, cached: 0.3 + rows * (0.02 + 1e-4 * cached)
    )
    speed = calibrate(small(), "float32", "cpu", longest=400, rows=5)
    assert (speed.matrix, speed.attention) == (2.0, 1.0)
    assert speed.step == pytest.approx(0.3)
    assert speed.row == pytest.approx(0.02 + 16e-4)  # with the 16 tokens that were there
    assert speed.context == pytest.approx(1e-4)
    monkeypatch.setattr(cost, "STAND_IN", 1)
    one = calibrate(small(), "float32", "cpu", longest=400, rows=5)
    shape = config_shape(small())
    more = read_weights(shape) / (layer_parameters(shape) + 300 * 32)
    assert one.step == pytest.approx(0.3 * more)
    assert one.context == pytest.approx(1e-4 * 4)


def test_the_stand_in_of_a_large_model_is_small_and_has_its_layers() -> None:
    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, pad_token_id=128255,
    )  # fmt: skip
    whole = config_shape(config)
    made, shape = cost._smaller(config, whole, 2)
    assert (shape.layers, shape.vocabulary) == (1, VOCABULARY)
    assert (layer_parameters(shape), kv_bytes(shape, 2) * 32) == (layer_parameters(whole), kv_bytes(whole, 2))
    assert (config.num_hidden_layers, config.vocab_size, made.pad_token_id) == (32, 128256, None)
    medium = LlamaConfig(vocab_size=1000, hidden_size=1024, intermediate_size=4096, num_hidden_layers=40,
                         num_attention_heads=8)  # fmt: skip
    shape = cost._smaller(medium, config_shape(medium), 2)[1]
    assert 1 < shape.layers < 40
    assert 0.9 * STAND_IN < 2 * read_weights(shape) <= STAND_IN


def test_layers_of_several_kinds_are_cut_with_their_list() -> None:
    config = Qwen2Config(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, use_sliding_window=True, max_window_layers=2, sliding_window=64,
    )  # fmt: skip
    made, shape = cost._smaller(config, config_shape(config), 10**6)
    assert (shape.layers, made.layer_types) == (1, config.layer_types[:1])
