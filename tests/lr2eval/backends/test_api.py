"""Models behind a server: a small one on loopback that answers, fails, is slow or dies as the test says."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from lr2eval.backends import served
from lr2eval.errors import BackendError, UsageError
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.record.store import RunStore
from lr2eval.runs.backend import check_backend, importlib, load_backend
from lr2eval.runs.config import RunConfig
from tests.tiny_models import save_checkpoint, text_of, tiny_model, tiny_tokenizer
from tests.tokenizer_files import NO_LAST_ASSISTANT, with_config, with_specials

pytest.importorskip("tenacity", reason="lr2eval[api] absent: lm-eval's API models need it")

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class Server:
    """Answers the n-th request with ``script(n, payload)``: a text, a (status, JSON) pair, or ``None`` to hang up."""

    def __init__(self, script: Callable[[int, dict[str, Any]], Any]) -> None:
        self.payloads: list[dict[str, Any]] = []
        self.busy = self.most = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(outer.payloads)
                    outer.payloads.append(payload)
                    outer.busy += 1
                    outer.most = max(outer.most, outer.busy)
                reply = script(number, payload)
                with lock:
                    outer.busy -= 1
                if reply is None:
                    self.close_connection = True
                    return
                status, body = reply if isinstance(reply, tuple) else (200, completion(reply, payload))
                data = json.dumps(body).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1/completions"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def completion(text: str, payload: dict[str, Any]) -> dict[str, Any]:
    said = {"message": {"content": text}} if "messages" in payload else {"text": text}
    usage = {"completion_tokens": 3} if "messages" in payload else {"prompt_tokens": 11, "completion_tokens": 3}
    return {"choices": [{"index": 0, "finish_reason": "stop", **said}], "usage": usage}


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(script: Callable[[int, dict[str, Any]], Any] = lambda number, payload: "yes") -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = save_checkpoint(tmp_path_factory.mktemp("served") / "tiny", tiny_model("llama"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATE}))
    return Checkpoint.open(folder)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(served, "LONGEST_PAUSE", 0.02)


def backend(checkpoint: Checkpoint, url: str, kind: str = "local-completions", **options: Any) -> served.ServedLM:
    flags = {"model": str(checkpoint.folder), "tasks": "ruler", "backend": kind, "chat": "chat" in kind}
    sets = [f"{kind}.{key}={json.dumps(value)}" for key, value in {"base_url": url, **options}.items()]
    config = RunConfig.load(flags, None, sets)
    check_backend(config)
    lm = load_backend(checkpoint, config)
    assert isinstance(lm, served.ServedLM)
    return lm


def asked(*texts: str, **kwargs: Any) -> list[Instance]:
    settings = {"until": ["\n"], "max_gen_toks": 5, **kwargs}
    return [Instance("generate_until", {}, (text, settings), i, metadata=("t", i, 1)) for i, text in enumerate(texts)]


def test_the_server_gets_the_ids_that_the_model_would_read(checkpoint: Checkpoint, serve: Any) -> None:
    server = serve(lambda number, payload: "seven\nand more")
    lm = backend(checkpoint, server.url, model="served-name")
    assert lm.generate_until(asked("river stone")) == ["seven"]
    [payload] = server.payloads
    assert payload["prompt"] == [tiny_tokenizer().encode("river stone")]
    assert payload["model"] == "served-name"
    assert payload["max_tokens"] == 5
    assert payload["temperature"] == 0
    assert payload["top_p"] == 1
    assert not payload.keys() & {"do_sample", "top_k", "min_p", "repetition_penalty"}
    assert "\n" in payload["stop"]
    assert lm.measure("generate_until", asked("river stone")) == [len(payload["prompt"][0]) + 5]


def test_a_server_is_told_what_the_checkpoint_would_have_it_do(
    checkpoint: Checkpoint, serve: Any, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoint.folder, tmp_path / "asking")
    wanted = {"repetition_penalty": 1.2, "do_sample": True, "temperature": 0.6, "top_k": 20, "min_p": 0.1}
    (folder / "generation_config.json").write_text(json.dumps(wanted))
    server = serve()
    lm = backend(Checkpoint.open(folder), server.url)
    lm.generate_until(asked("a"))
    lm.generate_until(asked("a", temperature=0.5, top_k=7))
    greedy, sampled = server.payloads
    assert {key: greedy[key] for key in ("temperature", "top_p", "repetition_penalty")} == {
        "temperature": 0,
        "top_p": 1,
        "repetition_penalty": 1,
    }
    assert {key: sampled[key] for key in ("temperature", "top_k", "min_p", "repetition_penalty")} == {
        "temperature": 0.5,
        "top_k": 7,
        "min_p": 0,
        "repetition_penalty": 1,
    }
    with pytest.raises(BackendError, match=r"a server does not support num_beams; use --backend hf"):
        lm.generate_until(asked("a", num_beams=2))


def test_answers_stream_longest_first_and_so_many_at_once(checkpoint: Checkpoint, serve: Any) -> None:
    four = threading.Barrier(4, timeout=60)  # no answer before four requests are there

    def slow(number: int, payload: dict[str, Any]) -> str:
        four.wait()
        return str(len(payload["prompt"][0]))

    server = serve(slow)
    lm = backend(checkpoint, server.url, num_concurrent=4)
    texts = [text_of(length, tiny_tokenizer(), seed=length) for length in range(3, 19)]
    groups = list(lm.stream("generate_until", asked(*texts)))
    assert sorted((number, answer) for [(number, answer, _)] in groups) == [(i, str(i + 3)) for i in range(16)]
    assert server.most == 4
    assert {len(p["prompt"][0]) for p in server.payloads[:4]} == {15, 16, 17, 18}
    assert {d.prompt_tokens for [(_, _, d)] in groups} == {11}, "the server's own count is kept"
    assert lm.model_seconds > 0


@pytest.mark.parametrize("failure", [(503, {"error": {"message": "warming up"}}), (429, {}), None])
def test_what_may_pass_is_asked_again(checkpoint: Checkpoint, serve: Any, failure: Any) -> None:
    server = serve(lambda number, payload: failure if number < 2 else "yes")
    assert backend(checkpoint, server.url).generate_until(asked("a", "b")) == ["yes", "yes"]
    assert len(server.payloads) == 4


def test_pauses_grow_to_a_cap(checkpoint: Checkpoint, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = backend(checkpoint, serve(lambda number, payload: (500, {})).url, max_retries=6)
    monkeypatch.setattr(served, "FIRST_PAUSE", 1.0)
    monkeypatch.setattr(served, "LONGEST_PAUSE", 5.0)
    pauses: list[float] = []
    monkeypatch.setattr(lm._stopped, "wait", lambda seconds: bool(pauses.append(seconds)))
    with pytest.raises(BackendError, match=r"does not answer, 6 tries \(500"):
        lm.generate_until(asked("a"))
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_what_cannot_pass_is_not_asked_again(checkpoint: Checkpoint, serve: Any) -> None:
    server = serve(lambda number, payload: (404, {"error": {"message": "The model `x`\ndoes not exist."}}))
    with pytest.raises(BackendError, match=r"refuses a request \(404: The model `x` does not exist\.\); check the mod"):
        backend(checkpoint, server.url).generate_until(asked("a"))
    assert len(server.payloads) == 1


def test_a_dead_server_keeps_what_ended(checkpoint: Checkpoint, serve: Any) -> None:
    server = serve(lambda number, payload: "yes" if number < 3 else None)
    lm = backend(checkpoint, server.url, num_concurrent=2, max_retries=2)
    ended: list[int] = []
    with pytest.raises(BackendError, match=r"127\.0\.0\.1.* does not answer, .* tries .*finished samples are kept"):
        ended.extend(number for group in lm.stream("generate_until", asked(*"abcdefgh")) for number, _, _ in group)
    assert len(server.payloads) <= 3 + 2 * 2, "no new request once one has been given up"


def test_something_else_than_a_completion(checkpoint: Checkpoint, serve: Any) -> None:
    lm = backend(checkpoint, serve(lambda number, payload: (200, {"detail": "hello"})).url)
    with pytest.raises(BackendError, match=r"is not a completion .*base_url"):
        lm.generate_until(asked("a"))


def test_chat_sends_messages_and_remembers_the_rendered_prompt(checkpoint: Checkpoint, serve: Any) -> None:
    server = serve()
    lm = backend(checkpoint, server.url, "local-chat-completions")
    history = [{"role": "user", "content": "which?"}]
    text = lm.apply_chat_template(history)
    assert text == "<user>which?<assistant>"
    begun = [*history, {"role": "assistant", "content": "The"}]
    prefixed = lm.apply_chat_template(begun, add_generation_prompt=False)
    assert lm.generate_until(asked(text, prefixed)) == ["yes", "yes"]
    by_messages = {json.dumps(payload["messages"]): payload for payload in server.payloads}
    assert "continue_final_message" not in by_messages[json.dumps(history)]
    assert by_messages[json.dumps(begun)]["continue_final_message"] is True
    assert by_messages[json.dumps(begun)]["add_generation_prompt"] is False


def test_a_chat_server_is_not_asked_to_begin_an_answer_that_the_template_refuses(
    checkpoint: Checkpoint, serve: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint.folder, tmp_path / "model"))
    with_config(chat_template=NO_LAST_ASSISTANT + TEMPLATE)(folder)
    begun = [{"role": "user", "content": "which?"}, {"role": "assistant", "content": "The"}]
    server = serve()
    with pytest.raises(
        UsageError, match=r"local-chat-completions: .* cannot continue an answer that a task begins; use"
    ):
        backend(Checkpoint.open(folder), server.url, "local-chat-completions").apply_chat_template(begun, False)
    assert server.payloads == []


def test_choices_are_scored_with_the_special_tokens_of_the_tokenizer(
    checkpoint: Checkpoint, serve: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint.folder, tmp_path / "model"))
    with_specials(before=["<eos>"])(folder)

    def scored(number: int, payload: dict[str, Any]) -> tuple[int, Any]:
        [ids] = payload["prompt"]
        values = [float(-n) for n in range(len(ids) + 1)]
        logprobs = {"token_logprobs": values, "top_logprobs": [{"a": value} for value in values]}
        return 200, {"choices": [{"index": 0, "logprobs": logprobs}]}

    server = serve(scored)
    lm = backend(Checkpoint.open(folder), server.url)
    assert lm.loglikelihood([Instance("loglikelihood", {}, ("river stone", " lamp"), 0)]) == [(-3.0, True)]
    assert [payload["prompt"] for payload in server.payloads] == [[[0, *tiny_tokenizer().encode("river stone lamp")]]]


@pytest.mark.parametrize(
    ("flags", "sets", "message"),
    [
        ({}, [], r"needs the server's address: --set local-completions\.base_url=http"),
        ({"backend": "local-chat-completions"}, ["local-chat-completions.base_url=u"], r"add --chat"),
        ({}, ["local-completions.base_url=u", "local-completions.auth_token=k"], r"OPENAI_API_KEY"),
        (
            {},
            ["local-completions.base_url=u", "local-completions.num_concurent=2"],
            r"mean local-completions\.num_",
        ),
        ({"backend": "hf"}, ["hf.attention=eager"], r"hf\.attention: unknown option; hf has no options"),
        ({"backend": "hf"}, ["hf.prefill_chunk=8"], r"hf\.prefill_chunk: write prefill_chunk without hf"),
        ({"backend": "local_completions"}, [], r"local_completions: unknown; did you mean 'local-completions'"),
        ({"backend": "vllm"}, [], r"lr2eval\[vllm\].*make vllm-env"),
    ],
)
def test_bad_configurations(
    flags: dict[str, Any], sets: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RunConfig.load({"model": "m", "tasks": "ruler", "backend": "local-completions", **flags}, None, sets)
    if config.backend == "vllm":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=message):
        check_backend(config)


def test_options_of_a_model_type_that_names_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Strict:
        def __init__(self, pretrained: str, attention: str = "") -> None: ...

    class Passing(Strict):
        def __init__(self, pretrained: str, **kwargs: Any) -> None:
            self.rest = kwargs

    class Deaf(Strict):
        def __init__(self, pretrained: str, attention: str = "", **kwargs: Any) -> None: ...

    class Extending(Deaf):
        def __init__(self, pretrained: str, batch: int = 1, **more: Any) -> None:
            super().__init__(pretrained, **more)

    def check(made: type, option: str) -> None:
        monkeypatch.setattr("lm_eval.api.registry.get_model", lambda name: made)
        check_backend(RunConfig.load({"model": "m", "tasks": "ruler", "backend": "dummy"}, None, [f"dummy.{option}=x"]))

    check(Strict, "attention")
    check(Passing, "atention")  # its library may know it
    check(Extending, "attention")
    for made in (Strict, Deaf, Extending):
        with pytest.raises(UsageError, match=r"dummy\.atention: unknown option; did you mean dummy\.attention"):
            check(made, "atention")


@pytest.mark.parametrize("name", ["dummy", "gguf", "textsynth", "openai-completions", "local-completions"])
def test_model_types_of_lm_eval_that_drop_unknown_options(name: str) -> None:
    sets = [f"{name}.base_url=u", f"{name}.loud=1"] if name == "local-completions" else [f"{name}.loud=1"]
    with pytest.raises(UsageError, match=rf"{name}\.loud: unknown option"):
        check_backend(RunConfig.load({"model": "m", "tasks": "ruler", "backend": name}, None, sets))


def test_where_the_server_is_does_not_change_the_run() -> None:
    def config(*sets: str) -> Any:
        return RunConfig.load({"model": "m", "tasks": "ruler", "backend": "local-completions"}, None, sets)

    here = config("local-completions.base_url=a", "local-completions.num_concurrent=8").settings()
    assert here == config("local-completions.base_url=b").settings() == config().settings()
    assert config("local-completions.max_model_len=5").settings() == here
    assert here != config("local-completions.base_url=b", "local-completions.model=other").settings()


def test_a_run_whose_server_dies_ends_with_5_and_goes_on(
    lr2eval: Callable[..., Any], toy_checkpoint: Path, serve: Any, tmp_path: Path
) -> None:
    alive = 5

    def reply(number: int, payload: dict[str, Any]) -> Any:
        return "1234567" if number < alive else None

    server = serve(reply)
    command = (
        "run", "--model", toy_checkpoint, "--tasks", "ruler:niah_single_1", "--lengths", "768,1k",
        "--samples-per-task", "4", "--backend", "local-completions", "--offline", "--out", tmp_path / "run",
        f"--set=local-completions.base_url={server.url}", "--set=local-completions.max_retries=2",
    )  # fmt: skip
    got = lr2eval(*command)
    assert got.code == 5
    assert "does not answer" in got.error
    with RunStore.read(tmp_path / "run") as store:
        first = len(list(store.samples()))
    assert first == 4, "the shard that was finished is scored"
    tried = len(server.payloads)
    alive = 10_000
    got = lr2eval(*command)
    assert got.code == 0, got.err
    assert len(server.payloads) - tried == 8 - 5, "nothing that was answered is asked again"
    with RunStore.read(tmp_path / "run") as store:
        samples = list(store.samples())
    assert len(samples) == 8
    assert {sample.detail.prompt_tokens for sample in samples} == {11}
