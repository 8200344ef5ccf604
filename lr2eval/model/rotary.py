"""What transformers' own rotary modules compute, asked of the modules themselves.

The decoder is built on torch's ``meta`` device, without memory for weights. Its rotary modules are then built once
more on the CPU and asked for a table. Each attention layer is called with tables that note whether it reads them: some
layers of SmolLM3, Llama 4 or Cohere 2 use no RoPE, and no key of ``config.json`` says so for all models.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lr2eval.errors import CheckpointError, first_line
from lr2eval.model.config import ModelConfig, quiet_transformers


@dataclass(frozen=True)
class StockRope:
    """One RoPE of a model, inside the original window and beyond it."""

    short_inv_freq: tuple[float, ...]
    """Radians per token of each rotary pair, for a sequence inside the original window."""
    long_inv_freq: tuple[float, ...]
    """The same for a sequence that is one token longer than the original window."""
    short_attention_factor: float
    """What cos and sin are multiplied by."""
    long_attention_factor: float

    @property
    def pairs(self) -> int:
        """Rotary pairs."""
        return len(self.short_inv_freq)


@dataclass(frozen=True)
class StockRopes:
    """Every RoPE of a model."""

    ropes: tuple[StockRope, ...]
    """One for each layer type that has its own; none if the model has no rotary module that can be asked."""
    attentions: int
    """Attention layers that take RoPE tables."""
    without: int
    """How many of these do not read them."""

    def only(self, name: str) -> StockRope:
        """The one RoPE that all attention layers use. Raises :class:`CheckpointError` where there is no such one."""
        if not self.ropes or self.without == self.attentions:
            raise CheckpointError(f"{name}: has no RoPE in a module of its own; choose a model with rotary positions")
        if self.without:
            raise CheckpointError(
                f"{name}: {self.without} of {self.attentions} attention layers use no RoPE; lr2eval can only rescale "
                "models with RoPE in all of them"
            )
        if len(self.ropes) > 1:
            raise CheckpointError(
                f"{name}: has {len(self.ropes)} RoPEs, for different layers; lr2eval can only rescale models with one"
            )
        return self.ropes[0]


@quiet_transformers()
def stock_ropes(config: ModelConfig) -> StockRopes:
    """The RoPE modules of a model as transformers builds it, in about a second. Raises :class:`CheckpointError`."""
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            decoder = _decoder(config.text)
        modules = [module for module in decoder.modules() if _is_rotary(module)]
        unknown = [name for name in config.layer_ropes if modules and not hasattr(modules[0], f"{name}_inv_freq")]
        if unknown:
            raise CheckpointError(
                f"{config.path}: rope_parameters has a table for {unknown[0]}, a type of layer that the model does not "
                "have; remove it"
            )
        if config.rope_type == "per-layer" and modules:
            # Each layer type has its own numbers, and the module is asked for them by the type's name.
            ropes = [ask_rope(_rebuilt(modules[0], config.text), layer_type=name) for name in config.layer_ropes]
        else:
            asked = (ask_rope(_rebuilt(module, config.text), config.original_window) for module in modules)
            ropes = list(dict.fromkeys(asked))
        uses = [_reads_tables(module, config.text.hidden_size) for module in _attentions(decoder)]
    except CheckpointError:
        raise
    except Exception as error:  # code of many models; they raise whatever their arithmetic meets
        raise CheckpointError(
            f"{config.path}: transformers cannot build the model ({first_line(error)}); correct the file"
        ) from error
    return StockRopes(tuple(ropes), len(uses), uses.count(False))


def _decoder(text: Any) -> nn.Module:
    from transformers import AutoModel, AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_config(text).base_model
    except ValueError:  # the text model of a wrapper may have no class of its own
        return AutoModel.from_config(text)


def _is_rotary(module: nn.Module) -> bool:
    return any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))


def _rebuilt(module: nn.Module, text: Any) -> nn.Module:
    with torch.device("cpu"):
        return type(module)(getattr(module, "config", None) or text)


def ask_rope(module: Any, original_window: int | None = None, layer_type: str | None = None) -> StockRope:
    """The numbers that a rotary module uses for a sequence inside and beyond the original window."""
    name = "inv_freq" if layer_type is None else f"{layer_type}_inv_freq"
    extra = {} if layer_type is None else {"layer_type": layer_type}
    device = getattr(module, name).device
    found: list[Any] = []
    for last in (1, original_window or 1):
        ids_BL = torch.tensor([[0, last]], device=device)
        with torch.no_grad():
            table = module(torch.zeros(1, 2, 1, device=device), ids_BL, **extra)
        first = table if isinstance(table, torch.Tensor) else table[0]
        # cos 0 = 1 times the factor; a complex table holds cos + i sin
        found += [tuple(getattr(module, name).tolist()), float(first.flatten()[0].abs())]
    return StockRope(found[0], found[2], found[1], found[3])


def _attentions(decoder: nn.Module) -> list[nn.Module]:
    """The attention modules that are handed RoPE tables; layers that only pass them on are left out."""
    takes = [module for module in decoder.modules() if "position_embeddings" in _parameters(module)]
    outer = {id(module) for module in takes for each in takes if each is not module and each in module.modules()}
    return [module for module in takes if id(module) not in outer and "Attention" in type(module).__name__]


def _parameters(module: nn.Module) -> Any:
    return inspect.signature(module.forward).parameters


class _Touched(TorchFunctionMode):  # type: ignore[misc]  # torch is untyped here
    """Notes whether any operation reads one of the tables."""

    def __init__(self, tables: tuple[torch.Tensor, ...]) -> None:
        super().__init__()
        self._tables = tables
        self.hit = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.hit |= any(value is table for value in (*args, *(kwargs or {}).values()) for table in self._tables)
        return func(*args, **(kwargs or {}))


def _reads_tables(attention: nn.Module, hidden: int) -> bool:
    """Whether an attention layer reads its RoPE tables; true where it cannot be called on its own."""
    dtype = next((weight.dtype for weight in attention.parameters()), torch.float32)
    with torch.device("meta"):
        x_BLH, cos, sin = torch.zeros(1, 2, hidden, dtype=dtype), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)
    for tables in ((cos, sin), cos):  # complex tables are one tensor
        watch = _Touched((cos, sin))
        given: dict[str, Any] = {
            name: None
            for name, each in _parameters(attention).items()
            if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        }
        given |= {"hidden_states": x_BLH, "position_embeddings": tables}
        try:
            with watch, torch.no_grad():
                attention(**given)
        except Exception:  # a table of the wrong kind, or an argument that only the decoder knows
            if watch.hit:
                return True
            continue
        return watch.hit
    return True
