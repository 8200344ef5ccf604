from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lr2eval.errors import BackendError
from lr2eval.method.search import perplexity as module
from lr2eval.method.search.needles import Sample
from lr2eval.method.search.perplexity import length_that_fits, mean_nll, perplexity
from tests.tiny_models import ARCHITECTURES, VOCABULARY, tiny_model

IDS = tuple(int(i) for i in torch.randint(2, VOCABULARY, (60,), generator=torch.Generator().manual_seed(3)))


def by_all_logits(model: Any, sample: Sample) -> float:
    with torch.inference_mode():
        logits = model(torch.tensor([sample.ids]), use_cache=False).logits[0].float().log_softmax(-1)
    return -sum(float(logits[place - 1, sample.ids[place]]) for place in sample.scored) / len(sample.scored)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scored", [(59,), (10, 11, 40, 59), tuple(range(1, 60))])
def test_equals_all_logits(architecture: str, scored: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(architecture)
    sample = Sample(IDS, scored)
    assert mean_nll(model, sample) == pytest.approx(by_all_logits(model, sample), abs=1e-5)
    monkeypatch.setattr(module, "CHUNK", 7)  # every token scored: the head works in pieces
    assert mean_nll(model, sample) == pytest.approx(by_all_logits(model, sample), abs=1e-5)


def test_logits_exist_only_where_they_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    rows: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda module, args, out: rows.append(out.shape[-2]))
    mean_nll(model, Sample(IDS, (50, 51, 59)))
    assert rows == [3]
    monkeypatch.setattr(module, "CHUNK", 16)
    rows.clear()
    mean_nll(model, Sample(IDS, tuple(range(1, 60))))
    assert max(rows) == 16
    assert sum(rows) == 59


def test_a_model_that_changes_its_logits_is_refused_where_that_would_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 16)
    model = tiny_model("llama")
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(BackendError, match=r"final_logit_softcapping.*use --objective needle"):
        mean_nll(model, Sample(IDS, tuple(range(1, 60))))


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
    whole = module._mean_nll

    def limited(model: Any, sample: Sample) -> float:
        if len(sample.ids) > 20:
            raise error
        return whole(model, sample)

    monkeypatch.setattr(module, "_mean_nll", limited)
    with pytest.raises(BackendError, match=r"60 tokens does not fit into memory \(15 tokens fit\).*--target-length"):
        mean_nll(model, Sample(IDS, (59,)))
    assert length_that_fits(model, Sample(IDS, (59,))) == 15


def test_other_errors_are_not_taken_for_memory() -> None:
    with pytest.raises((IndexError, RuntimeError)):
        mean_nll(tiny_model("llama"), Sample((*IDS[:-1], VOCABULARY + 5), (59,)))
