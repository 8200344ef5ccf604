"""What rows may share, decided from what a model is; and what happens where a model must read them whole."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import matrix
import pytest
import torch
from matrix_models import ARCHITECTURES, BASE
from transformers import AutoConfig, DynamicCache, LlamaForCausalLM

from lr2eval.backends.abilities import Abilities, forget_lengths
from lr2eval.backends.batching import Footprint
from lr2eval.backends.hf import WindowedHFLM
from lr2eval.errors import BackendError, UsageError
from lr2eval.model.checkpoint import Checkpoint
from tests.lr2eval.backends.helpers import Load, choice, generation, limit_forward, one_line, prompts
from tests.tiny_models import save_checkpoint, text_of

RECURRENT = "its cache holds more than keys and values of each token (LinearAttentionLayer)"
DYNAMIC = "dynamic NTK rotates all tokens of a row by its length"


def config_of(name: str, **changes: Any) -> Any:
    kind, settings, _ = ARCHITECTURES[name]
    return AutoConfig.for_model(kind, **{**BASE, **settings, **changes})


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("llama", Abilities("", math.inf, math.inf, True)),
        ("deepseek_v3", Abilities("", math.inf, math.inf, True)),
        ("mistral-sliding", Abilities("", math.inf, math.inf, False)),
        ("gemma3", Abilities("", math.inf, math.inf, False)),
        ("llama4", Abilities("", math.inf, math.inf, False)),
        ("gpt_neo", Abilities("", math.inf, math.inf, False)),  # its cache does not know of the local layers
        ("llama-dynamic", Abilities(DYNAMIC, 64, 64, True)),
        ("jamba", Abilities(RECURRENT, math.inf, math.inf, False)),
        ("qwen3_5", Abilities(RECURRENT, math.inf, math.inf, False)),
        ("gemma3n", Abilities("its cache holds more than keys and values of each token (DummyLayer)",
                              math.inf, math.inf, False)),
        ("glm_moe_dsa", Abilities("its cache holds more than keys and values of each token (DynamicIndexedLayer)",
                                  0, 0, False)),
    ],
)  # fmt: skip
def test_a_configuration_says_what_rows_may_share(name: str, found: Abilities) -> None:
    assert Abilities.of(config_of(name)) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("llama", ("", math.inf)),
        ("bloom", ("it takes no position_ids", 0)),
        ("jamba", (RECURRENT, math.inf)),
        ("openai-gpt", ("it takes no past_key_values", math.inf)),
        ("cpmant", ("it takes no position_ids", 0)),  # and ignores the mask
        ("minimax", ("it brings its own code or its own kind of cache", 0)),
        ("xlstm", ("it brings its own code or its own kind of cache", 0)),
    ],
)
def test_the_model_says_more_than_its_configuration(name: str, found: tuple[str, float]) -> None:
    kind, settings, _ = ARCHITECTURES[name]
    model = matrix.tiny(kind, settings, 0)
    abilities = Abilities.of(model.config, model)
    assert (abilities.whole, abilities.left) == found
    assert abilities.alone is ("its own kind of cache" in abilities.whole)
    assert abilities.continues is (not abilities.whole)


def test_code_from_a_checkpoint_is_trusted_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = matrix.tiny("llama", {}, 0)
    monkeypatch.setattr(model, "is_remote_code", lambda: True)
    assert not Abilities.of(model.config, model).continues
    assert (Abilities.of(model.config, model).left, Abilities.of(model.config, model).alone) == (0, True)


def test_a_cache_that_transformers_cannot_describe_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        raise KeyError("compressed_sparse_attention")

    monkeypatch.setattr(DynamicCache, "__init__", fail)
    assert Abilities.of(config_of("llama")) == Abilities("transformers does not describe its cache", 0, 0, False)


def test_rows_beyond_a_limit_need_rows_of_their_length() -> None:
    abilities = Abilities("", left=64, right=64, gap=True)
    assert abilities.company(40, 64) == abilities.company(50, 60)
    assert abilities.company(40, 65) != abilities.company(50, 60)
    assert abilities.company(40, 65) == abilities.company(40, 90) != abilities.company(41, 90)
    assert abilities.together([10, 64])
    assert abilities.together([70, 70])
    assert not abilities.together([64, 65])
    assert replace(abilities, left=math.inf).company(1, 10**6) == replace(abilities, left=math.inf).company(9, 10)


def test_dynamic_ntk_forgets_the_rows_before() -> None:
    kind, settings, _ = ARCHITECTURES["llama-dynamic"]
    model = matrix.tiny(kind, settings, 0)
    assert isinstance(model, LlamaForCausalLM)
    ids = torch.arange(2, 102)[None]
    with torch.no_grad():
        fresh = model(ids[:, :80]).logits
        model(ids)
        assert not torch.allclose(model(ids[:, :80]).logits, fresh, atol=1e-2)  # transformers remembers 100 tokens
        forget_lengths(model)
        assert torch.equal(model(ids[:, :80]).logits, fresh)


# Footprints


@pytest.mark.parametrize(
    ("name", "kv", "layer"),
    [
        ("llama", 4 * 2 * (16 + 16), (2 + 4) * 32),
        ("deepseek_v3", 4 * (16 + 8), 24 + 4 * (16 + 8 + 16)),  # a latent and a rotated key for all heads
        ("deepseek_v3-wide", 4 * (16 + 8), 24 + 4 * (16 + 8 + 32)),
        ("gemma4", 2 * 2 * (16 + 16) + 2 * 2 * (32 + 32), (2 + 4) * 64),  # layers of two head sizes
    ],
)
def test_a_footprint_counts_keys_and_values_as_they_are_cached(name: str, kv: int, layer: int) -> None:
    footprint = Footprint.of(config_of(name), 4)
    assert (footprint.kv, footprint.layer) == (4 * kv, 4 * layer)


@pytest.mark.parametrize("name", ["llama", "deepseek_v3", "gemma4", "minicpm3", "longcat_flash"])
def test_a_footprint_equals_what_a_forward_caches(name: str) -> None:
    kind, settings, _ = ARCHITECTURES[name]
    model = matrix.tiny(kind, settings, 0)
    cache = DynamicCache()
    with torch.no_grad():
        model(torch.arange(2, 12)[None], past_key_values=cache, use_cache=True)
    numbers = sum(states.numel() for layer in cache.layers for states in (layer.keys, layer.values))
    assert 10 * Footprint.of(model.config, 4).kv == 4 * numbers


def test_a_footprint_of_a_model_without_heads() -> None:
    assert Footprint.of(AutoConfig.for_model("mamba", hidden_size=64, num_hidden_layers=4), 4).kv > 0


# Models that read rows whole


@pytest.fixture(scope="module")
def jamba(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    kind, settings, _ = ARCHITECTURES["jamba"]
    folder = tmp_path_factory.mktemp("jamba")
    return Checkpoint.open(save_checkpoint(folder, matrix.tiny(kind, settings, 0)))


def test_a_chunk_that_would_change_answers_is_refused_at_the_start(jamba: Checkpoint) -> None:
    with pytest.raises(UsageError) as error:
        WindowedHFLM(jamba, device="cpu", prefill_chunk=16)
    assert one_line(error.value) == (
        f"--prefill-chunk: JambaForCausalLM cannot read prompts in pieces, because {RECURRENT}; omit the option"
    )


def test_such_a_model_never_reads_in_pieces_by_itself(jamba: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = WindowedHFLM(jamba, device="cpu", memory_limit=1)
    text = text_of(100, lm.tokenizer)
    monkeypatch.setattr("lr2eval.backends.batching.CHUNKS", (32,))
    passed = limit_forward(lm, monkeypatch, 10**9)
    lm.generate_until([generation(text, 2)])
    lm.loglikelihood([choice(text, " lamp")])
    assert (1, 100) in passed
    assert not any(width == 32 for _, width in passed)
    limit_forward(lm, monkeypatch, 50)
    for ask in (lambda: lm.generate_until([generation(text, 2)]), lambda: lm.loglikelihood([choice(text, " lamp")])):
        with pytest.raises(
            BackendError, match="does not fit into memory, even alone, and this model cannot be read in"
        ):
            ask()


# What is recorded


@pytest.mark.parametrize("request_type", ["generate_until", "loglikelihood"])
def test_a_detail_says_in_which_pieces_its_batch_was_read(
    load: Load, request_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = load()
    short, long = prompts(lm, [20, 150])
    ask = {
        "generate_until": lambda text: lm.generate_until([generation(text, 3)]),
        "loglikelihood": lambda text: lm.loglikelihood([choice(text, " lamp")]),
    }[request_type]

    def chunk(text: str) -> int:
        ask(text)
        return lm.take_details()[0].prefill_chunk

    assert chunk(long) == 0
    monkeypatch.setattr("lr2eval.backends.batching.CHUNKS", (64, 16))
    lm = load()
    limit_forward(lm, monkeypatch, 40)
    assert chunk(long) == 16  # memory forced it
    assert chunk(short) == 0
    lm = load(prefill_chunk=8)
    assert (chunk(long), chunk(short)) == (8, 8)
    lm = load(prefill_chunk=500)
    assert chunk(long) == 0
