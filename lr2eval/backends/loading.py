"""Load the model of a checked folder: every weight must be present, and advice from libraries is not shown."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import transformers

from lr2eval.errors import BackendError, CheckpointError, first_line
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.config import quiet_transformers


def load_model(checkpoint: Checkpoint, dtype: str, device: str, trust_remote_code: bool) -> Any:
    """The model in evaluation mode on ``device``.

    Raises :class:`CheckpointError` if transformers cannot load it, and for weights that the folder lacks: transformers
    would fill those with random numbers and only warn. Raises :class:`BackendError` for weights that do not fit.

    The model decodes as it is told: no setting of the checkpoint stays with it.
    """
    torch_dtype = getattr(torch, dtype, None)
    if not isinstance(torch_dtype, torch.dtype) or not torch_dtype.is_floating_point:
        raise CheckpointError(f"--dtype {dtype}: unknown; choose auto, float32, bfloat16 or float16")
    try:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            str(checkpoint.folder),
            config=checkpoint.model_config().text if checkpoint.override else None,
            dtype=torch_dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            generation_config=transformers.GenerationConfig(),  # generation_config.json is neither read nor obeyed
        )
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint.folder}: transformers cannot load this model ({first_line(error)}); check that it is a "
            "causal language model and that all files come from the same checkpoint"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{checkpoint.folder}: {len(missing)} tensors are missing from the weights (first: {missing[0]}); "
            "download the checkpoint again"
        )
    model.generation_config = transformers.GenerationConfig()
    try:
        return model.eval().to(device)
    except RuntimeError as error:
        raise BackendError(
            f"{checkpoint.name}: cannot move the weights to {device} ({first_line(error)}); choose another --device "
            "or a smaller --dtype"
        ) from error


def outline(checkpoint: Checkpoint) -> Any:
    """The same model in float32 without weights, on the ``meta`` device."""
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(checkpoint.model_config().text, dtype=torch.float32)


def keep_cache(model: Any) -> None:
    """Undo the override by which Phi-3 and similar models drop the cache once a row, padding included, is wider than
    the original window. This package handles the window itself, row by row. After the drop, transformers 5.19 would
    also continue from the last token alone."""
    own = inspect.unwrap(type(model).prepare_inputs_for_generation)
    if "original_max_position_embeddings" in own.__code__.co_consts:
        plain = transformers.GenerationMixin.prepare_inputs_for_generation
        model.prepare_inputs_for_generation = MethodType(plain, model)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence advice from lm-eval and transformers about what we do on purpose; restores the log levels."""
    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, transformers.utils.logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        with quiet_transformers():
            yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
