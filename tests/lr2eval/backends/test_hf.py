"""The Hugging Face backend: what it refuses to load or to run, and what it counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lr2eval.backends.hf import WindowedHFLM
from lr2eval.errors import BackendError, CheckpointError
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.runs.backend import load_backend
from lr2eval.runs.config import RunConfig
from tests.lr2eval.backends.helpers import (
    Load,
    choice,
    generation,
    one_line,
)
from tests.tiny_models import (
    WINDOW,
    cache_free,
    tiny_model,
)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
def test_logits_that_are_no_numbers_stop_the_run(load: Load, kind: str, value: float) -> None:
    lm = load()
    # Only the token 7 is spoilt, so only the request that holds it gives logits that are no numbers.
    lm.model.model.embed_tokens.weight.data[7] = value
    good, bad = "river stone", lm.tok_decode([7, 8])
    assert 7 in lm.tok_encode(bad)
    requests = [
        generation(text, 4) if kind == "generate_until" else choice(text, " lamp") for text in (good, good, bad)
    ]
    with pytest.raises(
        BackendError, match=r"request 2: the model's logits are NaN or infinite .*try --dtype float32"
    ) as e:
        getattr(lm, kind)(requests)
    one_line(e.value)


def test_missing_tensors_are_not_replaced_by_random_ones(folder: Path) -> None:
    model = tiny_model("llama")
    state = {name: tensor for name, tensor in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(CheckpointError, match=r"3 tensors are missing from the weights .first: model\.layers\.1") as e:
        WindowedHFLM(Checkpoint.open(folder), device="cpu")
    one_line(e.value)


def test_weights_of_another_model(folder: Path) -> None:
    tiny_model("qwen3").config.save_pretrained(folder)
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(CheckpointError) as caught:
        WindowedHFLM(checkpoint, device="cpu")
    assert "tensors are missing" in one_line(caught.value)


def test_no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(
        CheckpointError, match=r"the tokenizer does not load .*put the model's tokenizer\.json"
    ) as caught:
        WindowedHFLM(Checkpoint.open(folder), device="cpu")
    one_line(caught.value)


def test_chat_needs_a_template(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="--chat needs a chat template"):
        PromptTokenizer.load(folder, chat=True)


def test_unusable_device(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        BackendError, match=r"llama: cannot move the weights to nowhere .* choose another --device"
    ) as e:
        load(device="nowhere")
    one_line(e.value)


def test_an_empty_prompt_starts_from_the_prefix_token(load: Load) -> None:
    lm = load()
    (answer,) = lm.generate_until([generation("", 5)])
    assert answer == lm.tok_decode(cache_free(tiny_model("llama"), [lm.prefix_token_id], 5))


def test_unknown_dtype(load: Load) -> None:
    with pytest.raises(CheckpointError, match=r"--dtype float13: unknown; choose auto, float32") as caught:
        load(dtype="float13")
    one_line(caught.value)


@pytest.mark.parametrize(("lengths", "window"), [(None, WINDOW), ("64", WINDOW), ("2k,1k", 2048)])
def test_running_beyond_the_window_reads_the_longest_length(
    checkpoint_of: Callable[[str], Checkpoint], lengths: str | None, window: int
) -> None:
    """Tasks that bring prompts of their own have no lengths: the window then is the model's."""
    checkpoint = checkpoint_of("llama")
    config = RunConfig(model="m", tasks="mmlu", lengths=lengths, beyond_window=True, device="cpu")
    assert load_backend(checkpoint, config).limit == window


def test_dtype_and_device(load: Load) -> None:
    assert load().model.dtype is torch.float32
    assert load(dtype="bfloat16").model.dtype is torch.bfloat16


def test_a_choice_without_tokens_is_named(load: Load) -> None:
    with pytest.raises(BackendError, match="request 0: '' adds no token to its context") as caught:
        load().loglikelihood([choice("river", "")])
    one_line(caught.value)


def test_time_inside_the_model_is_counted(load: Load) -> None:
    lm = load()
    assert lm.model_seconds == 0.0
    lm.loglikelihood([choice("river", " lamp")])
    scored = lm.model_seconds
    lm.generate_until([generation("river", 2)])
    assert 0.0 < scored < lm.model_seconds
