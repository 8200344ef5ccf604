"""What a user asks of decoding: checked, resolved, obeyed, recorded and shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lr2eval.errors import CheckpointError, UsageError
from lr2eval.model import names
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.generation_file import asked_of_decoding
from lr2eval.runs.config import RunConfig
from lr2eval.runs.decoding import notes, resolved

Run = Callable[..., Any]
QUICK = ("--tasks", "ruler:niah_single_1", "--lengths", "512", "--samples-per-task", "3", "--offline", "--dtype",
         "float32", "--device", "cpu")  # fmt: skip
CHAT = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05}


def config(*sets: str) -> RunConfig:
    return RunConfig.load({"model": "m", "tasks": "ruler"}, None, [f"generation.{each}" for each in sets])


@pytest.fixture
def asking(tmp_path: Path) -> Callable[..., Path]:
    """The demo model with other fields in its ``generation_config.json``."""

    def make(fields: dict[str, Any] | None) -> Path:
        folder = tmp_path / "asking"
        shutil.copytree(names.locate("demo"), folder)
        path = folder / "generation_config.json"
        if fields is None:
            path.unlink()
        else:
            path.write_text(json.dumps({"eos_token_id": 2, **fields}))
        return folder

    return make


def test_only_what_is_given_is_asked_for() -> None:
    assert config().generation.given() == {}
    assert "generation" not in config().settings()
    assert config("repetition_penalty=1.2").generation.given() == {"repetition_penalty": 1.2}
    warm = {"do_sample": True, "temperature": 0.7}
    assert config("temperature=0.7").generation.given() == warm
    assert config("temperature=0.7").settings()["generation"] == {"temperature": 0.7}
    assert config("temperature=0").generation.given() == {"do_sample": False, "temperature": 0.0}
    # A task may state a temperature of 0, which must not undo what the user wants.
    assert config("do_sample=true").generation.given() == {"do_sample": True, "temperature": 1.0}


@pytest.mark.parametrize(
    ("stated", "asked"),
    [
        ({"transformers_version": "5", "pad_token_id": 0, "use_cache": False, "max_length": 9, "top_k": 50}, {}),
        ({"temperature": 0.6, "top_p": 0.9, "do_sample": False}, {}),
        (CHAT, CHAT),
        ({"repetition_penalty": 1.0, "num_beams": 1, "no_repeat_ngram_size": 0, "bad_words_ids": None}, {}),
        ({"num_beams": 4, "length_penalty": 2.0}, {"num_beams": 4, "length_penalty": 2.0}),
        ({"length_penalty": 2.0, "early_stopping": True}, {}),
        ({"suppress_tokens": [5], "begin_suppress_tokens": []}, {"suppress_tokens": [5]}),
    ],
)
def test_what_a_file_asks_for(stated: dict[str, Any], asked: dict[str, Any]) -> None:
    assert asked_of_decoding(stated) == asked


def test_the_settings_of_the_model_are_taken_when_asked_for(asking: Callable[..., Path]) -> None:
    checkpoint = Checkpoint.open(asking(CHAT))
    assert resolved(config("from_model=true").generation, checkpoint, "hf").given() == CHAT
    changed = resolved(config("from_model=true", "temperature=0.3").generation, checkpoint, "vllm").given()
    assert changed == {**CHAT, "temperature": 0.3}
    assert resolved(config().generation, checkpoint, "hf").given() == {}
    assert list(notes(config().generation, checkpoint)) == [
        "asking: generation_config.json asks for do_sample, repetition_penalty 1.05, temperature 0.6, top_p 0.9, "
        "top_k 20; lr2eval decodes greedily; add --set generation.from_model=true to use it"
    ]
    assert list(notes(resolved(config("from_model=true").generation, checkpoint, "hf"), checkpoint)) == [
        "asking: answers are decoded with do_sample, temperature 0.6, top_p 0.9, top_k 20, repetition_penalty 1.05"
    ]


@pytest.mark.parametrize(
    ("stated", "error", "message"),
    [
        (None, UsageError, r"generation\.from_model: asking has no generation_config\.json; omit it"),
        ({"suppress_tokens": [4]}, UsageError, r"also asks for suppress_tokens, which lr2eval does not have"),
        ({"do_sample": True, "typical_p": 0.4}, UsageError, r"also asks for typical_p"),
        ({"num_beams": 4}, UsageError, r"generation\.num_beams: --backend vllm does not have it; use --backend hf"),
        (
            {"repetition_penalty": "hot"},
            CheckpointError,
            r"generation_config\.json: damaged at repetition_penalty .*; correct it",
        ),
        ({"do_sample": True, "temperature": 0.0}, CheckpointError, r"needs a temperature above 0"),
        ({"do_sample": True, "top_p": 7}, CheckpointError, r"damaged at top_p "),
    ],
)
def test_a_file_that_cannot_be_taken(
    asking: Callable[..., Path], stated: dict[str, Any] | None, error: type[Exception], message: str
) -> None:
    checkpoint = Checkpoint.open(asking(stated))
    with pytest.raises(error, match=message) as caught:
        resolved(config("from_model=true").generation, checkpoint, "vllm")
    assert "\n" not in str(caught.value)


def test_a_run_records_and_shows_what_was_asked(lr2eval: Run, asking: Callable[..., Path], tmp_path: Path) -> None:
    model = asking({"repetition_penalty": 5.0, "use_cache": False})
    plain, own = tmp_path / "plain", tmp_path / "own"
    done = lr2eval("run", "--model", model, *QUICK, "--out", plain)
    assert done.code == 0, done.err
    assert "asks for repetition_penalty 5.0; lr2eval decodes greedily; add --set generation.from_model=true" in done.err
    asked = ("run", "--model", model, *QUICK, "--set", "generation.from_model=true", "--out", own)
    done = lr2eval(*asked)
    assert done.code == 0, done.err
    assert "answers are decoded with repetition_penalty 5.0" in done.err
    scores = [json.loads((out / "results.json").read_text())["shards"][0]["score"] for out in (plain, own)]
    assert scores == [100, 0], "the penalty hits what the needle task asks to copy"
    manifest = json.loads((own / "manifest.json").read_text())
    assert manifest["settings"]["config"]["generation"] == manifest["config"]["generation"] == {"repetition_penalty": 5}
    assert "generation" not in json.loads((plain / "manifest.json").read_text())["settings"]["config"]
    assert "generation.repetition_" in (own / "report.html").read_text()

    # The same command goes on; one without the wish, or a file that asks for something else, does not.
    assert lr2eval(*asked).code == 0
    other = lr2eval("run", "--model", model, *QUICK, "--out", own)
    assert "config.generation.repetition_penalty: was 5.0, now null" in other.error
    (model / "generation_config.json").write_text('{"repetition_penalty": 3.0}')
    assert "was 5.0, now 3.0" in lr2eval(*asked).error

    compared = lr2eval("compare", plain, own, "--out", tmp_path / "both")
    assert compared.code == 0, compared.err
    caveats = json.loads((tmp_path / "both" / "comparison.json").read_text())["pairs"][0]["caveats"]
    said = "generation: none for asking (plain), repetition_penalty 5.0 for asking (own)"
    assert caveats == [said, "both runs are of the same model"]


def test_a_pair_takes_the_settings_of_each_model(lr2eval: Run, asking: Callable[..., Path], tmp_path: Path) -> None:
    pair = ("--model", asking({"repetition_penalty": 5.0}), "--baseline", "demo")
    done = lr2eval("run", *pair, *QUICK, "--set", "generation.from_model=true", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    settings = [
        json.loads((tmp_path / "run" / part / "manifest.json").read_text())["settings"]["config"]
        for part in ("original", "extended")
    ]
    assert [each.get("generation") for each in settings] == [None, {"repetition_penalty": 5.0}]


def test_workers_decode_as_asked(lr2eval: Run, tmp_path: Path) -> None:
    digests = []
    for workers in ("1", "2"):
        out = tmp_path / workers
        sets = ("--set", "generation.temperature=3", "--workers", workers, "--out", out)
        done = lr2eval("run", "--model", "demo", *QUICK, *sets)
        assert done.code == 0, done.err
        results = json.loads((out / "results.json").read_text())
        assert results["shards"][0]["score"] < 100
        digests.append(results["digest"])
    assert digests[0] == digests[1], "the same batches draw the same tokens"


@pytest.mark.parametrize("text", ["{", '{"eos_token_id": "x"}', '{"eos_token_id": [1, "a"]}', '{"temperature": NaN}'])
def test_a_broken_file_ends_a_run_before_weights_are_loaded(
    lr2eval: Run, asking: Callable[..., Path], tmp_path: Path, text: str
) -> None:
    model = asking({})
    (model / "generation_config.json").write_text(text)
    done = lr2eval("run", "--model", model, *QUICK, "--out", tmp_path / "run")
    assert done.code == 2
    assert done.error.startswith(f"{model / 'generation_config.json'}: ")
    assert not (tmp_path / "run").exists()
