"""Which engine runs the model: ours (``hf``), or any model type of lm-eval by its name."""

from __future__ import annotations

from typing import Any

from lr2eval._checkpoint import Checkpoint
from lr2eval._config import RunConfig, parse_bytes
from lr2eval._errors import BackendError, UsageError


def load_backend(checkpoint: Checkpoint, config: RunConfig) -> Any:
    """The lm-eval ``LM`` for ``--backend``. Raises :class:`UsageError` for an unknown one."""
    if config.backend == "hf":
        from lr2eval.backends.hf import WindowedHFLM

        return WindowedHFLM(
            checkpoint,
            dtype=config.dtype,
            device=config.device,
            batch_size=config.batch_size,
            max_length=max(checkpoint.window, *(config.lengths or ())) if config.beyond_window else None,
            window_policy=config.window_policy,
            truncation=config.truncation,
            prefill_chunk=config.prefill_chunk,
            memory_limit=None if config.memory_limit is None else parse_bytes(config.memory_limit),
            trust_remote_code=config.trust_remote_code,
        )
    return _foreign(checkpoint, config)


def _foreign(checkpoint: Checkpoint, config: RunConfig) -> Any:
    import difflib

    import lm_eval.models  # noqa: F401  # registers the model types
    from lm_eval.api.registry import MODEL_REGISTRY, get_model

    names = ["hf", *(name for name in MODEL_REGISTRY if name not in ("hf", "hf-auto", "huggingface"))]
    if config.backend not in names:
        near = difflib.get_close_matches(config.backend, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else "`hf` is ours, the others are lm-eval's model types"
        raise UsageError(f"--backend {config.backend}: unknown; {hint}")
    arguments = {"pretrained": str(checkpoint.folder), **config.options.get("backend", {})}
    try:
        return get_model(config.backend).create_from_arg_obj(
            arguments, {"batch_size": config.batch_size, "device": config.device}
        )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackendError(f"--backend {config.backend} could not start: {reason[:200]}") from error
