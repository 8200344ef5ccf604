"""Stop strings, EOS, sampling and beams of the Hugging Face backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lr2eval.errors import BackendError
from tests.lr2eval.backends.helpers import (
    Load,
    decoded,
    generation,
    limit_forward,
    one_line,
    prompts,
)
from tests.tiny_models import (
    cache_free,
    tiny_model,
)


@pytest.mark.parametrize("cut", [4, 11, 12, 13, 20])
def test_stop_strings_work_on_both_sides_of_the_seam_and_across_it(load: Load, cut: int) -> None:
    """The prompt holds 20 tokens, so the seam lies after new token 13; the stop string is two tokens at ``cut``."""
    lm, stock = load(), tiny_model("llama")
    (text,) = prompts(lm, [20])
    whole = decoded(lm, stock, text, 24)
    tokens = cache_free(stock, lm.tok_encode(text), 24)
    stop = lm.tok_decode(tokens[cut : cut + 2])
    (answer,) = lm.generate_until([generation(text, 24, until=[stop])])
    assert answer == whole.split(stop)[0]
    (detail,) = lm.take_details()
    assert detail.finish == "stop"
    assert detail.new_tokens <= cut + 2


def test_nothing_is_decoded_for_rows_that_have_ended(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shorter row says its stop string at once, so only the longer one is worth a forward."""
    lm, stock = load(), tiny_model("llama")
    texts = prompts(lm, [20, 25])
    (first, *_) = cache_free(stock, lm.tok_encode(texts[0]), 1)
    other = decoded(lm, stock, texts[1], 20)
    stop = lm.tok_decode([first])
    assert stop not in other
    passed = limit_forward(lm, monkeypatch, 10**9)
    assert lm.generate_until([generation(text, 20, until=[stop]) for text in texts]) == ["", other]
    # Both are read. Beside the other, the longer row has 25 tokens; it goes on alone, and again from 33 on.
    assert [rows for rows, _ in passed] == [1, 1, 2] + [1] * 7 + [1] * 12


@pytest.mark.parametrize("at", [3, 12, 13, 18])
def test_eos_ends_a_row_wherever_it_comes(load: Load, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, stock = load(), tiny_model("llama")
    texts = prompts(lm, [20, 22])
    tokens = cache_free(stock, lm.tok_encode(texts[0]), 24)
    first = tokens.index(tokens[at])
    monkeypatch.setattr("tests.tiny_models.EOS", tokens[at])
    object.__setattr__(lm._decoder, "eos_ids", (tokens[at],))
    answers = lm.generate_until([generation(text, 24) for text in texts])
    assert answers == [decoded(lm, stock, text, 24) for text in texts]
    detail = lm.take_details()[0]
    assert (detail.finish, detail.new_tokens) == ("stop", first)


def test_requests_with_other_settings_never_share_a_batch(load: Load) -> None:
    lm = load()
    texts = prompts(lm, [10, 10, 10, 40])
    requests = [generation(texts[0], 4), generation(texts[1], 5), generation(texts[2], 4), generation(texts[3], 4)]
    assert lm.plan("generate_until", requests) == [[0, 2], [1], [3]]
    answers = lm.generate_until(requests)
    stock = tiny_model("llama")
    assert answers == [decoded(lm, stock, t, r.args[1]["max_gen_toks"]) for t, r in zip(texts, requests, strict=True)]


def test_sampling_settings_reach_the_model(load: Load) -> None:
    (text,) = prompts(load(), [20])
    request = generation(text, 20, do_sample=True, temperature=1.5)
    assert len({load(seed=seed).generate_until([request])[0] for seed in range(4)}) > 1


def test_beams_work_within_a_window_and_refuse_to_cross(load: Load) -> None:
    lm = load()
    texts = prompts(lm, [10, 50, 30])
    answers = lm.generate_until([generation(text, 6, num_beams=3) for text in texts[:2]])
    for text, answer in zip(texts, answers, strict=False):
        ids = torch.tensor([lm.tok_encode(text)])
        alone = tiny_model("llama")
        out = alone.generate(ids, attention_mask=torch.ones_like(ids), num_beams=3, max_new_tokens=6, use_cache=False)
        assert answer == lm.tok_decode(out[0, ids.shape[1] :].tolist())
    with pytest.raises(BackendError, match=r"a beam search cannot cross .* choose --window-policy budget"):
        lm.generate_until([generation(texts[2], 6, num_beams=3)])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"max_length": 50}, "use max_gen_toks instead"), ({"max_gen_toks": 0}, "ask for at least one token")],
)
def test_unusable_generation_settings(load: Load, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        load().generate_until(
            [generation("river stone", **{"new": 4, **kwargs} if "max_length" in kwargs else {"new": 0})]
        )
    one_line(caught.value)
