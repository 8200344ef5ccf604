"""Batches, lengths and memory of the Hugging Face backend."""

from __future__ import annotations

from typing import Any

import pytest

from lr2eval.errors import BackendError
from tests.lr2eval.backends.helpers import (
    Load,
    assert_scores,
    choice,
    generation,
    limit_forward,
    one_line,
    prompts,
)
from tests.tiny_models import (
    ORIGINAL,
    cache_free,
    cache_free_score,
    text_of,
    tiny_model,
)


def test_plans_are_deterministic_and_stable_under_replanning(load: Load) -> None:
    lm = load(batch_size=4)
    texts = prompts(lm, [5, 40, 12, 33, 7, 80, 40, 31, 9, 10, 11])
    for requests in ([generation(t, 6) for t in texts], [choice(t, c) for t in texts for c in (" A", " lamp")]):
        kind = requests[0].request_type
        plan = lm.plan(kind, requests)
        assert sorted(number for batch in plan for number in batch) == list(range(len(requests)))
        assert lm.plan(kind, requests) == plan
        for batch in plan:
            again = lm.plan(kind, [requests[number] for number in batch])
            assert again == [list(range(len(batch)))]
            if kind == "generate_until":
                lengths = [len(lm.tok_encode(requests[number].args[0])) for number in batch]
                assert lengths == sorted(lengths, reverse=True)
                assert (max(lengths) <= ORIGINAL) == (min(lengths) <= ORIGINAL)


def test_measure_counts_prompt_and_answer(load: Load) -> None:
    lm = load()
    texts = prompts(lm, [5, 40])
    assert lm.measure("generate_until", [generation(text, 6) for text in texts]) == [11, 46]
    assert lm.measure("loglikelihood", [choice(texts[1], "A")]) == [41]
    assert lm.limit == 256
    assert load(window=100).limit == 100


def test_texts_are_tokenised_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = load()
    request = generation(text_of(20, lm.tokenizer), 4)
    lm.measure("generate_until", [request])
    monkeypatch.setattr(lm.tok_encode, "_encode", lambda text: pytest.fail("tokenised again"))
    lm.plan("generate_until", [request])
    lm.generate_until([request])


def test_a_smaller_memory_plans_smaller_batches(load: Load) -> None:
    plenty, scarce = load(), load(memory_limit=400_000)
    texts = prompts(plenty, [60] * 8)
    for requests in ([generation(t, 4) for t in texts], [choice(t, " lamp") for t in texts]):
        kind = requests[0].request_type
        assert len(plenty.plan(kind, requests)) == 1
        assert 1 < len(scarce.plan(kind, requests)) <= 8
        answers = [getattr(lm, kind)(requests) for lm in (plenty, scarce)]
        if kind == "generate_until":
            assert answers[0] == answers[1]
        else:
            assert_scores(answers[1], answers[0])


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
def test_out_of_memory_halves_the_batch(load: Load, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    lm = load()
    texts = prompts(lm, [60, 20, 61, 59, 28, 62, 58])
    requests = [generation(t, 8) if kind == "generate_until" else choice(t, " lamp") for t in texts]
    expected = getattr(lm, kind)(requests)
    details = lm.take_details()
    passed = limit_forward(lm, monkeypatch, 70)
    got = getattr(lm, kind)(requests)
    assert lm.take_details() == details
    assert passed
    if kind == "generate_until":
        assert got == expected
    else:
        assert_scores(got, expected)


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
def test_a_row_that_does_not_fit_is_read_in_chunks(load: Load, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("lr2eval.backends.batching.CHUNKS", (32, 16, 8))
    lm = load()
    (text,) = prompts(lm, [60])
    request = generation(text, 8) if kind == "generate_until" else choice(text, " lamp")
    expected = getattr(lm, kind)([request])
    passed = limit_forward(lm, monkeypatch, 20)
    got = getattr(lm, kind)([request])
    assert max(columns for _, columns in passed) == 16
    if kind == "generate_until":
        assert got == expected
    else:
        assert_scores(got, expected)


def test_a_memory_limit_reads_long_prompts_in_chunks_at_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lr2eval.backends.batching.CHUNKS", (32, 16, 8))
    lm = load(memory_limit=110_000)
    (text,) = prompts(lm, [60])
    passed = limit_forward(lm, monkeypatch, 10_000)
    got = lm.loglikelihood([choice(text, " lamp")])
    assert max(columns for _, columns in passed) < 60
    assert_scores(got, [cache_free_score(tiny_model("llama"), *lm._pair(0, text, " lamp"))])


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
def test_what_never_fits_is_named(load: Load, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    lm = load()
    (text,) = prompts(lm, [60])
    limit_forward(lm, monkeypatch, 0)
    with pytest.raises(
        BackendError, match=r"a sequence of 60 tokens does not fit .* choose shorter --lengths"
    ) as caught:
        getattr(lm, kind)([generation(text, 8) if kind == "generate_until" else choice(text, "A")])
    one_line(caught.value)


def test_other_runtime_errors_are_not_taken_for_memory(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = load()

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(lm.model, "forward", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        lm.loglikelihood([choice("river", " lamp")])


def test_too_long_prompts_raise_unless_their_middle_may_go(load: Load) -> None:
    lm = load(window=50)
    (text,) = prompts(lm, [60])
    requests = [generation(text, 8), choice(text, " lamp seven")]
    for request in requests:
        with pytest.raises(BackendError, match=r"request 0 needs 6\d tokens, the window is 50; choose --truncation"):
            getattr(lm, request.request_type)([request])
    cutting, stock = load(window=50, truncation="middle"), tiny_model("llama")
    ids = lm.tok_encode(text)
    (answer,) = cutting.generate_until(requests[:1])
    assert answer == lm.tok_decode(cache_free(stock, ids[:21] + ids[-21:], 8))
    (detail,) = cutting.take_details()
    assert (detail.prompt_tokens, detail.truncated_tokens) == (42, 18)
    context, continuation = lm._pair(0, *requests[1].args)
    room = 50 - len(continuation) + 1
    kept = context[: room // 2] + context[len(context) - (room - room // 2) :]
    assert_scores(cutting.loglikelihood(requests[1:]), [cache_free_score(stock, kept, continuation)])
    (detail,) = cutting.take_details()
    assert detail.truncated_tokens == 60 - room
    with pytest.raises(BackendError, match="the window is 50"):
        cutting.generate_until([generation(text, 50)])
