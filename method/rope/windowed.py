"""The one window rule (design D6), for any Hugging Face decoder with a rotary module.

A sequence uses the short factors while it holds at most ``Lt`` tokens in all and the long ones beyond: every token
of it, never part of each. Stock transformers decides once per forward, for the whole batch, from the largest position
id; that is wrong for batches of short and long rows, for prompts read in chunks and for caches that live across ``Lt``.

Shape suffixes: B rows, L tokens of this forward, S segments of a row, R rotary pairs, D = 2R rotary dimensions,
H hidden width; 1 an axis that broadcasts.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn

from lr2eval.method.rope.guards import arguments, check_packed, check_sides, remember_sides, sides_of
from lr2eval.method.rope.scaling import RopeScaling, Which
from lr2eval.model.rotary import ask_rope

Lengths: TypeAlias = int | Sequence[int] | Sequence[Sequence[int]] | torch.Tensor


class WindowedRotaryEmbedding(nn.Module):  # type: ignore[misc]  # torch is untyped here
    """cos and sin tables with the short or the long factors chosen per row and per packed segment.

    Without a statement, the final length of a segment is read from the position ids: a segment ends where ids fall, and
    its length is its largest id + 1. That is right for one forward over whole sequences. The ids cannot tell

    * the tokens still to come (policy ``budget``), earlier or later chunks of a prompt, a cache that is continued;
    * the rest of a sequence that is sharded over devices;
    * where a right-padded row ends, as its ids run on over the padding.

    In these cases the caller states final lengths: ``with rotary.window(lengths): ...``. Gradient checkpointing by
    layers, as transformers does it, recomputes with the tables of the forward; a function that is checkpointed with
    this module inside it must contain the ``with`` block, so that recomputing states the lengths again.

    :func:`install` also watches the decoder: a packed batch that transformers would not keep apart, and a cache that
    would be continued under other factors, raise :class:`ValueError`.

    Frequencies are held in float32 outside the module's buffers, so that ``model.to(bfloat16)`` cannot round them.
    """

    def __init__(self, scaling: RopeScaling) -> None:
        super().__init__()
        self.rescale(scaling)
        self._change: tuple[torch.Tensor, torch.Tensor] | None = None
        self._stated: torch.Tensor | list[torch.Tensor] | None = None
        self._cached_sides: tuple[bool, ...] | None = None
        self._sides: tuple[bool, ...] = ()

    def rescale(self, scaling: RopeScaling) -> None:
        """Use other factors from the next forward on."""
        self.scaling = scaling
        self._inv_freq_R: dict[tuple[Which, torch.device], torch.Tensor] = {}

    @contextmanager
    def window(self, lengths: Lengths) -> Iterator[None]:
        """State final lengths in tokens for the forwards inside the block.

        One number for all rows; one per row; or per row a list with one number per packed segment of the forward (a
        tensor ``(B, S)`` may fill up with zeros).
        """
        before = self._stated
        self._stated = _as_tensors(lengths)
        try:
            yield
        finally:
            self._stated = before

    @contextmanager
    def changed(self, log_factors_R: torch.Tensor, log_attention: torch.Tensor) -> Iterator[None]:
        """Add these to the logarithms of the long factors and of their attention factor inside the block.

        Shape ``(R,)`` and a scalar, float32, on the model's device. Gradients reach them: at zeros, the forward is that
        of the factors, and the gradient is the one in their logarithms.
        """
        self._change = log_factors_R, log_attention
        try:
            yield
        finally:
            self._change = None

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(cos_BLD, sin_BLD) in the dtype of ``x_BLH``, for ``position_ids_BL``; B is 1 where one table serves all.

        The names of the arguments are those that transformers calls rotary modules with. Raises :class:`ValueError` if
        the stated lengths are not one per row or one per segment.
        """
        long_BL = self._is_long(x.shape[0], position_ids)
        last = long_BL[:, -1].tolist()
        self._sides = tuple(last * x.shape[0] if len(last) == 1 else last)
        cached, self._cached_sides = self._cached_sides, None
        if cached is not None:
            check_sides(cached, self._sides)
        if bool(long_BL.all()):
            return self._tables("long", position_ids, x)
        short = self._tables("short", position_ids, x)
        if not bool(long_BL.any()):
            return short
        long = self._tables("long", position_ids, x)
        long_BL1 = long_BL.to(x.device)[..., None]
        return torch.where(long_BL1, long[0], short[0]), torch.where(long_BL1, long[1], short[1])

    def _is_long(self, rows: int, position_ids_BL: torch.Tensor) -> torch.Tensor:
        window = self.scaling.original_window
        if self._stated is None:
            return segment_lengths(position_ids_BL) > window
        if len(self._stated) not in (1, rows):
            raise ValueError(f"{len(self._stated)} final lengths are stated, but the batch has {rows} rows")
        if isinstance(self._stated, torch.Tensor):
            return (self._stated > window)[:, None]
        segment_BL = segments(position_ids_BL).cpu().expand(rows, -1)
        stated = self._stated * rows if len(self._stated) == 1 else self._stated
        return torch.stack([_by_segment(*pair) for pair in zip(stated, segment_BL, strict=True)]) > window

    def before_decoder(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook in front of the decoder that :func:`install` sets."""
        given = arguments(decoder.forward, args, kwargs)
        check_packed(decoder, given)
        self._cached_sides = sides_of(given.get("past_key_values"))

    def after_decoder(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Hook behind the decoder that :func:`install` sets."""
        cache = getattr(output, "past_key_values", None)
        if cache is None:
            cache = arguments(decoder.forward, args, kwargs).get("past_key_values")
        if cache is not None:
            remember_sides(cache, self._sides)

    def _tables(
        self, which: Which, position_ids_BL: torch.Tensor, x_BLH: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        key = (which, x_BLH.device)
        if key not in self._inv_freq_R:
            with torch.inference_mode(False):  # kept beyond this forward, which may come without gradients
                self._inv_freq_R[key] = self.scaling.inv_freq(which).to(x_BLH.device)
        inv_freq_R, factor = self._inv_freq_R[key], self.scaling.attention_factor(which)
        if which == "long" and self._change is not None:
            inv_freq_R, factor = inv_freq_R * torch.exp(-self._change[0]), factor * torch.exp(self._change[1])
        angles_BLR = position_ids_BL[..., None].float() * inv_freq_R
        angles_BLD = torch.cat((angles_BLR, angles_BLR), dim=-1)
        return (angles_BLD.cos() * factor).to(x_BLH.dtype), (angles_BLD.sin() * factor).to(x_BLH.dtype)


def _as_tensors(lengths: Lengths) -> torch.Tensor | list[torch.Tensor]:
    """Per row: one number each as a tensor, or a list with a tensor of segment lengths each."""
    if isinstance(lengths, torch.Tensor):
        return list(lengths.to("cpu", torch.int64)) if lengths.ndim == 2 else lengths.to(torch.int64).reshape(-1)
    if isinstance(lengths, int):
        return torch.tensor([lengths])
    if any(isinstance(row, Sequence) for row in lengths):
        return [torch.as_tensor(row, dtype=torch.int64).reshape(-1) for row in lengths]
    return torch.as_tensor(lengths, dtype=torch.int64)


def _by_segment(stated_S: torch.Tensor, segment_L: torch.Tensor) -> torch.Tensor:
    """The stated length of each token's segment; zeros may follow the stated lengths."""
    found = int(segment_L[-1]) + 1
    if len(stated_S) < found or bool((stated_S[found:] != 0).any()):
        raise ValueError(f"{len(stated_S)} final lengths are stated, but the row has {found} segments")
    return stated_S[segment_L]


def segments(position_ids_BL: torch.Tensor) -> torch.Tensor:
    """For each token, the number of its segment in its row; a segment ends where ids fall. ``(B, L)``, int64."""
    falls_BL = torch.zeros_like(position_ids_BL)
    falls_BL[:, 1:] = position_ids_BL[:, 1:] < position_ids_BL[:, :-1]
    return falls_BL.cumsum(dim=1)


def segment_lengths(position_ids_BL: torch.Tensor) -> torch.Tensor:
    """For each token, the length of its segment as far as position ids tell: largest id of the segment + 1.

    Shape in and out ``(B, L)``, int64.
    """
    segment_BL = segments(position_ids_BL)
    longest_BS = torch.zeros_like(position_ids_BL).scatter_reduce(1, segment_BL, position_ids_BL, "amax")
    return longest_BS.gather(1, segment_BL) + 1


def install_rope(model: Any, scaling: RopeScaling | None = None) -> WindowedRotaryEmbedding | None:
    """Replace the rotary module of a Hugging Face decoder, and check what the module itself cannot see.

    ``scaling`` is the checkpoint's own unless given. Without either (its ``rope_type`` is not ``longrope``), nothing
    changes and the result is ``None``. Raises :class:`ValueError` naming the class of a model or rotary module that
    does not have the interface of Llama's (Mistral, Qwen2, Qwen3 and Phi-3 have it), and for factor lists of the wrong
    length.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type")} | {layer.get("rope_type") for layer in rope.values() if isinstance(layer, dict)}
    if scaling is None and "longrope" not in kinds:
        return None
    decoder = model.base_model
    stock = getattr(decoder, "rotary_emb", None)
    if "rope_type" not in rope or not isinstance(stock, nn.Module):
        raise ValueError(
            f"{type(model).__name__} has no single rotary module `rotary_emb` to replace, so lr2eval cannot choose "
            "factors per row"
        )
    if isinstance(stock, WindowedRotaryEmbedding):
        stock.rescale(scaling or RopeScaling.from_config(config))
        return stock
    stock = _checked(model, stock, config)
    if scaling is None:
        scaling = RopeScaling.from_config(config, ask_rope(stock, int(rope["original_max_position_embeddings"])))
    pairs, factors = stock.inv_freq.numel(), scaling.rotary_dim // 2
    if pairs != factors:
        raise ValueError(f"{type(model).__name__} has {pairs} rotary pairs, but there are {factors} factors")
    rotary = WindowedRotaryEmbedding(scaling)
    decoder.rotary_emb = rotary
    decoder.register_forward_pre_hook(rotary.before_decoder, with_kwargs=True)
    decoder.register_forward_hook(rotary.after_decoder, with_kwargs=True)
    return rotary


def _checked(model: Any, stock: Any, config: Any) -> Any:
    """The stock module, off the ``meta`` device; its small table must be the one that ``inv_freq`` and our layout give.

    Raises :class:`ValueError` otherwise.
    """
    name = f"{type(model).__name__}: its rotary module {type(stock).__name__}"
    try:
        if stock.inv_freq.is_meta:
            stock = type(stock)(config=config)
        ids_BL = torch.arange(3, device=stock.inv_freq.device)[None]
        with torch.no_grad():
            cos_BLD, sin_BLD = stock(torch.zeros(1, 3, 1, device=ids_BL.device), ids_BL)
            if model.device.type != "meta":  # where a forward cannot run
                _check_call(model.base_model, model.device)
        # The module may have picked other frequencies for these ids than it held before.
        angles_BLR = ids_BL[..., None].float() * stock.inv_freq.float()
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(f"{name} does not work like Llama's ({type(error).__name__}: {error})") from error
    angles_BLD = torch.cat((angles_BLR, angles_BLR), dim=-1)
    scale = cos_BLD[0, 0, 0]  # cos 0 = 1 times the attention factor
    for got_BLD, want_BLD in ((cos_BLD, angles_BLD.cos()), (sin_BLD, angles_BLD.sin())):
        if got_BLD.shape != want_BLD.shape or not torch.allclose(got_BLD, want_BLD * scale, atol=1e-5):
            raise ValueError(f"{name} arranges angles unlike Llama's, so the windowed one cannot replace it")
    return stock


class _Called(Exception):
    """Ends a forward as soon as the rotary module is called."""


def _check_call(decoder: Any, device: torch.device) -> None:
    """Raises ``TypeError`` or ``ValueError`` unless the decoder passes hidden states and ``position_ids_BL`` alone."""
    calls: list[inspect.BoundArguments] = []

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(inspect.signature(WindowedRotaryEmbedding.forward).bind(module, *args, **kwargs))
        raise _Called

    hook = decoder.rotary_emb.register_forward_pre_hook(see, with_kwargs=True)
    try:
        decoder(torch.zeros(1, 3, dtype=torch.int64, device=device), use_cache=False)
    except _Called:
        axes = calls[0].arguments["position_ids"].ndim
        if axes != 2:
            raise ValueError(f"its decoder passes position ids of {axes} axes") from None
    else:
        raise ValueError("its decoder never calls it")
    finally:
        hook.remove()
