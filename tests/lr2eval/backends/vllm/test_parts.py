"""What of the vLLM backend needs no vLLM: what it is asked, how its replies are read, what its failures mean."""

from __future__ import annotations

import queue
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from lr2eval.backends.generation import Decoding
from lr2eval.backends.scoring import Reading, readings
from lr2eval.backends.vllm.engine import _last_words, _start_error, _watch
from lr2eval.backends.vllm.jobs import MOST_TOKENS, decoding_params, parts, reading_params, reading_scores, said
from lr2eval.errors import BackendError, CheckpointError, UsageError


def params(**kwargs: Any) -> dict[str, Any]:
    decoding = Decoding.parse({"until": ["\n"], "max_gen_toks": 9, **kwargs}, "</s>")
    return decoding_params(decoding, 7, [2, 5], seed=3)


def test_greedy_unless_asked_to_sample() -> None:
    greedy = params()
    assert greedy["temperature"] == 0.0
    assert greedy["max_tokens"] == 7
    assert greedy["stop"] == ["\n", "</s>"]
    assert greedy["stop_token_ids"] == [2, 5]
    assert not greedy.keys() & {"repetition_penalty", "seed", "top_p", "top_k", "do_sample"}
    sampled = params(do_sample=True, temperature=0.7, top_p=0.9, repetition_penalty=1.2, num_beams=1)
    assert (sampled["temperature"], sampled["top_p"], sampled["seed"]) == (0.7, 0.9, 3)
    assert sampled["repetition_penalty"] == 1.2
    assert not sampled.keys() & {"top_k", "do_sample", "num_beams"}


@pytest.mark.parametrize(("kwargs", "what"), [({"num_beams": 2}, "num_beams"), ({"penalty_alpha": 1}, "penalty_alpha")])
def test_what_vllm_lacks_is_refused(kwargs: dict[str, Any], what: str) -> None:
    with pytest.raises(BackendError, match=rf"{what}.*use --backend hf"):
        params(**kwargs)


def output(tokens: list[int], values: list[dict[int, Any]], finish: str = "stop", **more: Any) -> Any:
    sequence = SimpleNamespace(token_ids=tokens, logprobs=values, finish_reason=finish)
    return SimpleNamespace(outputs=[sequence], prompt_token_ids=[1, 1, 1], **more)


def lp(value: float, rank: int = 1) -> Any:
    return SimpleNamespace(logprob=value, rank=rank)


def test_an_answer_ends_before_eos() -> None:
    assert said(output([7, 8, 2], [{7: lp(-1)}, {8: lp(-1)}, {2: lp(-1)}]), [2], 0) == ([7, 8], True)
    assert said(output([7, 8], [{7: lp(-1)}, {8: lp(-1)}], "length"), [2], 0) == ([7, 8], False)
    with pytest.raises(BackendError, match=r"request 4: .* NaN or infinite after 4 tokens"):
        said(output([7, 8], [{7: lp(-1)}, {8: lp(float("nan"))}]), [2], 4)


def test_one_reading_for_all_one_token_choices_and_the_rest_inside_the_prompt() -> None:
    one, two = readings([([1, 2], [7]), ([1, 2], [9]), ([1, 2], [8, 9])])
    assert reading_params(one)["logprob_token_ids"] == [7, 9]
    assert "prompt_logprobs" not in reading_params(one)
    assert reading_params(two)["prompt_logprobs"] == 0
    reply = output([9], [{9: lp(-0.5), 7: lp(-2.0)}], "length")
    assert reading_scores(one, reply) == [(-2.0, False), (-0.5, True)]
    inner = [None, {2: lp(-9, 5)}, {8: lp(-1.0, 1)}]
    assert reading_scores(two, output([9], [{9: lp(-0.5)}], prompt_logprobs=inner)) == [(-1.5, True)]
    inner = [None, {2: lp(-9, 5)}, {8: lp(-1.0, 2)}]
    assert reading_scores(two, output([9], [{9: lp(-0.5)}], prompt_logprobs=inner)) == [(-1.5, False)]
    with pytest.raises(BackendError, match="NaN"):
        reading_scores(one, output([9], [{9: lp(float("nan")), 7: lp(-2.0)}]))


def test_more_choices_than_vllm_gives_at_once() -> None:
    count = 2 * MOST_TOKENS + 1
    split = parts(Reading([1], list(range(count)), [[token] for token in range(count)]))
    assert [len(part.members) for part in split] == [MOST_TOKENS, MOST_TOKENS, 1]
    assert [number for part in split for number in part.members] == list(range(count))


LENGTH = "(512), (0.00 GiB KV cache is needed, which is larger than the available KV cache memory (0.00 GiB). "


@pytest.mark.parametrize(
    ("log", "error", "message"),
    [
        (
            f"(EngineCore pid=7) ValueError: To serve at least one request with the model's max seq len {LENGTH}"
            "Based on the available memory, the estimated maximum model length is 384. Try increasing\n"
            "RuntimeError: Engine core initialization failed. See root cause above.",
            BackendError,
            r"m: an engine for 512 tokens .* 384 fits \(--set vllm.max_model_len=384\).*tensor_parallel_size",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", BackendError, "does not fit.*no length fits"),
        (
            "ValueError: Free memory on device cuda:0 (3/80 GiB) on startup is less than",
            BackendError,
            "m: vLLM cannot reserve its memory",
        ),
        ("ValueError: Model architectures ['OddLM'] are not supported for now.", CheckpointError, "support OddLM"),
        (
            "ValueError: User-specified max_model_len (512) is greater than the derived max_model_len",
            UsageError,
            r"m: 512 tokens exceed the window .* shorter --lengths",
        ),
        (
            "ERROR 11-25 [core.py:1] KeyError: 'rope'\n"
            "RuntimeError: Engine core initialization failed. See root cause above.",
            BackendError,
            r"m could not start: KeyError: 'rope'",
        ),
    ],
)
def test_why_an_engine_does_not_start(log: str, error: type[Exception], message: str) -> None:
    found = _start_error("m", {"max_model_len": 512}, log)
    assert type(found) is error
    with pytest.raises(error, match=message):
        raise found
    assert "\n" not in str(found)


def test_whoever_waits_for_a_dead_engine_is_told() -> None:
    resources, outputs, over = SimpleNamespace(engine_dead=False), queue.Queue[Any](), threading.Event()
    _watch(resources, outputs, over, every=0.01)
    with pytest.raises(queue.Empty):
        outputs.get(timeout=0.1)
    resources.engine_dead = True
    assert "died" in str(outputs.get(timeout=60))
    over.set()
    _watch(None, None, over)  # an engine in this process has neither


def test_last_words_of_silence() -> None:
    assert _last_words("") == ""
    assert _last_words("hello\n\n") == "hello"
