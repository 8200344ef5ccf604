from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from lr2eval.method.windowed import WindowedRotaryEmbedding, install, segment_lengths
from tests.tiny_models import ARCHITECTURES, ORIGINAL, cache_free, longrope, tiny_model

SHORT, LONG = 20, 60
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def _ids(length: int, seed: int = 0) -> list[int]:
    chooser = random.Random(seed)
    return [chooser.randrange(2, 320) for _ in range(length)]


def _both(architecture: str) -> tuple[Any, Any, WindowedRotaryEmbedding]:
    """(stock model, the same model with our rotary module, that module)."""
    stock, ours = tiny_model(architecture), tiny_model(architecture)
    rotary = install(ours)
    assert rotary is not None
    return stock, ours, rotary


def _left_padded(rows: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[1] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


@every_architecture
@pytest.mark.parametrize("length", [1, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 3 * ORIGINAL])
@torch.no_grad()
def test_equals_stock_where_stock_is_right(architecture: str, length: int) -> None:
    stock, ours, _ = _both(architecture)
    ids = torch.tensor([_ids(length)])
    assert torch.equal(ours(ids).logits, stock(ids).logits)


@torch.no_grad()
def test_tables_survive_a_cast_of_the_model() -> None:
    stock, ours, _ = _both("llama")
    x, ids = torch.zeros(1, 1, 64, dtype=torch.bfloat16), torch.arange(200)[None]
    before = stock.model.rotary_emb(x, ids)
    after = ours.to(torch.bfloat16).model.rotary_emb(x, ids)
    assert after[0].dtype is torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@every_architecture
@torch.no_grad()
def test_short_row_beside_long_row_left_padded(architecture: str) -> None:
    stock, ours, _ = _both(architecture)
    rows = [_ids(SHORT, 1), _ids(LONG, 2)]
    batch = _left_padded(rows)
    position_ids = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    together = ours(**batch, position_ids=position_ids).logits[:, -1]
    for logits, row in zip(together, rows, strict=True):
        torch.testing.assert_close(logits, stock(torch.tensor([row])).logits[0, -1], rtol=1e-4, atol=1e-4)


@every_architecture
@torch.no_grad()
def test_short_row_beside_long_row_right_padded(architecture: str) -> None:
    stock, ours, rotary = _both(architecture)
    rows = [_ids(SHORT, 1), _ids(LONG, 2)]
    ids = torch.tensor([row + [0] * (LONG - len(row)) for row in rows])
    with rotary.window([len(row) for row in rows]):
        together = ours(ids).logits
    for logits, row in zip(together, rows, strict=True):
        alone = stock(torch.tensor([row])).logits[0]
        torch.testing.assert_close(logits[: len(row)], alone, rtol=1e-4, atol=1e-4)


@every_architecture
def test_generation_of_a_short_row_beside_a_long_row(architecture: str) -> None:
    stock, ours, _ = _both(architecture)
    rows = [_ids(SHORT, 1), _ids(LONG, 2)]
    out = ours.generate(**_left_padded(rows), max_new_tokens=8, do_sample=False)
    for tokens, row in zip(out[:, LONG:].tolist(), rows, strict=True):
        assert tokens == cache_free(stock, row, 8)


def test_packed_documents_are_judged_one_by_one() -> None:
    stock, ours, _ = _both("llama")
    x = torch.zeros(1, SHORT + LONG, 64)
    packed = ours.model.rotary_emb(x, torch.tensor([[*range(SHORT), *range(LONG)]]))
    for got, short, long in zip(
        packed,
        stock.model.rotary_emb(x, torch.arange(SHORT)[None]),
        stock.model.rotary_emb(x, torch.arange(LONG)[None]),
        strict=True,
    ):
        assert torch.equal(got, torch.cat((short, long), dim=1))


def test_segment_lengths_end_where_ids_fall() -> None:
    ids = torch.tensor([[0, 1, 2, 0, 1, 0], [1, 1, 0, 1, 2, 3], [7, 8, 9, 10, 11, 12], [0, 0, 0, 1, 2, 3]])
    assert segment_lengths(ids).tolist() == [[3, 3, 3, 2, 2, 1], [2, 2, 4, 4, 4, 4], [13] * 6, [4] * 6]


def test_stated_lengths_overrule_ids_and_end_with_the_block() -> None:
    _, _, rotary = _both("llama")
    x, ids = torch.zeros(2, 8, 64), torch.arange(8)[None]
    free = rotary(x, ids)[0]
    with rotary.window(ORIGINAL + 1):
        stated = rotary(x, ids)[0]
        with rotary.window(torch.tensor([8, ORIGINAL + 1])):
            mixed = rotary(x, ids)[0]
        assert torch.equal(rotary(x, ids)[0], stated)
    assert torch.equal(rotary(x, ids)[0], free)
    assert not torch.equal(stated, free)
    assert torch.equal(mixed[0], free[0])
    assert torch.equal(mixed[1], stated[0])
    with rotary.window([8, 8, 8]), pytest.raises(ValueError, match="3 final lengths were stated for a batch of 2 rows"):
        rotary(x, ids)


def test_install_leaves_other_models_alone() -> None:
    model = tiny_model("llama", rope={"rope_type": "default", "rope_theta": 1e4})
    before = model.model.rotary_emb
    assert install(model) is None
    assert model.model.rotary_emb is before


def test_install_names_a_decoder_it_cannot_serve() -> None:
    model = tiny_model("llama")
    del model.model.rotary_emb
    with pytest.raises(ValueError, match="LlamaForCausalLM has no single rotary module"):
        install(model)


def test_attention_factors_may_differ_between_windows() -> None:
    model = tiny_model("llama", rope=longrope(lr2eval_short_attention_factor=1.0, lr2eval_long_attention_factor=2.0))
    rotary = install(model)
    assert rotary is not None
    x = torch.zeros(1, 1, 64)
    assert float(rotary(x, torch.zeros(1, 1, dtype=torch.int64))[0].max()) == 1.0
    with rotary.window(ORIGINAL + 1):
        assert float(rotary(x, torch.zeros(1, 1, dtype=torch.int64))[0].max()) == 2.0


def test_stock_llama_fails_to_cross_the_window() -> None:
    """Documents why the backend decodes in two phases: a cache filled under the short factors goes stale at ``Lt``.

    If this fails, transformers has changed, and the second prefill may no longer be needed.
    """
    stock = tiny_model("llama")
    equal = 0
    for seed in range(20):
        prompt = _ids(24, seed)
        out = stock.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, 24), max_new_tokens=24, do_sample=False
        )
        equal += out[0, 24:].tolist() == cache_free(stock, prompt, 24)
    assert equal <= 4
