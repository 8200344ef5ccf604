"""Log-likelihoods against one forward per row of the same weights by stock transformers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from lr2eval.backends.hf import WindowedHFLM
from lr2eval.model.checkpoint import Checkpoint
from tests.lr2eval.backends.helpers import (
    Load,
    assert_scores,
    choice,
    every_architecture,
    generation,
    prompts,
)
from tests.tiny_models import (
    ORIGINAL,
    cache_free,
    cache_free_score,
    save_checkpoint,
    text_of,
    tiny_model,
)


@every_architecture
@pytest.mark.parametrize("chunk", [None, 7, 40])
def test_log_likelihood_of_a_mixed_batch_equals_each_row_alone(
    load: Load, architecture: str, chunk: int | None
) -> None:
    lm, stock = load(architecture, prefill_chunk=chunk), tiny_model(architecture)
    contexts = prompts(lm, [3, 20, 29, 30, 31, 60, 100])
    requests = [choice(context, " copper signal") for context in contexts]
    expected = [cache_free_score(stock, *lm._pair(0, *request.args)) for request in requests]
    assert len(lm.plan("loglikelihood", requests)) == 1
    assert_scores(lm.loglikelihood(requests), expected)
    tokens = [len(lm.tok_encode("".join(request.args))) for request in requests]
    details = lm.take_details()
    assert [detail.prompt_tokens for detail in details] == tokens
    assert [detail.window for detail in details] == ["short" if n - 1 <= ORIGINAL else "long" for n in tokens]


def test_greedy_continuations_are_recognised(load: Load) -> None:
    lm, stock = load(), tiny_model("llama")
    context = lm.tok_encode(text_of(10, lm.tokenizer))
    greedy = cache_free(stock, context, 5)
    other = [*greedy[:4], (greedy[4] + 1) % 300]
    got = lm._score_pairs([(context, greedy), (context, other)])
    assert_scores(got, [cache_free_score(stock, context, tokens) for tokens in (greedy, other)])
    assert [flag for _, flag in got] == [True, False]


def test_choices_of_one_token_cost_one_forward(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = load(batch_size=2)
    contexts = prompts(lm, [10, 12, 14])
    requests = [choice(context, letter) for letter in "ABCD" for context in contexts]
    plan = lm.plan("loglikelihood", requests)
    assert sorted(map(sorted, plan)) == [[0, 3, 6, 9], [1, 2, 4, 5, 7, 8, 10, 11]]
    rows = []
    forward = lm.model.forward
    monkeypatch.setattr(lm.model, "forward", lambda ids, **rest: rows.append(len(ids)) or forward(ids, **rest))
    got = lm.loglikelihood(requests)
    assert rows == [2, 1]
    stock = tiny_model("llama")
    assert_scores(got, [cache_free_score(stock, *lm._pair(0, *request.args)) for request in requests])


def test_continuations_that_share_a_reading_at_other_cuts(load: Load) -> None:
    lm, stock = load(), tiny_model("llama")
    ids = lm.tok_encode(text_of(20, lm.tokenizer))
    pairs = [(ids[:17], [*ids[17:], 5]), (ids[:19], [ids[19], 9]), (ids, [7])]
    got = lm._score_pairs(pairs)
    assert_scores(got, [cache_free_score(stock, *pair) for pair in pairs])


def test_logits_are_made_at_needed_positions_only(load: Load) -> None:
    lm = load()
    shapes = []
    lm.model.lm_head.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape)))
    lm.loglikelihood([choice(context, "A") for context in prompts(lm, [50, 9, 20])])
    assert shapes == [(1, 3, 320)]


def test_a_model_without_a_known_head_is_scored_from_all_logits(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, stock = load(), tiny_model("llama")
    monkeypatch.setattr(lm.model, "get_output_embeddings", lambda: None)
    requests = [choice(context, " copper signal") for context in prompts(lm, [9, 50])]
    expected = [cache_free_score(stock, *lm._pair(0, *request.args)) for request in requests]
    assert_scores(lm.loglikelihood(requests), expected)


def test_rolling_log_likelihood(load: Load) -> None:
    lm, stock = load(window=48), tiny_model("llama")
    texts = prompts(lm, [20, 100])
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    short, long = (lm.tok_encode(text) for text in texts)
    got = lm.loglikelihood_rolling(requests)
    # 100 tokens: two whole windows, then the last 4 tokens after as much context as the window holds.
    windows = [([0], long[:48]), (long[47:48], long[48:96]), (long[51:96], long[96:])]
    assert got[0] == pytest.approx(cache_free_score(stock, [0], short)[0], abs=1e-3)
    total = sum(cache_free_score(stock, *window)[0] for window in windows)
    assert got[1] == pytest.approx(total, abs=1e-3)
    assert [(d.prompt_tokens, d.window) for d in lm.take_details()] == [(20, "short"), (100, "long")]
    assert lm.measure("loglikelihood_rolling", requests) == [21, 48]
    assert sorted(n for batch in lm.plan("loglikelihood_rolling", requests) for n in batch) == [0, 1]


def test_same_answers_as_lm_evals_own_model(folder: Path) -> None:
    """On a model with one RoPE, where lm-eval's ``hf`` is right: choices, empty contexts, rolling, stop strings."""
    shutil.rmtree(folder)
    save_checkpoint(folder, tiny_model("llama", rope={"rope_type": "default", "rope_theta": 1e3}))
    ours = WindowedHFLM(Checkpoint.open(folder), device="cpu")
    theirs = HFLM(pretrained=str(folder), device="cpu", batch_size=3, dtype="float32")
    texts = prompts(ours, [5, 12, 30, 60])
    scored = [choice(text, end) for text in [*texts, "", "quiet "] for end in (" copper", "A", " yellow seven")]
    assert_scores(ours.loglikelihood(scored), theirs.loglikelihood(scored, disable_tqdm=True))
    asked = [generation(text, 20, until=["a", " s"]) for text in texts]
    assert ours.generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)
    rolled = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in texts]
    for got, wanted in zip(ours.loglikelihood_rolling(rolled), theirs.loglikelihood_rolling(rolled), strict=True):
        assert got == pytest.approx(wanted, abs=1e-3)
