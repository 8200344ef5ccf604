"""Recipes: those of the package, what a file may hold, the learning rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from lr2eval.errors import UsageError
from lr2eval.method.train.recipe import Recipe, names, read_recipe

MINIMAL: dict[str, Any] = {
    "name": "r", "original_window": 32, "target_window": 96, "short_tokens": 960, "long_tokens": 960, "global_batch": 4,
}  # fmt: skip


def test_the_package_brings_recipes() -> None:
    assert {"llama3-8b-128k", "phi3-mini-128k", "smollm2-135m-32k", "tiny-retrieval-2k"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_every_recipe_loads_and_is_short(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.shape is not None
    folder = Path(__file__).parents[3] / "method" / "recipes"
    assert len((folder / f"{name}.toml").read_text().splitlines()) < 40


def test_numbers_of_the_paper() -> None:
    """LongRoPE2, section 4: 10B tokens, batch 64, 2e-5, one epoch, from 8k and 2k to 128k."""
    for name, window in (("llama3-8b-128k", 8192), ("phi3-mini-128k", 2048)):
        recipe = read_recipe(name)
        assert (recipe.original_window, recipe.target_window) == (window, 131072)
        assert recipe.short_tokens + recipe.long_tokens == 10_000_000_000
        assert (recipe.global_batch, recipe.optimizer.learning_rate, recipe.epochs) == (64, 2e-5, 1)
        assert recipe.tokens_per_step == 8_388_608
        assert (recipe.optimizer.betas, recipe.optimizer.weight_decay, recipe.optimizer.clip) == ((0.9, 0.95), 0, 1)


def test_changes_go_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\noriginal_window = "8k"\ntarget_window = "32k"\nshort_tokens = 1\nlong_tokens = 2\n'
        "global_batch = 4\n[optimizer]\nlearning_rate = 1e-4\n"
    )
    recipe = read_recipe(path, {"optimizer.clip": 0.5, "seed": 3, "hardware.gpus": 8})
    assert (recipe.original_window, recipe.target_window) == (8192, 32768)
    assert (recipe.optimizer.learning_rate, recipe.optimizer.clip) == (1e-4, 0.5)
    assert (recipe.seed, recipe.hardware.gpus) == (3, 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer.rate": 1}, "--recipe tiny-retrieval-2k: optimizer.rate: unknown option; "),
        ({"global_batch": 0}, "global_batch 0: must be greater than or equal to 1"),
        ({"target_window": 128}, "target_window 128 is not longer than original_window 128"),
        ({"seed.x": 1}, "--set seed.x"),
        ({"context_parallel": 2, "micro_batch": 2}, "set micro_batch to 1"),
        ({"attention": "flash_attention_2", "micro_batch": 2}, "attention flash_attention_2 .* set micro_batch to 1"),
        ({"attention": "kernels-community/any", "micro_batch": 2}, "only within one row; set micro_batch to 1"),
        ({"long_only": True, "long_tokens": 0}, "trains on nothing"),
        ({"dtype": "float16"}, "dtype 'float16': must be"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        read_recipe("tiny-retrieval-2k", {"seed": 0, **changes})
    assert "\n" not in str(error.value)


def test_attentions_that_take_many_packed_rows() -> None:
    for attention in (None, "sdpa", "eager", "flex_attention", "documents"):
        assert Recipe(**MINIMAL, attention=attention, micro_batch=2).micro_batch == 2
    assert Recipe(**MINIMAL, attention="flash_attention_2", micro_batch=2, long_only=True).micro_batch == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [("x = ", "not valid TOML"), ("seed = 1", "name is missing"), ("x = 1", "x: unknown option"), (None, "No such")],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_recipe(path)


def test_the_rate_rises_to_its_full_height_and_falls_to_zero() -> None:
    recipe = Recipe(**MINIMAL, optimizer={"learning_rate": 1.0, "warmup_steps": 3})
    rates = [recipe.learning_rate(step, 11) for step in range(11)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[3:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])
    assert all(rate > 0 for rate in rates)
    assert recipe.learning_rate(11, 11) == pytest.approx(0.0)


def test_a_warm_up_longer_than_the_training_still_trains() -> None:
    recipe = Recipe(**MINIMAL, optimizer={"learning_rate": 1.0, "warmup_steps": 40})
    assert [recipe.learning_rate(step, 2) for step in range(2)] == [0.5, 1.0]
    assert recipe.learning_rate(0, 1) == 1.0


def test_only_what_decides_the_weights_makes_another_training() -> None:
    one = Recipe(**MINIMAL)
    for same in ({"name": "other"}, {"saving": {"every": 3}}, {"hardware": {"gpus": 8}}, {"short_tokens": 1}):
        assert Recipe(**(MINIMAL | same)).deciding() == one.deciding()
    for other in ({"seed": 1}, {"optimizer": {"clip": 2}}, {"steps": 1}, {"dtype": "bfloat16"}, {"micro_batch": 2}):
        assert Recipe(**(MINIMAL | other)).deciding() != one.deciding()


def test_steps_of_rows() -> None:
    recipe = Recipe(**MINIMAL)
    assert recipe.planned_rows() == (10, 10)
    assert recipe.planned_steps() == 5
    assert recipe.planned_steps(21) == 6  # the last step takes the row that is left
    assert Recipe(**MINIMAL, epochs=2).planned_steps() == 10
    assert Recipe(**MINIMAL, steps=3).planned_steps() == 3
    assert Recipe(**MINIMAL, long_only=True).planned_rows() == (0, 10)
