"""Training from rows to a checkpoint that stock transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lr2eval.method.recipe import Recipe
from lr2eval.method.rope import OriginalRope, RopeScaling
from lr2eval.method.rope_rules import RULES
from lr2eval.method.train import TrainingResult, train
from tests import tiny_models, tiny_segments

PLAIN = {"rope_type": "default", "rope_theta": 1000.0}
TARGET = 96
SCALING = RULES["longrope2"].make(OriginalRope(1000.0, 2 * tiny_models.PAIRS, tiny_models.ORIGINAL), TARGET)


def recipe(**changes: Any) -> Recipe:
    made: dict[str, Any] = {
        "name": "test",
        "original_window": tiny_models.ORIGINAL,
        "target_window": TARGET,
        "short_tokens": 0,
        "long_tokens": TARGET,
        "global_batch": 4,
        "epochs": 10,
        "steps": 6,
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2},
    }
    return Recipe(**(made | changes))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_models.tiny_model("llama", rope=PLAIN)
    model.config.max_position_embeddings = tiny_models.ORIGINAL
    return tiny_models.save_checkpoint(tmp_path_factory.mktemp("source"), model)


def run(source: Path, out: Path, *, rows: Any = None, scaling: RopeScaling = SCALING, **changes: Any) -> TrainingResult:
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    extra = {name: changes.pop(name) for name in ("held_out", "needles", "hook") if name in changes}
    rows = tiny_segments.mixture(12) if rows is None else rows
    return train(recipe(**changes), model, source, rows, scaling, out, **extra)


def test_twenty_steps_give_a_checkpoint_that_stock_transformers_loads(source: Path, tmp_path: Path) -> None:
    result = run(source, tmp_path / "out", steps=20)
    assert result.steps == 20
    assert result.loss_last < result.loss_first
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert RopeScaling.from_config(model.config) == SCALING
