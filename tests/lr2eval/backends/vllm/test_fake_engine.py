"""The vLLM backend without vLLM: the engine is a stand-in that answers with the Hugging Face model, token by token."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from lr2eval.backends import Postponed
from lr2eval.errors import UsageError
from lr2eval.model.checkpoint import Checkpoint
from tests.lr2eval.backends.helpers import Load, assert_scores, choice, generation, prompts
from tests.tiny_models import ORIGINAL, WINDOW, save_checkpoint, text_of, tiny_model


@dataclasses.dataclass
class EngineArgs:
    """Some of vLLM's own."""

    dtype: str = "auto"
    max_model_len: int = 0
    max_num_seqs: int = 0
    tensor_parallel_size: int = 1


@pytest.fixture(autouse=True)
def _vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("vllm", "vllm.engine", "vllm.engine.arg_utils", "vllm.platforms")
    modules = {name: ModuleType(name) for name in names}
    modules["vllm.engine.arg_utils"].EngineArgs = EngineArgs  # type: ignore[attr-defined]
    modules["vllm.platforms"].current_platform = SimpleNamespace(device_type="cpu")  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def answer(model: Any, window: str, request: Any) -> Any:
    """vLLM's ``RequestOutput`` for a request, from one whole forward a token."""
    ids, tokens, said = list(request.ids), [], []
    ends = request.params.get("stop_token_ids", ())
    for _ in range(request.params["max_tokens"]):
        with torch.no_grad():
            values = model(torch.tensor([ids + tokens]), use_cache=False).logits[0].log_softmax(-1)
        tokens.append(int(values[-1].argmax()))
        said.append({token: SimpleNamespace(logprob=float(value)) for token, value in enumerate(values[-1])})
        if tokens[-1] in ends:
            break
    read = len(ids) + len(tokens) - 1
    assert (read <= ORIGINAL) if window == "short" else (len(ids) > ORIGINAL)
    inside = [None]
    for before, token in zip(values, ids[1:], strict=False):
        rank = 1 + int((before > before[token]).sum())
        inside.append({token: SimpleNamespace(logprob=float(before[token]), rank=rank)})
    finish = "stop" if tokens[-1] in ends else "length"
    sequence = SimpleNamespace(token_ids=tokens, logprobs=said, finish_reason=finish)
    return SimpleNamespace(outputs=[sequence], prompt_token_ids=ids, prompt_logprobs=inside)


@pytest.fixture
def make(checkpoint_of: Callable[[str], Checkpoint]) -> Callable[..., Any]:
    def made(**options: Any) -> Any:
        from lr2eval.backends.vllm.backend import WindowedVLLM

        lm, model = WindowedVLLM(checkpoint_of("llama"), window=WINDOW, **options), tiny_model("llama")
        lm.ran = []

        def run(window: str, requests: Iterable[Any]) -> Iterator[list[tuple[Any, Any]]]:
            lm.ran.append(window)
            for request in requests:
                yield [(request, answer(model, window, request))]

        lm._engines.run = run
        return lm

    return made


def test_both_engines_answer_as_the_hf_backend(load: Load, make: Callable[..., Any]) -> None:
    hf, ours = load(), make()
    texts = prompts(hf, [5, ORIGINAL - 8, ORIGINAL - 7, ORIGINAL, ORIGINAL + 1, 60])
    asked = [generation(text, 8) for text in texts]
    assert ours.generate_until(asked) == hf.generate_until(asked)
    assert ours.take_details() == hf.take_details()
    assert ours.ran == ["short", "long"]
    stop = hf.generate_until(asked)[5][2:4]
    asked = [generation(texts[5], 8, until=[stop])]
    assert ours.generate_until(asked) == hf.generate_until(asked)
    ours, hf = make(window_policy="budget", truncation="middle"), load(window_policy="budget", truncation="middle")
    asked = [generation(text, 8) for text in texts[:2]]
    assert ours.generate_until(asked) == hf.generate_until(asked)
    assert ours.ran == ["short"]
    asked = [generation(text_of(WINDOW + 9, hf.tokenizer), 8)]
    assert ours.generate_until(asked) == hf.generate_until(asked)
    assert ours.take_details() == hf.take_details()


def test_scores_are_those_of_the_hf_backend(load: Load, make: Callable[..., Any]) -> None:
    hf, ours = load(), make()
    contexts = prompts(hf, [7, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, 90])
    scored = [choice(context, end) for context in contexts for end in (" A", " B", " river stone")]
    assert_scores(ours.loglikelihood(scored), hf.loglikelihood(scored))
    assert ours.take_details() == hf.take_details()
    texts = ["", text_of(10, hf.tokenizer), text_of(90, hf.tokenizer)]
    rolled = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]
    assert ours.loglikelihood_rolling(rolled) == pytest.approx(hf.loglikelihood_rolling(rolled), abs=1e-3)
    assert ours.take_details() == hf.take_details()


def test_work_for_the_second_engine_can_wait(load: Load, make: Callable[..., Any]) -> None:
    hf, ours = load(), make()
    asked = [generation(text, 8) for text in prompts(hf, [5, ORIGINAL - 2, 60])]
    expected = hf.generate_until(asked)
    ours.postpone = True
    streamed = ours.stream("generate_until", asked)
    assert [(number, text) for number, text, _ in next(streamed)] == [(0, expected[0])]
    with pytest.raises(Postponed):
        next(streamed)
    with pytest.raises(Postponed):
        list(ours.stream("loglikelihood", [choice(asked[2].args[0], " A")]))
    ours.postpone, ours.ran = False, []
    assert ours.generate_until(asked[1:]) == expected[1:]
    assert ours.ran == ["long"], "the handed-over one did not start again"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tensor_paralel_size": 2},
            "vllm.tensor_paralel_size: unknown option; did you mean vllm.tensor_parallel_size",
        ),
        ({"dtype": "half"}, "vllm.dtype: lr2eval sets this option; use --dtype"),
        ({"generation_config": "auto"}, "use --set generation.from_model=true instead"),
        ({"override_generation_config": {"top_k": 5}}, "use --set generation.KEY=VALUE instead"),
        ({"max_model_len": WINDOW + 1}, f"the model's window is {WINDOW} tokens"),
    ],
)
def test_bad_engine_options(make: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        make(options=options)


def test_an_engine_gets_its_window_and_what_the_user_set(make: Callable[..., Any]) -> None:
    lm = make(options={"tensor_parallel_size": 2, "max_model_len": 200}, batch_size=7)
    short, long = lm._engine_arguments("short"), lm._engine_arguments("long")
    assert (short["max_model_len"], long["max_model_len"], lm.limit) == (ORIGINAL + 1, 200, 200)
    assert (short["tensor_parallel_size"], short["max_num_seqs"]) == (2, 7)
    assert short["generation_config"] == long["generation_config"] == "vllm"
    for arguments, factor in ((short, "short_factor"), (long, "long_factor")):
        rope = arguments["hf_overrides"]["rope_parameters"]
        assert rope["short_factor"] == rope["long_factor"] == lm._scaling.rope_parameters()[factor]


def test_the_checkpoint_does_not_say_how_to_decode(tmp_path: Path) -> None:
    from lr2eval.backends.vllm.backend import WindowedVLLM

    folder = save_checkpoint(tmp_path / "model", tiny_model("llama"))
    wanted = {"eos_token_id": [7, 9, 10**9], "repetition_penalty": 1.3, "do_sample": True, "top_k": 5}
    (folder / "generation_config.json").write_text(json.dumps(wanted))
    lm, params = WindowedVLLM(Checkpoint.open(folder), window=WINDOW), []

    def run(window: str, requests: Iterable[Any]) -> Iterator[list[tuple[Any, Any]]]:
        for request in requests:
            params.append(dict(request.params))
            yield [(request, answer(tiny_model("llama"), window, request))]

    lm._engines.run = run  # type: ignore[assignment,method-assign]
    lm.generate_until([generation("river stone", 3)])
    [greedy] = params
    assert (greedy["temperature"], greedy["stop_token_ids"]) == (0.0, [0, 7, 9])
    assert not greedy.keys() & {"repetition_penalty", "top_k", "seed"}
