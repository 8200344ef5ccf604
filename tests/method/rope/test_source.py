"""Reading a model's RoPE from config.json, against what transformers makes of the same file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from lr2eval.errors import CheckpointError, UsageError
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.rope.source import ModelRope
from tests.method import published
from tests.tiny_models import ARCHITECTURES, ORIGINAL, WINDOW, longrope, tiny_config

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "rope_theta": 5e5,
}


def _read(tmp_path: Path, config: dict[str, Any]) -> ModelRope:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return ModelRope.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "kind", "original"),
    [
        ({}, "default", 4096),
        ({"rope_scaling": None}, "default", 4096),
        ({"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "default", 4096),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic", 4096),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear", None),
        ({"rope_scaling": {"rope_type": "llama3", "original_max_position_embeddings": 512, "factor": 8.0,
                           "low_freq_factor": 1.0, "high_freq_factor": 4.0}}, "llama3", 512),
        # As Qwen2.5 has it: the window is still the original one, and stated.
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}}, "yarn", 4096),
    ],
)  # fmt: skip
def test_kinds_and_original_windows(tmp_path: Path, change: dict[str, Any], kind: str, original: int | None) -> None:
    found = _read(tmp_path, {**LLAMA, **change})
    assert (found.kind, found.original_window, found.theta, found.window) == (kind, original, 5e5, 4096)
    if original is not None:
        assert found.original(from_original=True) == OriginalRope(5e5, 16, original)
    if kind == "default":
        assert found.original() == OriginalRope(5e5, 16, 4096)
        return
    with pytest.raises(
        UsageError, match=rf"already rescaled \({kind}.*add --from-original to start from its original window$"
    ):
        found.original()
    if original is None:
        with pytest.raises(UsageError, match=r"does not state the window before linear rescaling"):
            found.original(from_original=True)


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}, (10000.0, 16, 16, 2048)),
        ({"model_type": "gpt_neox", "hidden_size": 64, "num_attention_heads": 4, "rotary_pct": 0.25,
          "max_position_embeddings": 128}, (10000.0, 16, 4, 128)),
        ({"model_type": "qwen2_5_vl", "text_config": {"rope_theta": 1e6, "hidden_size": 256, "num_attention_heads": 2,
          "num_key_value_heads": 2, "max_position_embeddings": 64}}, (1e6, 128, 128, 64)),
        ({"model_type": "glm", "head_dim": 128, "hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2,
          "max_position_embeddings": 64}, (1e4, 128, 64, 64)),
        ({"model_type": "deepseek_v3", "qk_rope_head_dim": 8, "hidden_size": 64, "num_attention_heads": 4,
          "num_hidden_layers": 2, "max_position_embeddings": 64}, (1e4, 8, 8, 64)),
    ],
)  # fmt: skip
def test_what_a_configuration_leaves_out(tmp_path: Path, config: dict[str, Any], wanted: tuple[Any, ...]) -> None:
    found = _read(tmp_path, config)
    assert (found.theta, found.head_dim, found.rotary_dim, found.window) == wanted


@pytest.mark.parametrize("config", [published.llama3_config(), published.phi4_mini_config()])
def test_published_checkpoints(tmp_path: Path, config: dict[str, Any]) -> None:
    found = _read(tmp_path, config)
    own = found.own()
    assert own is not None
    assert own == RopeScaling.from_config(AutoConfig.from_pretrained(tmp_path))
    assert own.original == {128: published.LLAMA3, 96: published.PHI4_MINI}[own.rotary_dim]
    assert found.head_dim == 128


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_own_factors_are_those_transformers_uses(tmp_path: Path, architecture: str) -> None:
    config = tiny_config(architecture, longrope(attention_factor=1.25, lr2eval_short_attention_factor=1.0))
    config.save_pretrained(tmp_path)
    found = ModelRope.read(tmp_path)
    assert found.own() == RopeScaling.from_config(config)
    assert (found.original_window, found.window, found.config.is_rescaled) == (ORIGINAL, WINDOW, True)


def test_first_phi3_spelling(tmp_path: Path) -> None:
    config = published.phi4_mini_config()
    config["rope_scaling"]["type"] = "su"
    with pytest.raises(CheckpointError, match=r"transformers cannot read it .*; write \"longrope\" instead of \"su\"$"):
        _read(tmp_path, config)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gpt2", "n_positions": 64, "n_embd": 32, "n_head": 2}, "has no RoPE in a module"),
        ({"model_type": "unheard-of"}, r"model_type is 'unheard-of', which transformers [0-9.]+ does not know"),
        ({**LLAMA, "rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "a table for full_attention, a type"),
        ({**LLAMA, "max_position_embeddings": "x"}, "max_position_embeddings is 'x'"),
        ({**LLAMA, "head_dim": "x"}, "head_dim is 'x', not a whole number"),
        ({**LLAMA, "head_dim": 7}, "RoPE requires an even rotary dimension"),
        ([], "not a JSON object"),
    ],
)  # fmt: skip
def test_configurations_without_one_rope(tmp_path: Path, config: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        _read(tmp_path, config)


def test_unreadable_configurations(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: no such file; give the folder of a Hugging Face model"):
        ModelRope.read(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        ModelRope.read(tmp_path)


def test_broken_factors_of_its_own(tmp_path: Path) -> None:
    for change, said in (
        ({"long_factor": [1.0]}, "long_factor has 1 numbers"),
        ({"long_factor": None}, "longrope needs long_factor"),
    ):
        config = published.llama3_config()
        config["rope_scaling"] |= change
        with pytest.raises(CheckpointError, match=said):
            _read(tmp_path, config).own()
    config = published.llama3_config()
    del config["original_max_position_embeddings"]
    with pytest.raises(CheckpointError, match="longrope needs original_max_position_embeddings"):
        _read(tmp_path, config).own()
