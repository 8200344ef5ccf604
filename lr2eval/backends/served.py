"""A model behind an HTTP server, through lm-eval's API model types (``local-completions``, ``local-chat-completions``).

lm-eval builds the request and reads the reply. What goes round them is ours: prompts are the ids the Hugging Face
backend would read, answers are handed on as they come, and a server that fails is asked again a few times, ever more
slowly. lm-eval itself cuts long prompts on the left with a warning, retries what cannot succeed, and waits for a whole
batch.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import requests as http
from lm_eval.api.model import LM
from lm_eval.models.api_models import JsonChatStr

from lr2eval.backends.generation import Decoding
from lr2eval.backends.requests import TokenCache, cut_middle
from lr2eval.base.ids import text_hash
from lr2eval.benchmark import ResponseDetail, Truncation
from lr2eval.errors import BackendError, UsageError
from lr2eval.model.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

TRIES = 5
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
"""Seconds; the pause doubles from the first to the longest. A server's ``Retry-After`` is heeded up to the longest."""
_PASSING = {408, 409, 425, 429}
_Ended = tuple[int, Any, ResponseDetail]


class ServedLM(LM):  # type: ignore[misc]  # lm-eval is untyped here
    """``api`` is lm-eval's model; its ``num_concurrent`` requests are in flight at once, each tried ``max_retries``
    times at most.

    Args:
        prompts: the tokenizer of the checkpoint that the server is said to serve; measures and encodes the prompts.
        limit: the window in tokens, prompt and answer together.
        truncation: ``middle`` cuts the middle out of prompts that are too long.
    """

    def __init__(self, api: Any, prompts: PromptTokenizer, *, limit: int, truncation: Truncation = "error") -> None:
        super().__init__()
        self.limit = limit
        self.model_seconds = 0.0
        self._api = api
        self._prompts = prompts
        self._truncation = truncation
        self._encode = TokenCache(prompts.encode_rendered)
        self._chat = "chat" in type(api).__name__.lower()
        self._histories: dict[str, str] = {}
        self._stopped = threading.Event()

    tokenizer_name = property(lambda self: self._prompts.name)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return str(self._prompts.tokenizer.chat_template) if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The text as the checkpoint's own template renders it: what is hashed, measured and, to a completions
        server, sent. A chat server is sent the messages."""
        text: str = self._prompts.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        if self._chat:
            self._histories[text_hash(text)] = json.dumps(chat_history)
        return text

    def measure(self, request_type: str, requests: Sequence[Instance]) -> list[int]:
        """Tokens each request needs in all; of other requests than generation, those of their texts."""
        if request_type == "generate_until":
            return [len(self._encode(r.args[0])) + self._decoding(r).new_tokens for r in requests]
        return [min(len(self._encode("".join(r.args))), self.limit) for r in requests]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return self._all("generate_until", requests)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._all("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return self._all("loglikelihood_rolling", requests)

    def _all(self, request_type: str, requests: list[Instance]) -> list[Any]:
        ended = {number: answer for part in self.stream(request_type, requests) for number, answer, _ in part}
        return [ended[number] for number in range(len(requests))]

    def stream(self, request_type: str, requests: list[Instance]) -> Iterator[list[_Ended]]:
        """Answers as they come, see :class:`lr2eval.backends.Streaming`.

        Raises :class:`BackendError` when the server does not answer any more or refuses a request, after everything
        that was in flight has ended.
        """
        if request_type != "generate_until":
            yield from self._scored(request_type, requests)
            return
        order = sorted(range(len(requests)), key=lambda number: -len(self._encode(requests[number].args[0])))
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in order:
            waiting.put(number)
        ended: queue.SimpleQueue[_Ended | BaseException | None] = queue.SimpleQueue()
        self._stopped.clear()

        def work() -> None:
            try:
                while not self._stopped.is_set():
                    number = waiting.get_nowait()
                    ended.put((number, *self._generate(number, requests[number])))
            except queue.Empty:
                pass
            except BaseException as error:  # handed over whole
                self._stopped.set()
                ended.put(error)
            finally:
                ended.put(None)

        # Daemons: Ctrl-C does not wait for a server that does not answer.
        workers = [threading.Thread(target=work, daemon=True) for _ in range(min(self._api._concurrent, len(order)))]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        running, failure = len(workers), None
        try:
            while running:
                item = ended.get()
                if item is None:
                    running -= 1
                elif isinstance(item, BaseException):
                    failure = failure or item
                else:
                    yield [item]
        finally:
            self._stopped.set()
            self.model_seconds += time.perf_counter() - began
        self._histories.clear()
        if failure is not None:
            raise failure

    def _scored(self, request_type: str, requests: list[Instance]) -> Iterator[list[_Ended]]:
        """lm-eval's own way, one request after the other: it needs a server that echoes prompts with logprobs."""
        for number, request in enumerate(requests):
            try:
                [answer] = getattr(self._api, request_type)([request], disable_tqdm=True)
            except NotImplementedError as error:
                raise UsageError(
                    f"--backend {self._name} can only generate; run choices with local-completions, vllm or hf"
                ) from error
            except (http.RequestException, KeyError, TypeError, AssertionError) as error:
                raise BackendError(
                    f"{self._api.base_url} gives no log-probabilities of a prompt ({_first_line(error)}); a server of "
                    "completions with echo and logprobs is needed, or --backend vllm or hf"
                ) from error
            yield [(number, answer, ResponseDetail(finish="choice"))]

    @property
    def _name(self) -> str:
        return "local-chat-completions" if self._chat else "local-completions"

    def _decoding(self, request: Instance) -> Decoding:
        return Decoding.parse(request.args[1], self._prompts.tokenizer.eos_token)

    def _generate(self, number: int, request: Instance) -> tuple[str, ResponseDetail]:
        text, decoding = request.args[0], self._decoding(request)
        whole = self._encode(text)
        ids = cut_middle(whole, self.limit - decoding.new_tokens) if self._truncation == "middle" else whole
        asked = {**decoding.extra, "until": list(decoding.stops), "max_gen_toks": decoding.new_tokens}
        if self._chat:
            history = self._histories.get(text_hash(text)) or json.dumps([{"role": "user", "content": text}])
            if len(ids) < len(whole):
                raise BackendError(f"request {number}: messages cannot be cut; use local-completions or skip")
            if json.loads(history)[-1]["role"] == "assistant":
                # The task begins the answer; a server that knows these two keys goes on from there.
                asked |= {"add_generation_prompt": False, "continue_final_message": True}
            messages: Any = [JsonChatStr(history)]
        else:
            messages = [ids] if self._api.tokenized_requests else [self._prompts.tokenizer.decode(ids)]
            if not self._api.tokenized_requests and ids == whole:
                messages = [text]
        reply = self._patiently(lambda: self._api.model_call(messages=messages, generate=True, gen_kwargs=asked))
        try:
            [said] = self._api.parse_generations(outputs=reply)
            choice, usage = reply["choices"][0], reply.get("usage") or {}
            finish = "length" if choice.get("finish_reason") == "length" else "stop"
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise BackendError(
                f"request {number}: {self._api.base_url} answered something else than a completion ({error!r:.80}); "
                "check base_url"
            ) from error
        if said is None:
            raise BackendError(
                f"request {number}: {self._api.base_url} answered without text (a model that only thought?); "
                "raise the task's max_gen_toks or switch its thinking off"
            )
        detail = ResponseDetail(
            prompt_tokens=usage.get("prompt_tokens") or len(ids),
            new_tokens=usage.get("completion_tokens") or len(self._prompts.encode(said)),
            finish=finish,  # type: ignore[arg-type]
            truncated_tokens=len(whole) - len(ids),
        )
        return decoding.cut(said), detail

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """``call()``, repeated while its failure may pass: no connection, no time, an overloaded or broken server."""
        pause = FIRST_PAUSE
        for attempt in range(1, self._api.max_retries + 1):
            try:
                return call()
            except http.HTTPError as error:
                reply: Any = error.response
                problem, asked = f"{reply.status_code}: {_said(reply)}", reply.headers.get("Retry-After", "")
                if reply.status_code < 500 and reply.status_code not in _PASSING:
                    raise BackendError(
                        f"{self._api.base_url} refuses a request ({problem}); check the model's name and its window "
                        f"(--set {self._name}.model=..., --lengths)"
                    ) from error
            except (http.RequestException, ValueError) as error:  # ValueError: a reply that is no JSON
                problem, asked = _first_line(error), ""
            wanted = float(asked) if asked.isdigit() else pause
            if attempt == self._api.max_retries or self._stopped.wait(min(wanted, LONGEST_PAUSE)):
                break
            pause *= 2
        raise BackendError(
            f"{self._api.base_url} does not answer, {attempt} tries ({problem}); finished samples are kept: mend the "
            "server and run the same command again"
        )


def _said(response: Any) -> str:
    """What a server's error reply says, in one line."""
    try:
        reply = response.json()
        text = str(reply.get("error", reply).get("message", reply))
    except (ValueError, AttributeError):
        text = response.text
    return " ".join(text.split())[:160]


def _first_line(error: BaseException) -> str:
    # requests nests its reasons: "HTTPConnectionPool(...): Max retries exceeded with ... (Caused by ...)"
    text = " ".join(str(error).split()) or type(error).__name__
    return text.rsplit("Caused by ", 1)[-1][:160]
