from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lr2eval.backends.hf import WindowedHFLM
from lr2eval.model.checkpoint import Checkpoint
from tests.lr2eval.backends.helpers import Load
from tests.tiny_models import save_checkpoint, tiny_model


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """The longrope checkpoint of an architecture, saved once. Do not change it in place."""
    made: dict[str, Checkpoint] = {}

    def make(architecture: str) -> Checkpoint:
        if architecture not in made:
            folder = tmp_path_factory.mktemp("checkpoints") / architecture
            made[architecture] = Checkpoint.open(save_checkpoint(folder, tiny_model(architecture)))
        return made[architecture]

    return make


@pytest.fixture
def load(checkpoint_of: Callable[[str], Checkpoint]) -> Load:
    """``load(architecture, **options)``: the backend with that checkpoint on the CPU."""

    def make(architecture: str = "llama", **options: Any) -> WindowedHFLM:
        return WindowedHFLM(checkpoint_of(architecture), **{"device": "cpu", **options})

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A fresh Llama checkpoint that the test may damage."""
    return save_checkpoint(tmp_path / "model", tiny_model("llama"))
