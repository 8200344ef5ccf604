"""Decoding owns its settings: no field of a checkpoint's files changes an answer, except the tokens that end it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from lr2eval.backends.hf import WindowedHFLM
from lr2eval.errors import BackendError, CheckpointError
from lr2eval.model import names
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.generation_file import answer_ends
from tests.lr2eval.backends.helpers import Load, choice, generation, one_line, prompts
from tests.tiny_models import cache_free, tiny_model

Change = Callable[..., WindowedHFLM]
VALUES = {
    "gusty-berry": "5819503",
    "outstanding-breastplate": "9618301",
    "quaint-casket": "9708445",
    "dead-revascularisation": "8962371",
}
FILLER = "Each oven follows one fine cow. The plain leaf builds the kite. The black clock turns the owl. "
POISONS: list[dict[str, Any]] = [
    {"use_cache": False},
    {"repetition_penalty": 1.3},
    {"num_beams": 4},
    {"do_sample": True, "temperature": 5.0},
    {"no_repeat_ngram_size": 2},
    {"num_return_sequences": 2, "do_sample": True},
    {"return_dict_in_generate": True, "output_scores": True, "output_attentions": True},
    {"forced_eos_token_id": 2, "forced_bos_token_id": 7},
    {"suppress_tokens": list(range(3, 2000))},
    {"begin_suppress_tokens": list(range(3, 2000))},
    {"bad_words_ids": [[token] for token in range(3, 400)]},
    {"min_length": 900, "min_new_tokens": 200},
    {"max_length": 10, "max_new_tokens": 1, "max_time": 0.0},
    {"cache_implementation": "static"},
    {"cache_implementation": "quantized", "cache_config": {"backend": "nothing"}},
    {"prefill_chunk_size": 7},
    {"guidance_scale": 3.0},
    {"penalty_alpha": 0.6, "top_k": 4},
    {"exponential_decay_length_penalty": [1, 1.5]},
    {"stop_strings": ["1", "2"]},
    {"token_healing": True},
    {"sequence_bias": [[[5], -100.0]]},
    {"watermarking_config": {"bias": 20.0, "greenlist_ratio": 0.25}},
    {"prompt_lookup_num_tokens": 3, "is_assistant": True},
    {"dola_layers": "high"},
    {"num_beam_groups": 2, "diversity_penalty": 0.5, "num_beams": 4},
    {"temperature": "hot", "top_p": 9, "num_beams": "x", "compile_config": 5},
    {"pad_token_id": 9999, "decoder_start_token_id": -3},
]


def asked(filler: int = 4) -> list[str]:
    """Four needle prompts that differ in their last line only."""
    hidden = "".join(f"{FILLER}One of the special magic numbers for {key} is: {VALUES[key]}. " for key in VALUES)
    begin = (
        "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about "
        f"the number afterwards.\n{hidden}{FILLER * filler}\n"
    )
    question = "What is the special magic number for {0} mentioned in the provided text? "
    return [
        begin + (question + "The special magic number for {0} mentioned in the provided text is").format(key)
        for key in VALUES
    ]


@pytest.fixture
def changed(tmp_path: Path) -> Change:
    """The demo model with other fields in a JSON file of its folder; a text replaces the file."""

    def make(file: str = "generation_config.json", fields: dict[str, Any] | str = "", **options: Any) -> WindowedHFLM:
        folder = tmp_path / "demo"
        shutil.copytree(names.locate("demo"), folder)
        path = folder / file
        text = fields if isinstance(fields, str) else json.dumps(json.loads(path.read_text()) | fields)
        path.write_text(text) if text else path.unlink()
        return WindowedHFLM(Checkpoint.open(folder), device="cpu", dtype="float32", **options)

    return make


@cache
def plain() -> tuple[str, ...]:
    """The demo's own answers, each prompt alone."""
    lm = WindowedHFLM(Checkpoint.open(names.locate("demo")), device="cpu", dtype="float32")
    answers = [lm.generate_until([generation(prompt, 16)])[0] for prompt in asked()]
    assert [value in answer for value, answer in zip(VALUES.values(), answers, strict=True)] == [True] * 4
    return tuple(answers)


def assert_right(lm: WindowedHFLM) -> None:
    answers = lm.generate_until([generation(prompt, 16) for prompt in asked()])
    assert tuple(answers) == plain()
    scored = lm.loglikelihood([choice(asked()[0], f" {value}") for value in VALUES.values()])
    assert [greedy for _, greedy in scored] == [True, False, False, False]


@pytest.mark.parametrize("fields", POISONS, ids="-".join)
def test_generation_config_changes_no_answer(changed: Change, fields: dict[str, Any]) -> None:
    assert_right(changed(fields=fields))


@pytest.mark.parametrize("file", [True, False], ids=["with-file", "without"])
def test_generation_fields_in_config_json_change_no_answer(changed: Change, tmp_path: Path, file: bool) -> None:
    lm_fields = {
        "repetition_penalty": 1.5, "num_beams": 4, "no_repeat_ngram_size": 2, "do_sample": True, "temperature": 9.0,
        "min_length": 500, "max_length": 5, "use_cache": False, "return_dict_in_generate": True,
        "suppress_tokens": [1, 2, 3], "forced_eos_token_id": 2, "num_return_sequences": 3,
    }  # fmt: skip
    lm = changed("config.json", lm_fields)
    if not file:
        (tmp_path / "demo" / "generation_config.json").unlink()
        lm = WindowedHFLM(Checkpoint.open(tmp_path / "demo"), device="cpu", dtype="float32")
    assert_right(lm)


def test_without_a_file_answers_are_the_same(changed: Change) -> None:
    assert_right(changed())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a JSON object"),
        ('{"temperature": NaN}', "it contains NaN, which is not a JSON number"),
        ('{"eos_token_id": "x"}', "eos_token_id is 'x', not a token id"),
        ('{"eos_token_id": [1, "a"]}', r"eos_token_id is \[1, 'a'\]"),
        ('{"eos_token_id": true}', "eos_token_id is True"),
        ('{"eos_token_id": 2.5}', r"eos_token_id is 2\.5"),
        ('{"eos_token_id": {"a": 1}}', "eos_token_id is {'a': 1}"),
    ],
)
def test_a_broken_file_is_one_line(changed: Change, text: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: .*{reason}.*; (correct|copy)") as caught:
        changed(fields=text)
    one_line(caught.value)


@pytest.mark.parametrize("place", ["generation_config.json", "config.json", "text_config"])
def test_answers_end_at_the_tokens_of_every_file(folder: Path, place: str) -> None:
    stock = tiny_model("llama")
    plain = WindowedHFLM(Checkpoint.open(folder), device="cpu")
    (text,) = prompts(plain, [20])
    tokens = cache_free(stock, plain.tok_encode(text), 12)
    end = tokens[5]
    path = folder / ("config.json" if place == "text_config" else place)
    values = json.loads(path.read_text())
    # Ids that the vocabulary lacks end nothing, as -1 in some published files.
    stated = {"eos_token_id": [end, -1, 10**9]}
    wrapped = {"model_type": "llava", "text_config": values | stated}
    path.write_text(json.dumps(wrapped if place == "text_config" else values | stated))
    checkpoint = Checkpoint.open(folder)
    if place == "text_config":  # which no text model has; only the reading is tested
        assert answer_ends(checkpoint, 0, 320) == (0, end)
        return
    lm = WindowedHFLM(checkpoint, device="cpu")
    assert lm.generate_until([generation(text, 12)]) == [lm.tok_decode(tokens[: tokens.index(end)])]
    assert answer_ends(checkpoint, None, end) == tuple(each for each in (0,) if end)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"nonsense": 1}, r"lr2eval does not support nonsense; remove it from the task"),
        ({"use_cache": False}, "does not support use_cache"),
        ({"num_return_sequences": 2}, "does not support num_return_sequences"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "does not support penalty_alpha"),
        ({"custom_generate": "/nowhere"}, "does not support custom_generate"),
        ({"do_sample": True, "temperature": -1.0}, "transformers cannot decode with .*temperature"),
        ({"repetition_penalty": "x"}, "transformers cannot decode with .*repetition_penalty"),
        ({"temperature": "hot"}, "could not convert string to float"),
        ({"num_beams": "many"}, "invalid literal for int"),
        ({"max_gen_toks": "many"}, "invalid literal for int"),
    ],
)
def test_what_transformers_would_refuse_is_one_line(load: Load, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        load().generate_until([generation("river stone", **{"new": 4, **kwargs})])
    assert one_line(caught.value).startswith("generation_kwargs: ")


def test_sampling_is_drawn_from_the_seed_and_the_rows(load: Load) -> None:
    texts = prompts(load(), [20, 22])
    hot = [generation(text, 20, do_sample=True, temperature=1.5) for text in texts]
    first = load(seed=1).generate_until(hot)
    torch.manual_seed(99)
    lm = load(seed=1)
    assert [lm.generate_until(hot), lm.generate_until(hot)] == [first, first]
    assert load(seed=2).generate_until(hot) != first


def test_no_hidden_top_k(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers samples among 50 tokens unless told otherwise; vLLM and servers sample among all."""
    lm, seen = load(), {}
    generate = lm.model.generate
    monkeypatch.setattr(lm.model, "generate", lambda *a, **k: seen.update(k) or generate(*a, **k))
    lm.generate_until([generation("river stone", 3, temperature=0.7)])
    assert {key: seen[key] for key in ("do_sample", "temperature", "top_p", "top_k")} == {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 1.0,
        "top_k": 0,
    }


def test_greedy_requests_drop_what_only_sampling_reads(load: Load) -> None:
    lm = load()
    (text,) = prompts(lm, [20])
    plain = lm.generate_until([generation(text, 12)])
    for kwargs in ({"do_sample": True, "temperature": 0.0}, {"do_sample": False, "temperature": 0.9, "top_p": 0.1}):
        assert lm.generate_until([generation(text, 12, **kwargs)]) == plain
