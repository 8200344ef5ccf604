"""Estimates against real models and against what the paper says of its own runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig

from lr2eval.errors import UsageError
from lr2eval.method.train.plan import plan
from lr2eval.method.train.recipe import Recipe, names, read_recipe
from lr2eval.model.shape import Shape, config_shape, parameters

# Stated in the recipes: 72 + 72 rows, 3B + 7B, 90M + 210M, 60 + 60 rows; whole rows only.
STATED = {
    "demo-8k": (1_179_648, 8192, 72),
    "llama3-8b-128k": (10_000_000_000, 131072, 1193),
    "phi3-mini-128k": (10_000_000_000, 131072, 1193),
    "smollm2-135m-32k": (300_000_000, 32768, 287),
    "tiny-retrieval-2k": (245_760, 2048, 60),
}


@pytest.mark.parametrize("name", names())
def test_a_dry_run_reaches_the_stated_tokens(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.shape is not None
    tokens, window, steps = STATED[name]
    made = plan(recipe, recipe.shape)
    assert tokens - 2 * window < made.tokens <= tokens
    assert made.steps == steps
    assert made.tokens_per_step * (steps - 1) < made.tokens <= made.tokens_per_step * steps


def test_parameters_of_the_models() -> None:
    published = {"llama3-8b-128k": 8_030_261_248, "phi3-mini-128k": 3_821_079_552, "smollm2-135m-32k": 134_515_008}
    for name, count in published.items():
        shape = read_recipe(name).shape
        assert shape is not None
        assert parameters(shape) == count


def _sizes(**changes: Any) -> dict[str, Any]:
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "vocab_size": 300}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}
    return sizes | heads | changes


@pytest.mark.parametrize(
    "changes",
    [{}, {"intermediate_size": 256}, {"num_key_value_heads": 1, "head_dim": 32}, {"tie_word_embeddings": False}],
)
def test_kept_activations_of_a_real_layer(changes: dict[str, Any]) -> None:
    """What autograd keeps of a forward, in float32 on a CPU, is within 12 % of the formula; parameters are exact."""
    torch.set_num_threads(1)
    sizes = _sizes(**changes)
    model = LlamaForCausalLM(LlamaConfig(**sizes)).train()
    shape = config_shape(LlamaConfig(**sizes))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(input_ids=torch.zeros(1, 256, dtype=torch.int64), use_cache=False)
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    recipe = Recipe(name="r", original_window=32, target_window=256, short_tokens=0, long_tokens=256, global_batch=1,
                    dtype="float32")  # fmt: skip
    made = plan(recipe, shape)
    assert measured == pytest.approx(made.memory.activations, rel=0.12)
    assert made.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_time_of_the_papers_runs() -> None:
    """64 A100: 54 hours for LLaMA3-8B (from which the utilisation is taken), 39 for Phi3-mini (which it predicts)."""
    for name, hours in (("llama3-8b-128k", 54), ("phi3-mini-128k", 39)):
        recipe = read_recipe(name)
        assert recipe.shape is not None
        assert plan(recipe, recipe.shape).hours == pytest.approx(hours, rel=0.1)


def test_what_an_estimate_depends_on() -> None:
    recipe, one = read_recipe("llama3-8b-128k"), read_recipe("llama3-8b-128k", {"hardware.gpus": 1})
    assert recipe.shape is not None
    many, alone = plan(recipe, recipe.shape), plan(one, recipe.shape)
    assert alone.hours == pytest.approx(64 * (many.hours or 0))
    assert alone.memory.weights == pytest.approx(64 * many.memory.weights, rel=1e-6)
    assert alone.memory.gathered == 0 < many.memory.gathered
    shared = plan(read_recipe("llama3-8b-128k", {"context_parallel": 8}), recipe.shape)
    assert 7 < many.memory.activations_checkpointed / shared.memory.activations_checkpointed <= 8
    held = many.memory
    assert held.total(False) - held.total(True) == held.activations - held.activations_checkpointed
    only = plan(read_recipe("llama3-8b-128k", {"long_only": True}), recipe.shape)
    assert (only.rows_short, only.rows_long) == (0, many.rows_long)
    assert plan(read_recipe("tiny-retrieval-2k"), recipe.shape).hours is None
    assert plan(recipe, recipe.shape, (3, 4)).tokens == 7 * 131072


def test_the_square_mask_of_a_packed_row_counts() -> None:
    """About 49 GiB at 128k, which no recipe of a long window may take without a word."""
    for name in ("llama3-8b-128k", "phi3-mini-128k", "smollm2-135m-32k"):
        recipe = read_recipe(name)
        assert recipe.shape is not None
        flex, sdpa = plan(recipe, recipe.shape), plan(read_recipe(name, {"attention": "sdpa"}), recipe.shape)
        assert (flex.attention, sdpa.attention) == ("flex_attention", "sdpa")
        assert flex.memory.mask == 0
        assert sdpa.memory.mask == 3 * recipe.target_window**2
        assert sdpa.memory.total(True) == flex.memory.total(True) + sdpa.memory.mask
        alone = read_recipe(name, {"attention": "sdpa", "long_only": True})
        assert plan(alone, recipe.shape).memory.mask == 0  # long rows are causal and need none
    assert plan(read_recipe("tiny-retrieval-2k", {"attention": "eager"}), recipe.shape).memory.mask == 3 * 2048**2
    on_cpu = plan(read_recipe("tiny-retrieval-2k"), recipe.shape, device="cpu")
    assert (on_cpu.attention, on_cpu.memory.mask) == ("documents", 0)


def test_one_process_keeps_the_residual_stream_in_float32() -> None:
    """Under autocast; sharded weights come in bfloat16 and so does what passes between layers."""
    changes = {"hardware.gpus": 1, "gradient_checkpointing": True}
    recipe = read_recipe("smollm2-135m-32k", changes)
    assert recipe.shape is not None
    one = plan(recipe, recipe.shape).memory.activations_checkpointed
    two = plan(read_recipe("smollm2-135m-32k", changes | {"hardware.gpus": 2}), recipe.shape).memory
    layers = recipe.shape.layers + 2
    assert one - two.activations_checkpointed == 2 * layers * 32768 * recipe.shape.hidden


def test_attention_counts_squares() -> None:
    shape = Shape(layers=1, hidden=8, intermediate=8, heads=2, kv_heads=2, head_dim=4, vocabulary=10)
    numbers = {"name": "r", "original_window": 32, "short_tokens": 0, "global_batch": 1}
    one, twice = (
        plan(Recipe(**numbers, target_window=length, long_tokens=length), shape).operations_attention
        for length in (64, 128)
    )
    assert one == 6 * 64 * 64 * 8
    assert twice == 4 * one


def test_nothing_to_train_on_and_no_sizes() -> None:
    recipe = read_recipe("tiny-retrieval-2k", {"short_tokens": 5, "long_tokens": 5})
    assert recipe.shape is not None
    with pytest.raises(UsageError, match="less than one row of 2,048"):
        plan(recipe, recipe.shape)
    with pytest.raises(UsageError, match="num_attention_heads is None"):
        config_shape(MambaConfig())
