"""The loss in pieces against plain cross-entropy, and packed rows against their documents one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from lr2eval.errors import UsageError
from lr2eval.method.rope.rules import RULES
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.train import attention as _registers  # noqa: F401
from lr2eval.method.train.batches import MicroBatch, micro_batch
from lr2eval.method.train.loss import IGNORED, LossModel, chunked_loss, liger
from lr2eval.method.train.recipe import DOCUMENTS
from tests import tiny_models, tiny_segments

TARGET = 96
SCALING = RULES["longrope2"].make(OriginalRope(1000.0, 2 * tiny_models.PAIRS, tiny_models.ORIGINAL), TARGET)
PLAIN = {"rope_type": "default", "rope_theta": 1000.0}


@settings(max_examples=60, deadline=None)
@given(
    places=st.integers(1, 40),
    chunk=st.integers(1, 45),
    ignored=st.floats(0, 1),
    weighted=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_pieces_equal_the_whole_in_value_and_gradients(
    places: int, chunk: int, ignored: float, weighted: bool, bias: bool, seed: int
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    head = nn.Linear(8, 21, bias=bias)
    hidden = torch.randn(places, 8, requires_grad=True)
    targets = torch.randint(0, 21, (places,))
    targets[torch.rand(places) < ignored] = IGNORED
    weights = torch.rand(places) * 3 if weighted else None
    inputs = [hidden, *head.parameters()]

    each = cross_entropy(head(hidden), targets, reduction="none", ignore_index=IGNORED)
    plain = (each * (1 if weights is None else weights)).sum()
    wanted = torch.autograd.grad(plain, inputs)
    got = chunked_loss(hidden, head, targets, weights, chunk)
    torch.testing.assert_close(got, plain)
    for mine, theirs in zip(torch.autograd.grad(got, inputs), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_logits_of_one_chunk_exist_at_a_time() -> None:
    seen: list[int] = []
    head = nn.Linear(4, 11)
    head.register_forward_hook(lambda module, args, output: seen.append(output.shape[0]))
    hidden = torch.randn(50, 4, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        loss = chunked_loss(hidden, head, torch.randint(0, 11, (50,)), None, 8)
    assert max(kept) < 50 * 11  # nothing of the size of all logits waits for the backward
    loss.backward()
    assert max(seen) == 8
    assert sum(seen) == 2 * 50


def test_a_sequence_without_targets_reaches_every_weight() -> None:
    head = nn.Linear(4, 11)
    hidden = torch.randn(5, 4, requires_grad=True)
    loss = chunked_loss(hidden, head, torch.full((5,), IGNORED), None, 2)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert head.weight.grad is not None
    assert hidden.grad is not None
    assert not head.weight.grad.any()


def _model(architecture: str = "llama", **changes: Any) -> tuple[Any, LossModel]:
    torch.set_num_threads(1)
    model = tiny_models.tiny_model(architecture, rope=dict(PLAIN), **changes)
    rotary = install_rope(model, SCALING)
    assert rotary is not None
    return model, LossModel(model, rotary, 7).train()


def _run(loss_model: LossModel, batch: MicroBatch) -> torch.Tensor:
    return loss_model(batch.input_ids, batch.position_ids, batch.targets, batch.weights, batch.lengths)  # type: ignore[no-any-return]


def _plain(model: Any, row: Any, which: Any) -> torch.Tensor:
    """Sum of the row's cross-entropies, document by document, by a stock forward with one window's tables."""
    factors = torch.stack([SCALING.inv_freq(which)])[0]
    attention = SCALING.attention_factor(which)

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            angles = position_ids[..., None].float() * factors
            both = torch.cat((angles, angles), -1)
            return both.cos() * attention, both.sin() * attention

    rotary, model.model.rotary_emb = model.model.rotary_emb, Fixed()
    total = torch.zeros(())
    weights = np.ones(len(row.input_ids)) if row.weights is None else row.weights
    at = 0
    documents = row.document_lengths[:-1] if row.padding else row.document_lengths
    for length in documents:
        ids = torch.from_numpy(row.input_ids[at : at + length].astype(np.int64))[None]
        if length > 1:
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            each = cross_entropy(logits, ids[0, 1:], reduction="none")
            total = total + (each * torch.from_numpy(np.asarray(weights[at + 1 : at + length], dtype=np.float32))).sum()
        at += length
    model.model.rotary_emb = rotary
    return total


def _compare(model: Any, loss_model: LossModel, batch: Any, rows: Sequence[Any]) -> None:
    """Value within 1e-5 per token and every gradient."""
    parameters = list(model.parameters())
    got = _run(loss_model, batch)
    gradients = torch.autograd.grad(got, parameters)
    wanted = sum((_plain(model, row, "long" if row.long else "short") for row in rows), torch.zeros(()))
    tokens = sum(len(row.input_ids) for row in rows)
    assert abs(float((got - wanted).detach())) / tokens < 1e-5
    for mine, theirs in zip(gradients, torch.autograd.grad(wanted, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("attention", ["sdpa", "eager", DOCUMENTS])
@pytest.mark.parametrize("weighted", [False, True])
def test_packed_documents_equal_the_same_documents_alone(attention: str, weighted: bool) -> None:
    model, loss_model = _model()
    model.set_attn_implementation(attention)
    rows = [tiny_segments.short_row(0, (32, 1, 1, 20, 9, 25), 8, weighted=weighted),
            tiny_segments.short_row(1, (5, 31, 32, 2, 1), 25, weighted=weighted)]  # fmt: skip
    _compare(model, loss_model, micro_batch(rows), rows)


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_a_long_row_is_read_whole_under_the_rescaled_rope(architecture: str) -> None:
    model, loss_model = _model(architecture)
    rows = [tiny_segments.long_row(0, TARGET, weighted=True)]
    _compare(model, loss_model, micro_batch(rows), rows)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_flex_attention_keeps_packed_documents_apart() -> None:
    """Not compiled, which would take half a minute; ``benchmarks/gpu/training.py`` compiles."""
    model, loss_model = _model()
    batch = micro_batch([tiny_segments.short_row(0, (32, 20, 9, 25), 10)])
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        wanted = float(_run(loss_model, batch))
        model.set_attn_implementation("flex_attention")
        got = float(_run(loss_model, batch))
        whole = float(_run(loss_model, replace(batch, position_ids=torch.arange(TARGET)[None])))
    assert abs(got - wanted) / TARGET < 1e-5
    assert abs(whole - wanted) / TARGET > 1e-3  # the documents do matter


def test_layers_recomputed_in_the_backward_use_the_same_window() -> None:
    model, loss_model = _model()
    rows = [tiny_segments.short_row(0, (32, 1, 30, 25), 8)]
    model.activation_checkpointing_enable({"use_reentrant": False})
    _compare(model, loss_model, micro_batch(rows), rows)
    _compare(model, loss_model, micro_batch([tiny_segments.long_row(1, TARGET)]), [tiny_segments.long_row(1, TARGET)])


def test_the_stated_length_decides_not_the_ids() -> None:
    """A process that holds a part of a long row, whose ids look short."""
    _, loss_model = _model()
    batch = micro_batch([tiny_segments.long_row(0, TARGET)])
    part = [each[:, :16] for each in (batch.input_ids, batch.position_ids, batch.targets)]
    long, short = (loss_model(*part, None, (length,)).detach() for length in (TARGET, 16))
    assert float(long) != float(short)


def test_a_mask_or_a_cache_on_a_packed_row_raises() -> None:
    model, _ = _model()
    batch = micro_batch([tiny_segments.short_row(0, (32, 20, 9, 25), 10)])
    ids = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
    with pytest.raises(ValueError, match="omit the mask"):
        model(**ids, attention_mask=torch.ones_like(batch.input_ids), use_cache=False)
    with pytest.raises(ValueError, match="pass use_cache=False"):
        model(**ids, use_cache=True)


def test_models_that_change_their_logits_are_refused() -> None:
    model = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(final_logit_softcapping=30.0)),
        get_output_embeddings=lambda: nn.Linear(2, 2),
    )
    with pytest.raises(UsageError, match="final_logit_softcapping"):
        LossModel(model, None, 4)  # type: ignore[arg-type]


def test_the_fused_kernel_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="GPUs only"):
        liger("cpu")
    monkeypatch.setitem(__import__("sys").modules, "liger_kernel", None)
    with pytest.raises(UsageError, match=r"pip install 'lr2eval\[train\]'"):
        liger("cuda")
