"""What work costs: operations, memory and time. One set of formulas for the plan of a run and for `lr2eval estimate`.

Prefill is bound by arithmetic, decoding by reading the weights and the cache once a step for a whole batch; how fast a
device does either is a :class:`Speed`, measured (``calibrate``) or from a data sheet (``request``). The
formulas are those of ``docs/scale.md``; they are for dense decoders.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lr2eval.backends.loading import quiet
from lr2eval.model.shape import Shape, config_shape, layer_parameters

PADDED = 2.0
"""Attention with a mask (rows of unequal length, or read on from a beginning) makes all of it, not the causal half."""


@dataclass(frozen=True)
class Asked:
    """What one task at one length asks of a model. Counts are tokens."""

    benchmark: str
    task: str
    length: int | None
    samples: int
    prompts: Sequence[int]
    """Of every sequence that is read: one a sample, or one for each choice of several tokens."""
    new: int
    """To generate for each, at most; 0 for scored choices."""
    over: int
    """Prompts longer than the window: cut, skipped or refused, as the truncation policy says."""
    exact: bool
    """Whether every prompt was counted; else the prompts are some of the task's, repeated."""
    taken: Sequence[int] = ()
    """Of each prompt, the tokens that are read once for all that begin so; empty where nothing is shared."""
    beginnings: Sequence[int] = ()
    """Those beginnings."""

    @property
    def tokens(self) -> int:
        return sum(self.prompts)

    @property
    def longest(self) -> int:
        """Of a prompt with its answer."""
        return max(self.prompts, default=0) + self.new


@dataclass(frozen=True)
class Batch:
    """Rows that go through the model together, padded to ``width`` tokens, each with ``new`` tokens to generate."""

    rows: int
    width: int
    new: int
    padded: bool = False
    start: int = 0
    """Tokens before each row that are read already."""


@dataclass(frozen=True)
class Speed:
    """What a device does with one model."""

    matrix: float
    """Operations a second in the products with weights, over a prompt."""
    attention: float
    """Operations a second in scores and values, over a prompt."""
    step: float
    """Seconds of a decoding step, whatever the number of rows: every weight is read."""
    row: float
    """Seconds that each row adds to it."""
    context: float
    """Seconds that each token of a row's cache adds to it."""


def operations(shape: Shape, tokens: float, squares: float, logits: float = 0.0) -> tuple[float, float]:
    """(with weights, in attention) of one forward: two operations a weight and token, and ``2 l^2`` a query dimension
    and layer for a causal sequence of ``l`` tokens. ``squares``: sum of the ``l^2``; ``logits``: places with logits."""
    matrix = 2.0 * shape.layers * layer_parameters(shape) * tokens + 2.0 * shape.vocabulary * shape.hidden * logits
    return matrix, 2.0 * shape.layers * shape.heads * shape.head_dim * squares


def read_weights(shape: Shape) -> int:
    """Weights that a decoding step reads: all layers and the head."""
    return shape.layers * layer_parameters(shape) + shape.vocabulary * shape.hidden


def kv_bytes(shape: Shape, item: int) -> int:
    """Keys and values of one token in all layers, each number of ``item`` bytes."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * item


def seconds(batches: Sequence[Batch], shape: Shape, speed: Speed, original_window: int | None = None) -> float:
    """Of all ``batches``, every row generating all its tokens. An answer that outgrows ``original_window`` has its
    prompt read twice, once under each set of factors (design D6)."""
    total = 0.0
    for batch in batches:
        reads = 2 if original_window and batch.width <= original_window < batch.width + batch.new else 1
        tokens, squares = batch.rows * batch.width, batch.rows * batch.width * (batch.start + batch.width)
        matrix, attention = operations(shape, reads * tokens, reads * squares, batch.rows)
        total += matrix / speed.matrix + attention * (PADDED if batch.padded or batch.start else 1.0) / speed.attention
        cached = batch.width + batch.new / 2
        total += batch.new * (speed.step + batch.rows * (speed.row + cached * speed.context))
    return total


STAND_IN = 2**29
"""Bytes of the stand-in at most, one layer at least: more than a processor's caches hold."""
VOCABULARY = 2**16
LONG_ENOUGH = 0.4
"""Seconds of a prefill that is trusted; attention's is half of that."""
_CACHE = 2**27
"""Bytes of keys and values in the decoding steps at most."""


def calibrate(config: Any, dtype: str, device: str, *, longest: int, rows: int) -> Speed:
    """Measure the model of ``config`` on ``device`` in some seconds, for prompts of up to ``longest`` tokens and
    batches of up to ``rows`` rows. Raises what torch and transformers raise for a model or device they cannot run."""
    kind: torch.dtype = getattr(torch, dtype)
    whole = config_shape(config)
    small, shape = _smaller(config, whole, kind.itemsize)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), quiet():
        model = _model(small, kind, device)
        attention = _attention(shape, kind, device, longest)
        matrix = _prefill(model, shape, attention, device, longest)
        # Two numbers of rows, and two of tokens in the cache, tell what a row and a token add to a step.
        most = max(2, rows)
        far = min(longest, max(64, _CACHE // (kv_bytes(shape, kind.itemsize) * most)))
        one, many, full = (_step(model, shape, kind, device, *at) for at in ((1, 16), (most, 16), (most, far)))
    row = max(many - one, 0.0) / (most - 1)
    context = max(full - many, 0.0) / (most * max(far - 16, 1))
    # A step is mostly the reading of weights, so that of the whole model takes as much longer as it has more of them.
    more = read_weights(whole) / read_weights(shape)
    return Speed(matrix, attention, max(one - row, 0.0) * more, row * more, context * whole.layers / shape.layers)


def _smaller(config: Any, whole: Shape, item: int) -> tuple[Any, Shape]:
    """(a copy of the configuration for the stand-in, its sizes)."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    text.vocab_size = min(whole.vocabulary, VOCABULARY)
    tables = text.vocab_size * whole.hidden * (1 if whole.tied else 2)
    fit = (STAND_IN // item - tables) // layer_parameters(whole)
    text.num_hidden_layers = max(1, min(whole.layers, fit))
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    text.pad_token_id = None  # may lie outside the smaller vocabulary
    if hasattr(small, "quantization_config"):
        del small.quantization_config
    return small, config_shape(small)


def _model(config: Any, kind: torch.dtype, device: str) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with torch.device(device), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=kind).eval()
    for parameter in model.parameters():
        parameter.fill_(0.01)  # drawing numbers would take longer than everything that is measured
    return model


def _attention(shape: Shape, kind: torch.dtype, device: str, longest: int) -> float:
    """Operations a second of causal attention over one row."""
    rate, length = 0.0, 256
    while True:
        query = torch.randn(1, shape.heads, length, shape.head_dim, device=device).to(kind)

        def work(query: torch.Tensor = query) -> None:
            torch.nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True)

        took = _timed(work, device)
        rate = 2.0 * length**2 * shape.heads * shape.head_dim / took
        if took > LONG_ENOUGH / 4 or length >= longest or length >= 2**15:
            return rate
        length *= 2


def _prefill(model: Any, shape: Shape, attention: float, device: str, longest: int) -> float:
    """Operations a second with weights over one row; the time of attention, which is known, taken off."""
    body = getattr(model, "base_model", model)  # without the head, which sees one place of a prompt
    length = min(256, longest)  # fewer tokens are slower: two thirds of the speed at 64, on a CPU
    while True:
        ids = torch.randint(0, shape.vocabulary, (1, length), device=device)
        took = _timed(lambda ids=ids: body(ids, use_cache=False), device)  # type: ignore[misc]
        if took > LONG_ENOUGH / 2 or length >= longest or length >= 2**13:
            matrix, square = operations(shape, length, length**2)
            return matrix / max(took - square / attention, took / 4)
        length *= 2


def _step(model: Any, shape: Shape, kind: torch.dtype, device: str, rows: int, cached: int) -> float:
    """Seconds of a decoding step of ``rows`` rows with ``cached`` tokens each in the cache."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    for layer in range(shape.layers):
        kept = torch.randn(rows, shape.kv_heads, cached, shape.head_dim, device=device).to(kind)
        cache.update(kept, kept.clone(), layer)
    ids = torch.zeros((rows, 1), dtype=torch.int64, device=device)
    return _timed(lambda: model(ids, past_key_values=cache, use_cache=True), device)


def _timed(work: Callable[[], Any], device: str) -> float:
    """Seconds of one call: the median of three, the first one not counted where it is short."""
    times: list[float] = []
    while len(times) < 4 and sum(times) < 2 * LONG_ENOUGH:
        started = time.perf_counter()
        work()
        if not device.startswith("cpu"):
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:] or times)
