"""A model behind an HTTP server, through lm-eval's API model types (``local-completions``, ``local-chat-completions``).

lm-eval builds each request and parses each reply. The rest is ours: prompts are the ids that the Hugging Face backend
would read, answers are passed on as they arrive, and a failing server is asked again a few times with growing pauses.
lm-eval itself cuts long prompts on the left with a warning, retries errors that cannot go away, and waits for a whole
batch.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection, Iterator
from multiprocessing.pool import ThreadPool
from typing import Any

import requests as http
from lm_eval.api.instance import Instance
from lm_eval.models.api_models import JsonChatStr

from lr2eval.backends.requests import Ended, StreamLM, cut_middle
from lr2eval.base.ids import text_hash
from lr2eval.benchmark import ResponseDetail, Truncation
from lr2eval.errors import BackendError, UsageError
from lr2eval.model.tokenizer import PromptTokenizer

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds. The pause doubles from the first to the longest; a server's ``Retry-After`` counts up to the longest."""
_PASSING = {408, 409, 425, 429}
_STANDARD = {"temperature", "top_p", "presence_penalty", "frequency_penalty"}
_EXTENDED: dict[str, Any] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""What vLLM and SGLang take beyond the standard, with the values that change nothing."""


class ServedLM(StreamLM):
    """``api`` is lm-eval's model: it keeps ``num_concurrent`` requests in flight and tries each ``max_retries`` times.

    ``prompts`` is the tokenizer of the checkpoint that the server runs; ``limit`` and ``truncation`` as in
    :class:`PromptLM`. ``asked_by_model``: settings in the checkpoint's generation_config.json. A vLLM server applies
    them to requests that do not state others, so each request does.
    """

    def __init__(
        self,
        api: Any,
        prompts: PromptTokenizer,
        *,
        limit: int,
        truncation: Truncation = "error",
        asked_by_model: Collection[str] = (),
    ) -> None:
        super().__init__(prompts, limit=limit, truncation=truncation)
        self._api = api
        self._neutral = {key: value for key, value in _EXTENDED.items() if key in asked_by_model}
        self._chat = "chat" in type(api).__name__.lower()
        self._histories: dict[str, str] = {}
        self._stopped = threading.Event()

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text as the checkpoint's own template renders it. It is hashed, measured and sent to a completions
        server. A chat server gets the messages instead."""
        if self._chat and self.prompts.appends and not add_generation_prompt:
            raise UsageError(
                f"--backend {self._name}: the model's chat template cannot continue an answer that a task begins; use "
                "local-completions, vllm or hf"
            )
        text = super().apply_chat_template(chat_history, add_generation_prompt)
        if self._chat:
            self._histories[text_hash(text)] = json.dumps(chat_history)
        return text

    def stream(self, request_type: str, requests: list[Instance]) -> Iterator[list[Ended]]:
        """Answers as they arrive.

        Raises :class:`BackendError` when the server stops answering or refuses a request, after every request in
        flight has ended.
        """
        if request_type != "generate_until":
            yield from self._scored(request_type, requests)
            return
        order = sorted(range(len(requests)), key=lambda number: -len(self._prompt(requests[number].args[0])))
        self._stopped.clear()

        def answer(number: int) -> Ended | BaseException | None:
            if self._stopped.is_set():
                return None
            try:
                return (number, *self._generate(number, requests[number]))
            except BaseException as error:  # handed over whole
                self._stopped.set()
                return error

        # Its threads are daemons: Ctrl-C does not wait for a server that does not answer.
        pool = ThreadPool(max(1, min(self._api._concurrent, len(order))))
        failure: BaseException | None = None
        began = time.perf_counter()
        try:
            for item in pool.imap_unordered(answer, order):
                if isinstance(item, BaseException):
                    failure = failure or item
                elif item is not None:
                    yield [item]
        finally:
            self._stopped.set()
            pool.close()
            self.model_seconds += time.perf_counter() - began
        self._histories.clear()
        if failure is not None:
            raise failure

    def _scored(self, request_type: str, requests: list[Instance]) -> Iterator[list[Ended]]:
        """lm-eval's own way, one request after another. The server must echo prompts with log-probabilities."""
        for number, request in enumerate(requests):
            try:
                if request_type == "loglikelihood" and not self._chat:
                    pairs = self._fitted(self._pairs([request]))  # the tokens that every back end reads
                    [answer] = self._api._loglikelihood_tokens([(request.args, *pairs[0])], disable_tqdm=True)
                else:
                    [answer] = getattr(self._api, request_type)([request], disable_tqdm=True)
            except NotImplementedError as error:
                raise UsageError(
                    f"--backend {self._name}: can only generate; run multiple-choice tasks with local-completions, "
                    "vllm or hf"
                ) from error
            except (http.RequestException, KeyError, TypeError, AssertionError) as error:
                raise BackendError(
                    f"{self._api.base_url}: does not return log-probabilities of a prompt ({_reason(error)}); use a "
                    "completions server with echo and logprobs, or --backend vllm or hf"
                ) from error
            yield [(number, answer, ResponseDetail(finish="choice"))]

    @property
    def _name(self) -> str:
        return "local-chat-completions" if self._chat else "local-completions"

    def _generate(self, number: int, request: Instance) -> tuple[str, ResponseDetail]:
        text, decoding = request.args[0], self._decoding(request)
        whole = self._prompt(text)
        ids = cut_middle(whole, self.limit - decoding.new_tokens) if self._truncation == "middle" else whole
        stated = decoding.stated("a server", _STANDARD | _EXTENDED.keys(), "use --backend hf")
        asked = {"top_p": 1.0, **self._neutral, **stated, "temperature": decoding.extra.get("temperature", 0.0)}
        asked |= {"until": list(decoding.stops), "max_gen_toks": decoding.new_tokens}
        if self._chat:
            history = self._histories.get(text_hash(text)) or json.dumps([{"role": "user", "content": text}])
            if len(ids) < len(whole):
                raise BackendError(
                    f"request {number}: chat messages cannot be cut; use local-completions or --truncation skip"
                )
            if json.loads(history)[-1]["role"] == "assistant":
                # The task begins the answer. A server that knows these two keys continues it.
                asked |= {"add_generation_prompt": False, "continue_final_message": True}
            messages: Any = [JsonChatStr(history)]
        else:
            kept = text if ids == whole else self.tokenizer.decode(ids)
            messages = [ids if self._api.tokenized_requests else kept]
        reply = self._patiently(lambda: self._api.model_call(messages=messages, generate=True, gen_kwargs=asked))
        try:
            [said] = self._api.parse_generations(outputs=reply)
            choice, usage = reply["choices"][0], reply.get("usage") or {}
            finish = "length" if choice.get("finish_reason") == "length" else "stop"
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise BackendError(
                f"request {number}: the reply of {self._api.base_url} is not a completion ({error!r:.80}); check "
                "base_url"
            ) from error
        if said is None:
            raise BackendError(
                f"request {number}: the reply of {self._api.base_url} has no text (did the model only think?); raise "
                "the task's max_gen_toks or switch thinking off"
            )
        detail = ResponseDetail(
            prompt_tokens=usage.get("prompt_tokens") or len(ids),
            new_tokens=usage.get("completion_tokens") or len(self.prompts.encode(said)),
            finish=finish,  # type: ignore[arg-type]
            truncated_tokens=len(whole) - len(ids),
        )
        return decoding.cut(said), detail

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """``call()``, repeated after failures that may go away: no connection, timeout, overloaded or broken server."""
        pause = FIRST_PAUSE
        for attempt in range(1, self._api.max_retries + 1):
            try:
                return call()
            except http.HTTPError as error:
                reply: Any = error.response
                problem, asked = f"{reply.status_code}: {_said(reply)}", reply.headers.get("Retry-After", "")
                if reply.status_code < 500 and reply.status_code not in _PASSING:
                    raise BackendError(
                        f"{self._api.base_url} refuses a request ({problem}); check the model's name and window "
                        f"(--set {self._name}.model=..., --lengths)"
                    ) from error
            except (http.RequestException, ValueError) as error:  # ValueError: a reply that is not JSON
                problem, asked = _reason(error), ""
            wanted = float(asked) if asked.isdigit() else pause
            if attempt == self._api.max_retries or self._stopped.wait(min(wanted, LONGEST_PAUSE)):
                break
            pause *= 2
        raise BackendError(
            f"{self._api.base_url} does not answer, {attempt} tries ({problem}); finished samples are kept: fix the "
            "server and run the same command again"
        )


def _said(response: Any) -> str:
    """The message in a server's error reply, in one line."""
    try:
        reply = response.json()
        text = str(reply.get("error", reply).get("message", reply))
    except (ValueError, AttributeError):
        text = response.text
    return " ".join(text.split())[:160]


def _reason(error: BaseException) -> str:
    # requests nests its reasons: "HTTPConnectionPool(...): Max retries exceeded with ... (Caused by ...)"
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rsplit("Caused by ", 1)[-1][:160]
