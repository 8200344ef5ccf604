"""Between lm-eval and the run store: an ``LM`` that remembers.

lm-eval's ``evaluate`` gives all requests of a shard to the model at once. :class:`RecordingLM` takes answers from the
store if it has them. It plans the other requests into batches *from the whole shard*, so that a resumed run makes the
same batches. It runs them one by one and commits each batch as it ends. lm-eval's own response cache is not used,
because its key does not include the model (design D1, D2).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from lr2eval.backends.requests import Ended
from lr2eval.base.ids import digest, text_hash
from lr2eval.benchmark import ResponseDetail, Truncation
from lr2eval.errors import BackendError, RunFailedError, StoreError, UsageError, first_line
from lr2eval.listener import Listener
from lr2eval.record.store import RunStore

_FOREIGN_BATCH = 16
_SHOWN = 64
_SKIPPED: dict[str, Any] = {"generate_until": "", "loglikelihood": (0.0, False), "loglikelihood_rolling": 0.0}


class RecordingLM(LM):  # type: ignore[misc]  # lm-eval ships no types
    """Wraps a backend for one run. ``begin`` names the shard that the next ``evaluate`` call belongs to.

    ``identity`` becomes part of every response key. It holds everything except the request that decides a response:
    model fingerprint, window policy, dtype, backend. ``decoding``: generation kwargs that go before those of a task.
    """

    def __init__(
        self,
        backend: Any,
        store: RunStore,
        identity: Mapping[str, Any],
        truncation: Truncation = "error",
        decoding: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backend = backend
        self.store = store
        self.truncation = truncation
        self.on_batch: Callable[[float, int, float], None] = Listener().batch_done
        self._identity = dict(identity)
        self._decoding = dict(decoding or {})
        self._shard = ""
        self._length: int | None = None
        self._chat = False
        self._seconds = 0.0
        self.details: dict[int, list[ResponseDetail]] = {}
        """Details of the shard's responses by document number."""

    @property
    def model_seconds(self) -> float:
        """Time inside the model, as the backend measures it; for another backend, the time of its calls."""
        return float(getattr(self.backend, "model_seconds", self._seconds))

    def begin(self, shard: str, length: int | None = None, *, chat: bool = False) -> None:
        """Start a shard: the next responses belong to it. ``length``: its window, if that is narrower. ``chat``: its
        prompts are chats."""
        self._shard = shard
        self._length = length
        self._chat = chat
        if expect := getattr(self.backend, "expect", None):
            expect(chat=chat)
        self.details = {}

    def close(self) -> None:
        """Free what the backend holds outside this process, if it can."""
        if close := getattr(self.backend, "close", None):
            close()

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        if self._decoding:
            requests = [
                replace(each, arguments=(each.args[0], {**each.args[1], **self._decoding})) for each in requests
            ]
        return self._answer("generate_until", requests)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [(float(value), bool(greedy)) for value, greedy in self._answer("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return self._answer("loglikelihood_rolling", requests)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        try:
            return str(self.backend.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt))
        except UsageError:
            raise
        except Exception as error:  # of another package
            raise BackendError(
                f"{self._shard}: the back end cannot render a chat ({first_line(error)}); omit --chat or use "
                "--backend hf"
            ) from error

    tokenizer_name = ""  # for lm-eval's cache of requests, which is off

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        template: str | None = self.backend.chat_template(chat_template)
        return template

    def _answer(self, request_type: str, requests: list[Instance]) -> list[Any]:
        shard, store = self._shard, self.store
        keys = self._keys(request_type, requests)
        done = store.responses(shard, request_type)
        self._check(done, keys)
        fits, skipped = self._route(request_type, requests)
        if fresh := [number for number in skipped if number not in done]:
            self._commit(request_type, keys, skipped_answers(request_type, fresh), done)
        share = len({request.doc_id for request in requests}) / len(requests)
        if done:
            self.on_batch(len(done) * share, 0, 0.0)
        started = time.perf_counter()
        for ended in self._ended(request_type, requests, fits, done):
            self._commit(request_type, keys, ended, done)
            self.on_batch(len(ended) * share, tokens(ended), time.perf_counter() - started)
            started = time.perf_counter()
        if len(done) != len(requests):
            raise RunFailedError(f"{shard}: the backend answered {len(done)} of {len(requests)} requests")
        for number, request in enumerate(requests):
            self.details.setdefault(request.doc_id, []).append(done[number][2])
        return [done[number][1] for number in range(len(requests))]

    def _check(self, done: Mapping[int, Any], keys: Sequence[str]) -> None:
        if any(number >= len(keys) or keys[number] != key for number, (key, _, _) in done.items()):
            raise StoreError(
                f"{self.store.path}: the stored responses of {self._shard} are from another prompt, model or setting; "
                "choose a new --out"
            )

    def _ended(
        self, request_type: str, requests: list[Instance], fits: list[int], done: Mapping[int, Any]
    ) -> Iterator[list[Ended]]:
        """Answer the open requests: batch by batch of the plan, or in the order of a backend that streams."""
        if stream := getattr(self.backend, "stream", None):
            left = [number for number in fits if number not in done]
            members = [requests[number] for number in left]
            with self._naming(members):
                for ended in stream(request_type, members) if left else ():
                    yield [(left[i], answer, detail) for i, answer, detail in ended]
            return
        plan = self.store.plan(self._shard, request_type)
        if plan is None:
            plan = [[fits[i] for i in batch] for batch in self._plan(request_type, [requests[i] for i in fits])]
            self.store.save_plan(self._shard, request_type, plan)
        for batch in plan:
            if any(number not in done for number in batch):
                yield self._run(request_type, requests, batch)

    def _commit(self, request_type: str, keys: Sequence[str], ended: Sequence[Ended], done: dict[int, Any]) -> None:
        self.store.save_batch(self._shard, request_type, keyed(keys, ended))
        done.update({number: (keys[number], answer, detail) for number, answer, detail in ended})

    def _run(self, request_type: str, requests: list[Instance], batch: Sequence[int]) -> list[Ended]:
        members = [requests[number] for number in batch]
        started = time.perf_counter()
        try:
            with self._naming(members):
                answers = getattr(self.backend, request_type)(members, disable_tqdm=True)
        finally:
            self._seconds += time.perf_counter() - started
        if not isinstance(answers, Sequence) or not all(_usable(request_type, answer) for answer in answers):
            raise BackendError(f"{self._shard}: the backend returned something that is no answer to {request_type}")
        if len(answers) != len(members):
            raise RunFailedError(f"{self._shard}: the backend answered {len(answers)} of {len(members)} requests")
        take = getattr(self.backend, "take_details", None)
        details = take() if take else [ResponseDetail() for _ in members]
        return list(zip(batch, answers, details, strict=True))

    @contextmanager
    def _naming(self, members: Sequence[Instance]) -> Iterator[None]:
        try:
            yield
        except BackendError as error:
            # The backend counts requests within its call; name the samples of the shard instead.
            documents = sorted({request.doc_id for request in members})
            which = f"batch of samples {documents}" if len(documents) <= _SHOWN else f"one of {len(documents)} samples"
            raise BackendError(f"{self._shard}, {which}: {error}") from error

    def _keys(self, request_type: str, requests: list[Instance]) -> list[str]:
        """Content-addressed key of each response (D2): the model with its settings, and the request."""
        return [digest([self._identity, request_type, text_hash(each.args[0]), each.args[1:]]) for each in requests]

    def _route(self, request_type: str, requests: list[Instance]) -> tuple[list[int], list[int]]:
        """Requests that run and requests that are skipped, by the truncation policy (D5)."""
        over: list[int] = []
        if (measure := getattr(self.backend, "measure", None)) and self.truncation != "middle":
            limit = self.backend.limit if self._length is None else min(self._length, self.backend.limit)
            over = [number for number, needed in enumerate(measure(request_type, requests)) if needed > limit]
            if over and self.truncation == "error":
                raise RunFailedError(
                    f"{self._shard}: {len(over)} of {len(requests)} requests need more than the window of {limit} "
                    "tokens; choose --truncation skip or middle, or a shorter --lengths"
                )
        # A multiple-choice document is skipped as a whole: scoring only the choices that fit would be a silent cut.
        docs = {requests[number].doc_id for number in over}
        skipped = [number for number, request in enumerate(requests) if request.doc_id in docs]
        return [number for number in range(len(requests)) if requests[number].doc_id not in docs], skipped

    def _plan(self, request_type: str, requests: list[Instance]) -> list[list[int]]:
        if plan := getattr(self.backend, "plan", None):
            batches: list[list[int]] = plan(request_type, requests)
            return batches
        # Another lm-eval model makes its own batches; it gets small groups, so that answers are committed often.
        numbers = list(range(len(requests)))
        return [numbers[start : start + _FOREIGN_BATCH] for start in numbers[::_FOREIGN_BATCH]]


def keyed(keys: Sequence[str], ended: Sequence[Ended]) -> list[tuple[int, str, Any, ResponseDetail]]:
    """The answers with the keys of their requests, as the store keeps them."""
    return [(number, keys[number], answer, detail) for number, answer, detail in ended]


def skipped_answers(request_type: str, numbers: Sequence[int]) -> list[Ended]:
    """What stands for the answers of requests that do not run."""
    return [(number, _SKIPPED[request_type], ResponseDetail(finish="skipped")) for number in numbers]


def tokens(ended: Sequence[Ended]) -> int:
    """Tokens that were read and written for these answers."""
    return sum(detail.prompt_tokens + detail.new_tokens for _, _, detail in ended)


def _usable(request_type: str, answer: Any) -> bool:
    if request_type == "loglikelihood":
        return isinstance(answer, Sequence) and len(answer) == 2 and isinstance(answer[0], int | float)
    return isinstance(answer, str if request_type == "generate_until" else int | float)
