from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lr2eval.errors import BackendError
from lr2eval.method.rope.rules import yarn
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search import perplexity as module
from lr2eval.method.search.needles import Sample
from lr2eval.method.search.perplexity import mean_nll, nll_gradient, perplexity
from tests.tiny_models import ARCHITECTURES, ORIGINAL, PAIRS, VOCABULARY, tiny_model

LONG = yarn(OriginalRope(1000.0, 2 * PAIRS, ORIGINAL), 256)
"""Of samples of 60 tokens, which are longer than the window."""

IDS = tuple(int(i) for i in torch.randint(2, VOCABULARY, (60,), generator=torch.Generator().manual_seed(3)))


def by_all_logits(model: Any, sample: Sample) -> float:
    with torch.inference_mode():
        logits = model(torch.tensor([sample.ids]), use_cache=False).logits[0].float().log_softmax(-1)
    return -sum(float(logits[place - 1, sample.ids[place]]) for place in sample.scored) / len(sample.scored)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scored", [(59,), (10, 11, 40, 59), tuple(range(1, 60))])
def test_equals_all_logits(architecture: str, scored: tuple[int, ...]) -> None:
    model = tiny_model(architecture)
    sample = Sample(IDS, scored)
    assert mean_nll(model, sample) == pytest.approx(by_all_logits(model, sample), abs=1e-5)


@pytest.mark.parametrize("keeps", [True, False])
def test_logits_exist_only_where_they_are_scored(keeps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a model that cannot be asked for some of its logits."""
    model = tiny_model("llama")
    if not keeps:
        monkeypatch.setattr(model, "forward", without_keeping(model.forward))
    rows: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, out: rows.append(out.shape[-2]))
    mean_nll(model, Sample(IDS, (50, 51, 59)))
    assert rows == [3]
    assert mean_nll(model, Sample(IDS, (50, 51, 59))) == pytest.approx(
        by_all_logits(tiny_model("llama"), Sample(IDS, (50, 51, 59))), abs=1e-5
    )


def without_keeping(forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda input_ids, use_cache: forward(input_ids=input_ids, use_cache=use_cache)


def test_a_model_that_changes_its_logits_is_refused_where_that_would_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(model, "forward", without_keeping(model.forward))
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(BackendError, match="final_logit_softcapping"):
        mean_nll(model, Sample(IDS, (50, 51, 59)))


def test_nan_comes_back_as_it_is() -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    assert math.isnan(mean_nll(model, Sample(IDS, (59,))))


def test_perplexity_is_over_samples() -> None:
    assert perplexity([math.log(2), math.log(8)]) == pytest.approx(4)
    assert perplexity([1e6]) == math.inf
    assert math.isnan(perplexity([math.nan, 1.0]))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce] can't allocate memory: 5 bytes"),
    ],
)
def test_out_of_memory_names_the_length_that_fits(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    install_rope(model, LONG)
    for name, evaluate in (("_mean_nll", mean_nll), ("_nll_gradient", nll_gradient)):
        monkeypatch.setattr(module, name, _limited(getattr(module, name), error))
        with pytest.raises(BackendError, match=r"60 tokens does not fit into memory \(15 tokens fit\).*--target"):
            evaluate(model, Sample(IDS, (59,)))


def _limited(whole: Callable[[Any, Sample], Any], error: Exception) -> Callable[[Any, Sample], Any]:
    def limited(model: Any, sample: Sample) -> Any:
        if len(sample.ids) > 20:
            raise error
        return whole(model, sample)

    return limited


def test_other_errors_are_not_taken_for_memory() -> None:
    with pytest.raises((IndexError, RuntimeError)):
        mean_nll(tiny_model("llama"), Sample((*IDS[:-1], VOCABULARY + 5), (59,)))


def frozen(architecture: str, dtype: torch.dtype = torch.float32) -> Any:
    model = tiny_model(architecture).to(dtype).requires_grad_(False)
    install_rope(model, LONG)
    return model


def moved(scaling: RopeScaling, number: int, by: float) -> RopeScaling:
    """One logarithm changed: of a long factor, or of the attention factor behind them."""
    numbers = [*scaling.long_factor, scaling.long_attention_factor]
    numbers[number] *= math.exp(by)
    *factors, attention = numbers
    return RopeScaling(
        tuple(factors), scaling.short_factor, attention, 1.0, ORIGINAL, 256, scaling.theta, scaling.rotary_dim
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scored", [(59,), (10, 11, 40, 59)])
def test_the_gradient_is_that_of_the_logarithms(architecture: str, scored: tuple[int, ...]) -> None:
    """Against differences of the loss itself, in float64 weights (angles stay float32)."""
    model, sample = frozen(architecture, torch.float64), Sample(IDS, scored)
    nll, gradient = nll_gradient(model, sample)
    assert nll == mean_nll(model, sample), "the factors of the gradient are the factors themselves"
    assert len(gradient) == PAIRS + 1
    for number, slope in enumerate(gradient):
        ends = []
        for by in (-1e-3, 1e-3):
            install_rope(model, moved(LONG, number, by))
            ends.append(mean_nll(model, sample))
        install_rope(model, LONG)
        assert slope == pytest.approx((ends[1] - ends[0]) / 2e-3, rel=0.02, abs=2e-3)
    assert any(abs(slope) > 0.01 for slope in gradient)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpointing_changes_no_gradient(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sample = frozen(architecture), Sample(IDS, (40, 59))
    calls: list[bool] = []
    model.base_model.layers[0].self_attn.register_forward_hook(lambda layer, *_: calls.append(layer.training))
    found = nll_gradient(model, sample)
    assert calls == [False, False], "once on the way there and once on the way back, without dropout"
    assert not any(layer.training for layer in model.base_model.layers)
    monkeypatch.setattr(module, "GradientCheckpointingLayer", int)  # no layer is one
    nll, gradient = nll_gradient(model, sample)
    assert nll == found[0]
    assert gradient == pytest.approx(found[1])
    assert len(calls) == 3


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot leave out denormal numbers")
def test_denormal_numbers_count_as_zero_in_a_gradient_and_nowhere_else() -> None:
    def halved() -> float:
        return float(torch.tensor([torch.finfo(torch.float32).tiny]) / 2)

    model, found = frozen("llama"), []
    model.model.layers[0].self_attn.register_forward_hook(lambda *_: found.append(halved()))
    nll_gradient(model, Sample(IDS, (59,)))
    assert found == [0, 0], "on the way there, and once more on the way back"
    assert halved() > 0
    mean_nll(model, Sample(IDS, (59,)))
    assert found[2] > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_in_bfloat16_give_the_direction_of_float32(architecture: str) -> None:
    sample = Sample(IDS, (10, 11, 40, 59))
    _, exact = nll_gradient(frozen(architecture).to(torch.bfloat16).float(), sample)
    _, rough = nll_gradient(frozen(architecture, torch.bfloat16), sample)
    one, other = torch.tensor(exact), torch.tensor(rough)
    assert torch.cosine_similarity(one, other, dim=0) > 0.9


def test_a_model_without_gradients_is_refused_with_what_works() -> None:
    model = frozen("llama")
    model.model.layers[-1].register_forward_hook(lambda layer, args, output: output.detach())
    with pytest.raises(BackendError, match="no gradient reaches its RoPE factors; use --strategy evolution or random"):
        nll_gradient(model, Sample(IDS, (59,)))


PEAK = """
import sys, torch
from transformers import LlamaConfig, LlamaForCausalLM
from lr2eval.method.rope.rules import yarn
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search import perplexity
torch.set_num_threads(1)
config = LlamaConfig(vocab_size=64, hidden_size=256, intermediate_size=1024, num_hidden_layers=int(sys.argv[2]),
                     num_attention_heads=4, max_position_embeddings=128)
model = LlamaForCausalLM(config).eval().requires_grad_(False)
install_rope(model, yarn(OriginalRope(10000.0, 64, 128), 2048))
sample = perplexity.Sample(tuple(range(2, 60)) * 35 + (3,) * 18, (2047,))
def peak():  # of this program alone: ru_maxrss begins with that of the process that started it
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
perplexity.mean_nll(model, sample); forward = peak()
if sys.argv[1] == "plain":
    perplexity.GradientCheckpointingLayer = int
perplexity.nll_gradient(model, sample); print(peak() - forward)
"""


def test_the_memory_does_not_grow_with_the_layers() -> None:
    """Of 12 and 24 layers of 2,048 tokens: MiB beyond the peak of a plain forward, each in a process of its own."""

    def rose(kind: str, layers: int) -> float:
        command = [sys.executable, "-c", PEAK, kind, str(layers)]
        # Otherwise glibc keeps most of what is freed, and the peak is that of its heap.
        own = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
        return float(subprocess.run(command, capture_output=True, check=True, env=own).stdout)

    what_goes_in = 2048 * 256 * 4 / 2**20  # float32 numbers that each layer reads
    assert rose("checkpointed", 24) - rose("checkpointed", 12) < 12 * 3 * what_goes_in
    assert rose("plain", 24) - rose("plain", 12) > 12 * 10 * what_goes_in
