from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    DynamicCache,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PhimoeConfig,
    PhimoeForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lr2eval.method.rope.rules import longrope2
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.rope.windowed import WindowedRotaryEmbedding, install_rope, segment_lengths
from tests.tiny_models import ARCHITECTURES, CLASSES, ORIGINAL, PAIRS, cache_free, longrope, tiny_config, tiny_model

SHORT, LONG = 20, 60
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def _ids(length: int, seed: int = 0) -> list[int]:
    chooser = random.Random(seed)
    return [chooser.randrange(2, 320) for _ in range(length)]


def _both(architecture: str) -> tuple[Any, Any, WindowedRotaryEmbedding]:
    """(stock model, the same model with our rotary module, that module)."""
    stock, ours = tiny_model(architecture), tiny_model(architecture)
    rotary = install_rope(ours)
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


# Packed documents

DOCUMENTS = (SHORT, LONG, 3, ORIGINAL, ORIGINAL + 1)


def _packed(lengths: tuple[int, ...] = DOCUMENTS) -> tuple[list[list[int]], torch.Tensor, torch.Tensor]:
    """(documents, one row with all of them, position ids that restart with each)."""
    documents = [_ids(length, seed) for seed, length in enumerate(lengths)]
    row = torch.tensor([[token for document in documents for token in document]])
    return documents, row, torch.tensor([[i for length in lengths for i in range(length)]])


@every_architecture
@torch.no_grad()
def test_packed_documents_equal_separate_ones(architecture: str) -> None:
    stock, ours, _ = _both(architecture)
    documents, row, position_ids = _packed()
    # A second row with the documents in another order: the side is chosen per row and per segment.
    turned = torch.cat((row[:, SHORT:], row[:, :SHORT]), dim=1)
    ids = torch.cat((row, turned))
    positions = torch.cat((position_ids, torch.cat((position_ids[:, SHORT:], position_ids[:, :SHORT]), dim=1)))
    together = ours(ids, position_ids=positions, use_cache=False).logits
    parts = together[0].split([len(document) for document in documents])
    for document, got in zip(documents, parts, strict=True):
        want = stock(torch.tensor([document])).logits[0]
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together[1][-SHORT:], together[0][:SHORT], rtol=1e-4, atol=1e-4)
    # Stock transformers reads every document of the row under the long factors.
    wrong = stock(row, position_ids=position_ids, use_cache=False).logits[0]
    assert (wrong[:SHORT] - parts[0]).abs().max() > 0.1


@every_architecture
@torch.no_grad()
def test_packed_batches_that_would_mix_documents_are_refused(architecture: str) -> None:
    stock, ours, _ = _both(architecture)
    documents, row, position_ids = _packed((SHORT, 12))
    alone = stock(torch.tensor([documents[1]])).logits[0]
    # What would happen silently: the second document sees the first.
    for silent in ({"attention_mask": torch.ones_like(row), "use_cache": False}, {}):
        mixed = stock(row, position_ids=position_ids, **silent).logits[0, SHORT:]
        assert (mixed - alone).abs().max() > 0.1
    with pytest.raises(ValueError, match=r"packs several documents .* omit the mask$"):
        ours(row, position_ids=position_ids, attention_mask=torch.ones_like(row), use_cache=False)
    with pytest.raises(ValueError, match=r"packs several documents .* pass use_cache=False$"):
        ours(row, position_ids=position_ids)
    with pytest.raises(ValueError, match=r"packs several documents .* pass use_cache=False$"):
        ours(row, position_ids=position_ids, past_key_values=DynamicCache(), use_cache=False)
    ours.config.use_cache = False
    ours(row, position_ids=position_ids)
    ours.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"pack the 2 rows into one$"):
        ours(row.expand(2, -1), position_ids=position_ids.expand(2, -1), use_cache=False)


@torch.no_grad()
def test_batches_that_are_not_packed_are_not_refused() -> None:
    stock, ours, _ = _both("llama")
    row = _ids(SHORT)
    ids = torch.tensor([[1, 1, *row], [*row, 1, 1]])
    mask = torch.tensor([[0, 0, *[1] * SHORT], [*[1] * SHORT, 0, 0]])
    # Padding gets id 1 from `generate`: ids fall where it ends or begins.
    positions = torch.tensor([[1, 1, *range(SHORT)], [*range(SHORT), 1, 1]])
    got = ours(ids, attention_mask=mask, position_ids=positions).logits
    want = stock(torch.tensor([row])).logits[0]
    torch.testing.assert_close(got[0, 2:], want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[1, :SHORT], want, rtol=1e-4, atol=1e-4)
    # A mask with four dimensions says itself who sees whom.
    _, packed, position_ids = _packed((4, 3))
    blocks = torch.block_diag(torch.ones(4, 4), torch.ones(3, 3)).tril().bool()[None, None]
    ours(packed, position_ids=position_ids, attention_mask=blocks, use_cache=False)


def test_lengths_may_be_stated_per_segment() -> None:
    _, _, rotary = _both("llama")
    x, ids = torch.zeros(2, 6, 64), torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 0, 1, 0, 1]])
    short = rotary(x, ids)[0]
    with rotary.window(LONG):
        long = rotary(x, ids)[0]
    wanted = torch.cat((long[:1, :3], short[:1, 3:]), dim=1), torch.cat((short[1:, :4], long[1:, 4:]), dim=1)
    for stated in ([[LONG, SHORT], [2, 2, LONG]], torch.tensor([[LONG, SHORT, 0], [2, 2, LONG]])):
        with rotary.window(stated):
            assert torch.equal(rotary(x, ids)[0], torch.cat(wanted))
    with rotary.window([[LONG, SHORT]]):  # one row of ids for all rows
        assert torch.equal(rotary(x, ids[:1])[0], wanted[0].expand(2, -1, -1))
    with (
        rotary.window([[LONG], [2, 2, 2]]),
        pytest.raises(ValueError, match=r"1 final lengths .* the row has 2 segments"),
    ):
        rotary(x, ids)
    with rotary.window([[LONG, 1, 1], [2, 2, 2]]), pytest.raises(ValueError, match=r"3 final lengths .* 2 segments"):
        rotary(x, ids)
    with rotary.window([[1], [1], [1]]), pytest.raises(ValueError, match=r"3 final lengths .* the batch has 2 rows"):
        rotary(x, ids)


# Gradient checkpointing


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
@every_architecture
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_recomputes_under_the_same_window(architecture: str, reentrant: bool) -> None:
    _, row, position_ids = _packed((SHORT, LONG))
    gradients = []
    for checkpointing in (False, True):
        _, ours, rotary = _both(architecture)
        ours.train()
        if checkpointing:
            ours.gradient_checkpointing_enable({"use_reentrant": reentrant})
        with rotary.window([[LONG, SHORT]]):  # the opposite of what ids say
            loss = ours(row, position_ids=position_ids, labels=row, use_cache=False).loss
        loss.backward()  # recomputes outside the block
        gradients.append({name: p.grad for name, p in ours.named_parameters()})
    for name, plain in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], plain, rtol=1e-5, atol=1e-6, msg=name)


# Caches


@every_architecture
@torch.no_grad()
def test_chunks_of_a_prompt_equal_the_whole_prompt(architecture: str) -> None:
    stock, ours, rotary = _both(architecture)
    ids = torch.tensor([_ids(LONG)])
    cache = DynamicCache()
    with rotary.window(LONG):
        parts = [ours(part, past_key_values=cache, use_cache=True).logits for part in ids.split(16, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), stock(ids).logits, rtol=1e-4, atol=1e-4)


@every_architecture
@torch.no_grad()
def test_a_cache_is_not_continued_under_other_factors(architecture: str) -> None:
    _, ours, rotary = _both(architecture)
    ids = torch.tensor([_ids(LONG)])
    said = r"filled with the short factors but would be continued with the long ones; .* `with rotary.window"
    cache = DynamicCache()
    ours(ids[:, :ORIGINAL], past_key_values=cache)
    with pytest.raises(ValueError, match=said):
        ours(ids[:, ORIGINAL:], past_key_values=cache)
    # A default cache, copied, and one row of two: it still knows.
    out = ours(ids[:, :8].expand(2, -1), use_cache=True)
    copied = copy.deepcopy(out.past_key_values)
    with rotary.window([8, LONG]), pytest.raises(ValueError, match=said):
        ours(ids[:, 8:9].expand(2, -1), past_key_values=copied)
    copied.batch_select_indices(torch.tensor([0]))
    with rotary.window(LONG), pytest.raises(ValueError, match=said):
        ours(ids[:, 8:9], past_key_values=copied)
    with rotary.window(LONG):
        long = ours(ids[:, :8]).past_key_values
    with pytest.raises(ValueError, match="filled with the long factors but would be continued with the short ones"):
        ours(ids[:, 8:9], past_key_values=long)
    # An emptied cache is a new one.
    long.crop(-8)
    ours(ids[:, :8], past_key_values=long)


@every_architecture
def test_generation_across_the_window_by_two_calls_equals_cache_free_decoding(architecture: str) -> None:
    stock, ours, rotary = _both(architecture)
    for seed in range(5):
        prompt = torch.tensor([_ids(24, seed)])
        out = prompt
        for new in (ORIGINAL + 1 - 24, 15):
            with rotary.window(out.shape[1] + new - 1):
                out = ours.generate(out, attention_mask=torch.ones_like(out), max_new_tokens=new, do_sample=False)
        assert out[0, 24:].tolist() == cache_free(stock, prompt[0].tolist(), 24)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen3"])
def test_generation_that_would_go_stale_is_refused(architecture: str) -> None:
    _, ours, _ = _both(architecture)
    prompt = torch.tensor([_ids(24)])
    with pytest.raises(ValueError, match="filled with the short factors"):
        ours.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False)


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
    with (
        rotary.window([8, 8, 8]),
        pytest.raises(ValueError, match="3 final lengths are stated, but the batch has 2 rows"),
    ):
        rotary(x, ids)


def test_install_leaves_other_models_alone() -> None:
    model = tiny_model("llama", rope={"rope_type": "default", "rope_theta": 1e4})
    before = model.model.rotary_emb
    assert install_rope(model) is None
    assert model.model.rotary_emb is before


def test_install_names_a_decoder_it_cannot_serve() -> None:
    model = tiny_model("llama")
    del model.model.rotary_emb
    with pytest.raises(ValueError, match="LlamaForCausalLM has no single rotary module"):
        install_rope(model)


def _tiny(config: Any, model: Any, **more: Any) -> Any:
    sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
    tokens = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
    return model(config(**sizes, **heads, **tokens, **more))


def test_install_names_a_rotary_module_it_cannot_replace() -> None:
    scaling = longrope2(OriginalRope(1e4, 16, 64), 256, split=4)
    # Cohere turns neighbouring dimensions, Gemma 3 has one RoPE per kind of layer, GPT-2 has none.
    with pytest.raises(ValueError, match="CohereForCausalLM: its rotary module CohereRotaryEmbedding arranges angles"):
        install_rope(_tiny(CohereConfig, CohereForCausalLM), scaling)
    with pytest.raises(ValueError, match="Gemma3ForCausalLM has no single rotary module"):
        install_rope(_tiny(Gemma3TextConfig, Gemma3ForCausalLM, head_dim=16), scaling)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=32, bos_token_id=0, eos_token_id=0))
    assert install_rope(gpt2) is None
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no single rotary module"):
        install_rope(gpt2, scaling)
    with pytest.raises(ValueError, match="LlamaForCausalLM has 8 rotary pairs, but there are 4 factors"):
        install_rope(tiny_model("llama"), longrope2(OriginalRope(1e4, 8, 64), 256, split=2))
    model = tiny_model("llama")
    model.model.rotary_emb.forward = lambda x, position_ids, layer_type: (x, x)
    with pytest.raises(ValueError, match=r"does not work like Llama's \(TypeError: "):
        install_rope(model)


def test_qwen2_and_models_on_no_device_are_served() -> None:
    scaling = longrope2(OriginalRope(1e4, 16, 64), 256, split=4)
    assert install_rope(_tiny(Qwen2Config, Qwen2ForCausalLM), scaling) is not None
    with torch.device("meta"):
        nowhere = CLASSES["phi3"][1](tiny_config("phi3"))
    assert install_rope(nowhere) is not None


@torch.no_grad()
def test_a_temperature_for_each_window() -> None:
    """Phi-3.5-MoE states ``short_mscale`` and ``long_mscale``; the usual temperature would be 1.26."""
    torch.manual_seed(0)
    sizes = tiny_config("llama", longrope(short_mscale=1.2431, long_mscale=1.31)).to_dict()
    stock = PhimoeForCausalLM(PhimoeConfig(**sizes | {"model_type": "phimoe", "num_local_experts": 2})).eval()
    ours = copy.deepcopy(stock)
    rotary = install_rope(ours)
    assert rotary is not None
    assert (rotary.scaling.short_attention_factor, rotary.scaling.long_attention_factor) == (1.2431, 1.31)
    ids = torch.tensor([_ids(SHORT)])
    assert (ours(ids).logits - stock(ids).logits).abs().max() < 1e-4
    # Beyond the window stock reads the long temperature with the short factors; the checkpoint states long ones.
    x, beyond = torch.zeros(1, 1, 64), torch.tensor([[ORIGINAL]])
    assert stock.model.rotary_emb(x, torch.tensor([[0, ORIGINAL]]))[0][0, 0, 0] == pytest.approx(1.31)
    angles = ORIGINAL * rotary.scaling.inv_freq("long")
    assert torch.allclose(rotary(x, beyond)[0][0, 0, :PAIRS], angles.cos() * 1.31)
    assert not torch.allclose(stock.model.rotary_emb(x, beyond)[0][0, 0, :PAIRS], angles.cos() * 1.31)


@torch.no_grad()
def test_given_factors_replace_the_checkpoints_own() -> None:
    """What a search does: one model, factors that change; equal to a checkpoint made with them."""
    plain = tiny_model("llama", rope={"rope_type": "default", "rope_theta": 1000.0})
    ids = torch.tensor([_ids(LONG)])
    rotary = None
    for split in (3, 6):
        scaling = longrope2(OriginalRope(1000.0, 2 * PAIRS, ORIGINAL), 256, split=split)
        rotary, before = install_rope(plain, scaling), rotary
        assert before in (None, rotary)
        stock = tiny_model("llama", rope=scaling.rope_parameters())
        assert torch.equal(plain(ids).logits, stock(ids).logits)
    assert rotary is not None
    assert rotary.scaling == scaling
    assert len(plain.model._forward_pre_hooks) == 1


@torch.no_grad()
def test_a_copied_model_watches_itself() -> None:
    _, ours, rotary = _both("llama")
    twin = copy.deepcopy(ours)
    ids = torch.tensor([_ids(8)])
    with rotary.window(LONG):
        assert not torch.equal(ours(ids).logits, twin(ids).logits)
    cache = twin(ids).past_key_values
    with twin.model.rotary_emb.window(LONG), pytest.raises(ValueError, match="filled with the short factors"):
        twin(ids, past_key_values=cache)


def test_attention_factors_may_differ_between_windows() -> None:
    model = tiny_model("llama", rope=longrope(lr2eval_short_attention_factor=1.0, lr2eval_long_attention_factor=2.0))
    rotary = install_rope(model)
    assert rotary is not None
    x = torch.zeros(1, 1, 64)
    assert float(rotary(x, torch.zeros(1, 1, dtype=torch.int64))[0].max()) == 1.0
    with rotary.window(ORIGINAL + 1):
        assert float(rotary(x, torch.zeros(1, 1, dtype=torch.int64))[0].max()) == 2.0


# Where stock transformers differs. If one of these fails, transformers has changed, and what works around it in this
# package (two prefills, stated lengths, refusals) may no longer be needed.


@pytest.mark.parametrize(("architecture", "right"), [("llama", 0), ("mistral", 0), ("qwen3", 0), ("phi3", 10)])
def test_stock_generation_across_the_window(architecture: str, right: int) -> None:
    """A cache filled with the short factors goes stale at ``Lt``; only Phi-3 reads the whole sequence again, and that
    went wrong before transformers learnt to say so (``next_sequence_length``): 5.19 then reads the last token alone."""
    stock = tiny_model(architecture)
    if "next_sequence_length" not in type(stock).prepare_inputs_for_generation.__code__.co_consts:
        right = 0
    equal = 0
    for seed in range(10):
        prompt = _ids(24, seed)
        out = stock.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, 24), max_new_tokens=24, do_sample=False
        )
        equal += out[0, 24:].tolist() == cache_free(stock, prompt, 24)
    assert abs(equal - right) <= 2


@every_architecture
@torch.no_grad()
def test_stock_reads_a_short_row_beside_a_long_one_under_the_long_factors(architecture: str) -> None:
    stock = tiny_model(architecture)
    rows = [_ids(SHORT, 1), _ids(LONG, 2)]
    batch = _left_padded(rows)
    together = stock(**batch, position_ids=(batch["attention_mask"].cumsum(1) - 1).clamp(min=0)).logits[0, -1]
    assert (together - stock(torch.tensor([rows[0]])).logits[0, -1]).abs().max() > 0.1


@every_architecture
@torch.no_grad()
def test_stock_reads_the_first_chunks_of_a_long_prompt_under_the_short_factors(architecture: str) -> None:
    stock = tiny_model(architecture)
    ids = torch.tensor([_ids(LONG)])
    cache = DynamicCache()
    last = [stock(part, past_key_values=cache, use_cache=True).logits for part in ids.split(16, dim=1)][-1]
    assert (last[0, -1] - stock(ids).logits[0, -1]).abs().max() > 0.1


def test_stock_applies_one_attention_factor_to_both_windows() -> None:
    rope = longrope(attention_factor=2.0, lr2eval_short_attention_factor=1.0)
    stock = tiny_model("llama", rope=rope)
    assert RopeScaling.from_config(stock.config).short_attention_factor == 1.0
    assert float(stock.model.rotary_emb(torch.zeros(1, 1, 64), torch.zeros(1, 1))[0].max()) == 2.0
