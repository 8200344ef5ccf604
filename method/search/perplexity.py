"""Perplexity of single samples of any length, with logits only where they are scored.

At 128k tokens and a vocabulary of 128k, all logits of one sample are 32 GiB in bfloat16 and the seven that a needle
needs are 2 MiB. One sample is read at a time, without a cache.

Shape suffixes: B rows (1), L tokens, N scored places, V vocabulary, H hidden width.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers.modeling_layers import GradientCheckpointingLayer

from lr2eval.base.machine import denormals_as_zero, give_memory_back, out_of_memory
from lr2eval.errors import BackendError
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search.journal import Trial, TrialResult, factors_key
from lr2eval.method.search.needles import Sample
from lr2eval.model.shape import changed_logits


class ModelExecutor:
    """Keeps a model and swaps its factors through the windowed rotary module; weights are never loaded again.

    Samples longer than the original window are read under the long factors. Raises :class:`ValueError` for a model
    whose rotary module cannot be replaced.
    """

    def __init__(self, model: Any, samples: Sequence[Sample]) -> None:
        self._model, self._samples = model, samples

    def run(self, trials: Sequence[Trial], /) -> Iterator[TrialResult]:
        for trial in trials:
            install_rope(self._model, trial.scaling)
            sample = self._samples[trial.sample]
            began = time.perf_counter()
            gradient = None
            if trial.gradient:
                nll, gradient = nll_gradient(self._model, sample)
            else:
                nll = mean_nll(self._model, sample)
            seconds = time.perf_counter() - began
            yield TrialResult(factors_key(trial.scaling), trial.sample, nll, len(sample.ids), seconds, gradient)


def mean_nll(model: Any, sample: Sample) -> float:
    """Mean negative log-likelihood, in nats, of the scored tokens; ``nan`` or ``inf`` where the model makes it so.

    Raises :class:`BackendError` if the sample does not fit into memory, naming a shorter length that does.
    """
    return float(_that_fits(_mean_nll, model, sample))


def nll_gradient(model: Any, sample: Sample) -> tuple[float, tuple[float, ...]]:
    """:func:`mean_nll`, and its gradient in the natural logarithms of the long factors and of their attention factor.

    The gradient has one number for each rotary pair, then one for the attention factor; float32 whatever the dtype of
    the weights. The weights must be frozen. Each layer is computed again on the way back, so the memory is that of a
    forward plus one layer with its gradient, not that of all layers. Raises as :func:`mean_nll`, and
    :class:`BackendError` for a model through which no gradient passes.
    """
    nll, gradient_R1 = _that_fits(_nll_gradient, model, sample)
    return float(nll), tuple(gradient_R1.tolist())


def _that_fits(evaluate: Callable[[Any, Sample], Any], model: Any, sample: Sample) -> Any:
    try:
        return evaluate(model, sample)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    # Outside the except block: the traceback held the failed attempt's tensors until there.
    fits = length_that_fits(evaluate, model, sample)
    shorter = f"{fits:,} tokens fit" if fits else "not even its first tokens fit"
    raise BackendError(
        f"a sample of {len(sample.ids):,} tokens does not fit into memory ({shorter}); use a shorter --target-length, "
        "--dtype bfloat16, or a machine with more memory (finished evaluations are kept)"
    )


def _nll_gradient(model: Any, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    device = next(model.parameters()).device
    rotary = model.base_model.rotary_emb
    change_R = torch.zeros(rotary.scaling.rotary_dim // 2, device=device, requires_grad=True)
    change = torch.zeros((), device=device, requires_grad=True)
    # Stated, as a shorter text than the window is read too, where it is asked what fits into memory.
    beyond = rotary.window(rotary.scaling.original_window + 1)
    with _recomputing(model), rotary.changed(change_R, change), beyond:
        nll = _scored_nll(model, sample)
        slopes = torch.autograd.grad(nll, (change_R, change), allow_unused=True) if nll.requires_grad else (None, None)
    gradient_R, gradient = slopes
    if gradient_R is None or gradient is None:
        raise BackendError(
            f"{type(model).__name__}: no gradient reaches its RoPE factors; use --strategy evolution or random"
        )
    return nll.detach(), torch.cat((gradient_R, gradient[None]))


@contextmanager
def _recomputing(model: Any) -> Iterator[None]:
    """Activation checkpointing of a model in evaluation mode.

    transformers checkpoints a layer only while the layer is in training mode. So the flag is set on the layers
    themselves, and not on what is inside them: dropout stays off.
    """
    # With frozen weights, the reentrant kind would return no gradient.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    layers = [each for each in model.modules() if isinstance(each, GradientCheckpointingLayer)]
    for layer in layers:
        layer.training = True
    try:
        with denormals_as_zero():
            yield
    finally:
        for layer in layers:
            layer.training = False
        disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
        disable()


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _mean_nll(model: Any, sample: Sample) -> torch.Tensor:
    return _scored_nll(model, sample)


def _scored_nll(model: Any, sample: Sample) -> torch.Tensor:
    device = next(model.parameters()).device
    ids_BL = torch.tensor([sample.ids], device=device)
    before_N = torch.tensor(sample.scored, device=device) - 1
    wanted_N = ids_BL[0, before_N + 1]
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits_NV = model(input_ids=ids_BL, use_cache=False, logits_to_keep=before_N).logits[0]
        return cross_entropy(logits_NV.float(), wanted_N)
    if changed := changed_logits(model):
        raise BackendError(f"{type(model).__name__} changes its logits ({changed}) and computes all of them or none")
    hidden_LH = model.base_model(input_ids=ids_BL, use_cache=False).last_hidden_state[0]
    return cross_entropy(model.get_output_embeddings()(hidden_LH[before_N]).float(), wanted_N)


def perplexity(nlls: Sequence[float]) -> float:
    """``exp`` of the mean over samples (of each one's mean), as LongRoPE2's code aggregates; ``inf`` if too large."""
    mean = sum(nlls) / len(nlls)
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf


def length_that_fits(evaluate: Callable[[Any, Sample], Any], model: Any, sample: Sample) -> int:
    """The longest of half, a quarter, ... of a sample that the model can read; 0 if none."""
    length = len(sample.ids) // 2
    while length >= 2:
        give_memory_back()
        try:
            evaluate(model, Sample(sample.ids[:length], (length - 1,)))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        else:
            return length
        length //= 2
    return 0
