"""The backend against cache-free decoding of the same weights by stock transformers."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from lr2eval._checkpoint import Checkpoint
from lr2eval._errors import BackendError, CheckpointError
from lr2eval.backends import Backend
from lr2eval.backends.hf import WindowedHFLM
from tests.tiny_models import (
    ARCHITECTURES,
    LONG_FACTOR,
    ORIGINAL,
    cache_free,
    cache_free_score,
    longrope,
    save_checkpoint,
    text_of,
    tiny_model,
)

Load = Callable[..., WindowedHFLM]
every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def generation(prompt: str, new: int, **kwargs: Any) -> Instance:
    return Instance("generate_until", {}, (prompt, {"until": [], "max_gen_toks": new, **kwargs}), 0)


def choice(context: str, continuation: str) -> Instance:
    return Instance("loglikelihood", {}, (context, continuation), 0)


def prompts(lm: WindowedHFLM, lengths: Sequence[int]) -> list[str]:
    return [text_of(length, lm.tokenizer, seed) for seed, length in enumerate(lengths)]


def decoded(lm: WindowedHFLM, model: Any, prompt: str, new: int) -> str:
    """What cache-free decoding answers, as text."""
    text: str = lm.tok_decode(cache_free(model, lm.tok_encode(prompt), new))
    return text


def assert_scores(got: Sequence[tuple[float, bool]], expected: Sequence[tuple[float, bool]]) -> None:
    for (value, greedy), (wanted, wanted_greedy) in zip(got, expected, strict=True):
        assert value == pytest.approx(wanted, abs=2e-4)
        assert greedy == wanted_greedy


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


# Generation and the window


@every_architecture
def test_generation_across_the_window_equals_cache_free_decoding(load: Load, architecture: str) -> None:
    """20 of 20: prompts of different lengths in one call, each crossing ``Lt`` = 32 at its own step."""
    lm, stock = load(architecture), tiny_model(architecture)
    texts = prompts(lm, [18 + seed % 15 for seed in range(20)])
    answers = lm.generate_until([generation(text, 24) for text in texts])
    details = lm.take_details()
    equal = [answer == decoded(lm, stock, text, 24) for answer, text in zip(answers, texts, strict=True)]
    assert equal == [True] * 20
    assert {detail.window for detail in details} == {"short->long"}
    assert {detail.new_tokens for detail in details} == {24}


@every_architecture
def test_every_side_of_the_window_in_one_call(load: Load, architecture: str) -> None:
    lm, stock = load(architecture), tiny_model(architecture)
    lengths = [5, ORIGINAL - 8, ORIGINAL - 7, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 90]
    texts = prompts(lm, lengths)
    answers = lm.generate_until([generation(text, 8) for text in texts])
    assert answers == [decoded(lm, stock, text, 8) for text in texts]
    details = lm.take_details()
    # A row of 24 or 25 tokens ends at 32 or 33: the last forward read at most 32 of them.
    expected = ["short", "short", "short", "short->long", "short->long", "long", "long"]
    assert [detail.window for detail in details] == expected
    assert [detail.prompt_tokens for detail in details] == lengths
    assert lm.take_details() == []


@every_architecture
@pytest.mark.parametrize("chunk", [7, 40])
def test_chunked_prefill_equals_whole_prefill(load: Load, architecture: str, chunk: int) -> None:
    lm, stock = load(architecture, prefill_chunk=chunk), tiny_model(architecture)
    texts = prompts(lm, [20, 30, ORIGINAL + 1, 70, 95])
    assert lm.generate_until([generation(text, 10) for text in texts]) == [
        decoded(lm, stock, text, 10) for text in texts
    ]


@every_architecture
def test_policy_budget_starts_long_when_the_answer_might_cross(load: Load, architecture: str) -> None:
    lm = load(architecture, window_policy="budget")
    stock, long = tiny_model(architecture), tiny_model(architecture, rope=longrope(short_factor=LONG_FACTOR))
    texts = prompts(lm, [10, ORIGINAL - 20, ORIGINAL - 19, 30, 60])
    answers = lm.generate_until([generation(text, 20) for text in texts])
    assert [detail.window for detail in lm.take_details()] == ["short", "short", "long", "long", "long"]
    assert answers == [decoded(lm, stock, text, 20) for text in texts[:2]] + [
        decoded(lm, long, text, 20) for text in texts[2:]
    ]


def test_models_with_one_rope_are_left_to_transformers(folder: Path) -> None:
    shutil.rmtree(folder)
    stock = tiny_model("llama", rope={"rope_type": "default", "rope_theta": 1e3})
    lm = WindowedHFLM(Checkpoint.open(save_checkpoint(folder, stock)), device="cpu")
    texts = prompts(lm, [10, 40])
    assert lm.generate_until([generation(text, 30) for text in texts]) == [decoded(lm, stock, t, 30) for t in texts]
    assert {detail.window for detail in lm.take_details()} == {"only"}


# Stop strings, EOS, sampling, beams


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
    widths = []
    forward = lm.model.forward
    monkeypatch.setattr(
        lm.model, "forward", lambda **inputs: widths.append(len(inputs["input_ids"])) or forward(**inputs)
    )
    assert lm.generate_until([generation(text, 20, until=[stop]) for text in texts]) == ["", other]
    # The longer row reads 25 ... 32 tokens beside the other, is prefilled again with 33, and reads 34 ... 44 alone.
    assert widths == [2] * 8 + [1] * 12


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
    lm = load()
    (text,) = prompts(lm, [20])
    request = generation(text, 20, do_sample=True, temperature=1.5)
    answers = set()
    for seed in range(4):
        torch.manual_seed(seed)
        answers |= set(lm.generate_until([request]))
    assert len(answers) > 1


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


# Log-likelihood


@every_architecture
@pytest.mark.parametrize("chunk", [None, 7, 40])
def test_log_likelihood_of_a_mixed_batch_equals_each_row_alone(
    load: Load, architecture: str, chunk: int | None
) -> None:
    lm, stock = load(architecture, prefill_chunk=chunk), tiny_model(architecture)
    contexts = prompts(lm, [3, 20, 29, 30, 31, 60, 100])
    requests = [choice(context, " copper signal") for context in contexts]
    expected = [cache_free_score(stock, *lm._encode_pair(*request.args)) for request in requests]
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
    got = lm._loglikelihood_tokens([(None, context, greedy), (None, context, other)])
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
    assert_scores(got, [cache_free_score(stock, *lm._encode_pair(*request.args)) for request in requests])


def test_continuations_that_share_a_reading_at_other_cuts(load: Load) -> None:
    lm, stock = load(), tiny_model("llama")
    ids = lm.tok_encode(text_of(20, lm.tokenizer))
    pairs = [(ids[:17], [*ids[17:], 5]), (ids[:19], [ids[19], 9]), (ids, [7])]
    got = lm._loglikelihood_tokens([(None, *pair) for pair in pairs])
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
    expected = [cache_free_score(stock, *lm._encode_pair(*request.args)) for request in requests]
    assert_scores(lm.loglikelihood(requests), expected)


def test_rolling_log_likelihood(load: Load) -> None:
    lm, stock = load(max_length=48), tiny_model("llama")
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


# Planning, length, memory


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
    assert load(max_length=100).limit == 100


def test_texts_are_tokenised_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = load()
    request = generation(text_of(20, lm.tokenizer), 4)
    lm.measure("generate_until", [request])
    monkeypatch.setattr(lm._encode_prompt, "_encode", lambda text: pytest.fail("tokenised again"))
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


def _limit_forward(lm: WindowedHFLM, monkeypatch: pytest.MonkeyPatch, tokens: int) -> list[tuple[int, int]]:
    """Let every forward over more than so many tokens run out of memory; returns the shapes that passed."""
    forward, passed = lm.model.forward, []

    def limited(input_ids: torch.Tensor | None = None, **rest: Any) -> Any:
        assert input_ids is not None
        if input_ids.numel() > tokens:
            raise torch.OutOfMemoryError("out of memory")
        passed.append(tuple(input_ids.shape))
        return forward(input_ids=input_ids, **rest)

    monkeypatch.setattr(lm.model, "forward", limited)
    return passed


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
def test_out_of_memory_halves_the_batch(load: Load, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    lm = load()
    texts = prompts(lm, [60, 20, 61, 59, 28, 62, 58])
    requests = [generation(t, 8) if kind == "generate_until" else choice(t, " lamp") for t in texts]
    expected = getattr(lm, kind)(requests)
    details = lm.take_details()
    passed = _limit_forward(lm, monkeypatch, 70)
    got = getattr(lm, kind)(requests)
    assert lm.take_details() == details
    assert passed
    if kind == "generate_until":
        assert got == expected
    else:
        assert_scores(got, expected)


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
def test_a_row_that_does_not_fit_is_read_in_chunks(load: Load, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("lr2eval.backends._memory.CHUNKS", (32, 16, 8))
    lm = load()
    (text,) = prompts(lm, [60])
    request = generation(text, 8) if kind == "generate_until" else choice(text, " lamp")
    expected = getattr(lm, kind)([request])
    passed = _limit_forward(lm, monkeypatch, 20)
    got = getattr(lm, kind)([request])
    assert max(columns for _, columns in passed) == 16
    if kind == "generate_until":
        assert got == expected
    else:
        assert_scores(got, expected)


def test_a_memory_limit_reads_long_prompts_in_chunks_at_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lr2eval.backends._memory.CHUNKS", (32, 16, 8))
    lm = load(memory_limit=110_000)
    (text,) = prompts(lm, [60])
    passed = _limit_forward(lm, monkeypatch, 10_000)
    got = lm.loglikelihood([choice(text, " lamp")])
    assert max(columns for _, columns in passed) < 60
    assert_scores(got, [cache_free_score(tiny_model("llama"), *lm._encode_pair(text, " lamp"))])


@pytest.mark.parametrize("kind", ["generate_until", "loglikelihood"])
def test_what_never_fits_is_named(load: Load, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    lm = load()
    (text,) = prompts(lm, [60])
    _limit_forward(lm, monkeypatch, 0)
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
    lm = load(max_length=50)
    (text,) = prompts(lm, [60])
    requests = [generation(text, 8), choice(text, " lamp seven")]
    for request in requests:
        with pytest.raises(BackendError, match=r"request 0 needs 6\d tokens, the window is 50; choose --truncation"):
            getattr(lm, request.request_type)([request])
    cutting, stock = load(max_length=50, truncation="middle"), tiny_model("llama")
    ids = lm.tok_encode(text)
    (answer,) = cutting.generate_until(requests[:1])
    assert answer == lm.tok_decode(cache_free(stock, ids[:21] + ids[-21:], 8))
    (detail,) = cutting.take_details()
    assert (detail.prompt_tokens, detail.truncated_tokens) == (42, 18)
    context, continuation = lm._encode_pair(*requests[1].args)
    room = 50 - len(continuation) + 1
    kept = context[: room // 2] + context[len(context) - (room - room // 2) :]
    assert_scores(cutting.loglikelihood(requests[1:]), [cache_free_score(stock, kept, continuation)])
    (detail,) = cutting.take_details()
    assert detail.truncated_tokens == 60 - room
    with pytest.raises(BackendError, match="the window is 50"):
        cutting.generate_until([generation(text, 50)])


# Bad models


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
    with pytest.raises(CheckpointError, match=r"no usable tokenizer .*put the model's tokenizer\.json") as caught:
        WindowedHFLM(Checkpoint.open(folder), device="cpu")
    one_line(caught.value)


def test_chat_needs_a_template(load: Load) -> None:
    with pytest.raises(CheckpointError, match="--chat needs a chat template"):
        load(chat=True)


def test_unusable_device(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        BackendError, match=r"llama: its weights cannot be put on nowhere .* choose another --device"
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


def test_dtype_and_device(load: Load) -> None:
    assert load().model.dtype is torch.float32
    assert load(dtype="bfloat16").model.dtype is torch.bfloat16


def test_a_choice_without_tokens_is_named(load: Load) -> None:
    with pytest.raises(BackendError, match="request 0: '' adds no token to its context") as caught:
        load().loglikelihood([choice("river", "")])
    one_line(caught.value)


def test_time_inside_the_model_is_counted(load: Load) -> None:
    lm: Backend = load()
    assert lm.model_seconds == 0.0
    lm.loglikelihood([choice("river", " lamp")])
    scored = lm.model_seconds
    lm.generate_until([generation("river", 2)])
    assert 0.0 < scored < lm.model_seconds
