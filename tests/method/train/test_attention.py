"""Packed rows document by document: equal to the mask of all pairs, without it; and which attention is chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GptOssConfig, GptOssForCausalLM

from lr2eval.errors import UsageError
from lr2eval.method.train import attention
from lr2eval.method.train.batches import MicroBatch, micro_batch, piece
from lr2eval.method.train.engine import Engine
from lr2eval.method.train.loss import LossModel
from lr2eval.method.train.parallel import Ranks
from lr2eval.method.train.recipe import DOCUMENTS, FLASH, FLEX, Recipe, automatic_attention
from tests import tiny_models, tiny_segments
from tests.method.train.test_loss import PLAIN, SCALING, TARGET, _model, _run

ROWS = [tiny_segments.short_row(0, (32, 1, 1, 20, 9, 25), 8), tiny_segments.short_row(1, (5, 31, 32, 2, 1), 25)]
WINDOWED = [("mistral", 8), ("phi3", 7), ("mistral", 1)]


def _found(model: Any, loss_model: LossModel, batches: list[MicroBatch], name: str) -> list[torch.Tensor]:
    """Losses and the gradients of their sum, all forwards before the backward."""
    model.set_attn_implementation(name)
    losses = [_run(loss_model, batch) for batch in batches]
    return [*losses, *torch.autograd.grad(sum(losses[1:], losses[0]), list(model.parameters()))]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("architecture", "window"), [*((each, None) for each in tiny_models.ARCHITECTURES), *WINDOWED])
def test_it_equals_the_mask_of_all_pairs(architecture: str, window: int | None, checkpointing: bool) -> None:
    """Sliding windows too; layers are recomputed after other rows, with other cuts, have gone through."""
    model, loss_model = _model(architecture, **({} if window is None else {"sliding_window": window}))
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    batches = [micro_batch(ROWS), micro_batch([tiny_segments.long_row(3, TARGET)]), micro_batch(ROWS[1:])]
    pairs = zip(*(_found(model, loss_model, batches, name) for name in ("eager", DOCUMENTS)), strict=True)
    for number, (wanted, got) in enumerate(pairs):
        if number < len(batches):
            assert abs(float((got - wanted).detach())) / TARGET < 1e-5
        else:
            torch.testing.assert_close(got, wanted, rtol=2e-3, atol=2e-3)


def test_no_token_sees_another_document() -> None:
    model, _ = _model()
    model.set_attn_implementation(DOCUMENTS)
    batch = micro_batch([tiny_segments.short_row(0, (20, 1, 30, 25), 20)])
    changed_BL = batch.input_ids.clone()
    changed_BL[0, 21:51] = 7
    with torch.no_grad():
        before, after = (
            model(input_ids=ids, position_ids=batch.position_ids, use_cache=False).logits[0]
            for ids in (batch.input_ids, changed_BL)
        )
    same = (before == after).all(-1)
    assert same[:21].all()
    assert same[51:].all()
    assert not same[21:51].any()


class _Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is made inside."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, torch.Tensor):
                self.size = max(self.size, each.numel())
        return made


@pytest.mark.parametrize("window", [None, 16])
def test_nothing_of_the_size_of_a_square_is_made(window: int | None) -> None:
    length, sizes = 1024, {}
    model, loss_model = _model("mistral", sliding_window=window)
    for kind, row in (("packed", tiny_segments.short_row(0, (32,) * 31, 32)),
                      ("long", tiny_segments.long_row(0, length))):  # fmt: skip
        for name in ("sdpa", DOCUMENTS):
            with _Largest() as seen:
                _found(model, loss_model, [micro_batch([row])], name)
            sizes[kind, name] = seen.size
    assert sizes["packed", "sdpa"] >= length**2
    assert sizes["packed", DOCUMENTS] < length**2 / 4
    assert sizes["long", DOCUMENTS] < length**2 / 4


@pytest.mark.parametrize("window", [None, 4])
def test_what_is_no_packed_row_goes_as_under_sdpa(window: int | None) -> None:
    """Padded batches with a mask, and a cache: a trained model is ready to use."""
    model, _ = _model("mistral", sliding_window=window)
    model.eval()
    ids_BL = torch.arange(2, 26).view(2, 12)
    mask_BL = torch.ones_like(ids_BL)
    mask_BL[0, :5] = 0
    found = {}
    for name in ("sdpa", DOCUMENTS):
        model.set_attn_implementation(name)
        with torch.no_grad():
            logits = model(input_ids=ids_BL, attention_mask=mask_BL).logits
            said = model.generate(ids_BL, attention_mask=mask_BL, max_new_tokens=6, do_sample=False)
        found[name] = logits, said
    assert torch.equal(found["sdpa"][0], found[DOCUMENTS][0])
    assert torch.equal(found["sdpa"][1], found[DOCUMENTS][1])


def _engine(model: Any, **changes: Any) -> Engine:
    made: dict[str, Any] = {"name": "r", "original_window": tiny_models.ORIGINAL, "target_window": TARGET,
                            "short_tokens": 0, "long_tokens": 0, "global_batch": 1}  # fmt: skip
    return Engine(model, SCALING, Recipe(**(made | changes)), Ranks())


@pytest.mark.parametrize("rows", [ROWS, ROWS[1:]])
def test_padding_is_not_computed(rows: list[Any]) -> None:
    losses = {}
    for name in ("sdpa", DOCUMENTS):
        made = _engine(tiny_models.tiny_model("llama", rope=dict(PLAIN)), attention=name)
        seen: list[int] = []
        made.model.lm_head.register_forward_pre_hook(lambda module, args, seen=seen: seen.append(len(args[0])))
        made.model.model.layers[0].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].shape[1]))
        losses[name] = float(made.loss(rows)) / TARGET
        assert seen[0] == (TARGET if name == "sdpa" else TARGET - min(row.padding for row in rows))
    assert losses["sdpa"] == pytest.approx(losses[DOCUMENTS], abs=1e-5)


def test_pieces_of_a_shared_row_add_up() -> None:
    """What the processes of a context group compute of a packed row."""
    made = _engine(tiny_models.tiny_model("llama", rope=dict(PLAIN)), attention=DOCUMENTS)
    batch = micro_batch(ROWS[:1])
    parts = [float(made._run(piece(batch, part, 3))) for part in range(3)]
    assert min(parts) > 0
    assert sum(parts) / TARGET == pytest.approx(float(made.loss(ROWS[:1])) / TARGET, abs=1e-5)


def test_attention_that_is_not_plain_is_refused() -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16, "vocab_size": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    sinks = GptOssForCausalLM(GptOssConfig(**sizes, **heads))
    assert not attention.able(sinks) & {DOCUMENTS, FLASH}
    with pytest.raises(UsageError, match="GptOssForCausalLM: attention documents does not work, as its attention is"):
        _engine(sinks, attention=DOCUMENTS)
    capped = tiny_models.tiny_model("llama", rope=dict(PLAIN))
    assert attention.refusal(capped) is None
    capped.config.attn_logit_softcapping = 50.0
    assert attention.refusal(capped) is not None
    capped._supports_attention_backend = False
    assert attention.refusal(capped) == "it does not use transformers' attention interface"


@pytest.mark.parametrize(
    ("device", "able", "micro_batch", "half", "chosen"),
    [
        ("cuda:1", (DOCUMENTS, FLEX, FLASH), 1, True, FLASH),
        ("cuda", (DOCUMENTS, FLEX, FLASH), 1, False, FLEX),  # flash kernels take no float32
        ("cuda", (DOCUMENTS, FLEX, FLASH), 2, True, FLEX),
        ("cuda", (DOCUMENTS, FLEX), 1, True, FLEX),
        ("cuda", (DOCUMENTS,), 1, True, DOCUMENTS),
        ("cpu", (DOCUMENTS, FLEX, FLASH), 1, True, DOCUMENTS),
        ("cpu", (FLEX, FLASH), 1, True, None),
        ("cuda", (), 1, True, None),
    ],
)
def test_the_attention_that_is_chosen(
    device: str, able: tuple[str, ...], micro_batch: int, half: bool, chosen: str | None
) -> None:
    assert automatic_attention(device, able, micro_batch, half) == chosen


def test_flash_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models.tiny_model("llama", rope=dict(PLAIN))
    assert attention.able(model) == {FLEX, DOCUMENTS}
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: True)
    assert attention.able(model) == {FLASH, FLEX, DOCUMENTS}
