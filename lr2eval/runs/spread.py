"""An evaluation over workers: they compute batches of several shards at a time; only the driver writes.

The number of workers does not change what is evaluated. One worker surveys all prompts of a shard (measures, routes
and plans them), and the plan is stored before the first batch of the shard. Each batch runs on one worker. The memory
limit of a batch is measured once, by the first worker, when no other has loaded its model. It holds for every survey
and batch, so that sharing a machine with more workers changes neither plans nor batches. If the limit is then too high,
a worker splits the batch that runs out of memory, as a backend without workers does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lm_eval.api.instance import Instance

from lr2eval.backends.batching import free_memory
from lr2eval.backends.requests import Ended
from lr2eval.benchmark import Shard, Truncation
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.runs.backend import load_backend
from lr2eval.runs.config import RunConfig
from lr2eval.runs.recording import RecordingLM, keyed, skipped_answers, tokens
from lr2eval.workers.pool import LATER, Later

AHEAD = 2
"""Shards are opened until this many samples per worker wait for a survey: enough to keep all busy, few in memory."""


@dataclass(eq=False)
class Wanted(Exception):  # not an error: it takes the requests out of lm-eval
    """The requests of a shard that is not answered completely."""

    shard: str
    length: int | None
    request_type: str
    requests: list[Instance]
    keys: list[str]
    done: Any
    chat: bool = False
    left: int = 0
    """Unfinished batches."""

    @cached_property
    def share(self) -> float:
        """Samples in a request."""
        return len({request.doc_id for request in self.requests}) / len(self.requests)


class PooledLM(RecordingLM):
    """In the driver: answers from the store, and raises :class:`Wanted` if an answer is missing there.

    Its backend is a :class:`PromptTokenizer`, which renders chats.
    """

    def _answer(self, request_type: str, requests: list[Instance]) -> list[Any]:
        done = self.store.responses(self._shard, request_type)
        if len(done) < len(requests):
            keys = self._keys(request_type, requests)
            self._check(done, keys)
            raise Wanted(self._shard, self._length, request_type, requests, keys, done, self._chat)
        return super()._answer(request_type, requests)

    def _plan(self, request_type: str, requests: list[Instance]) -> list[list[int]]:
        return []  # all requests were skipped


@dataclass(frozen=True)
class Call:
    """One item: survey the requests of a shard, or answer one batch; without a shard, measure the free memory."""

    shard: str = ""
    length: int | None = None
    request_type: str = ""
    batch: tuple[int, ...] | None = None
    """Numbers of the requests in the shard; ``None``: survey all of them."""
    requests: tuple[Instance, ...] = ()
    memory: int | None = None
    """Bytes that a batch may use beside the weights; ``None``: the backend decides."""
    chat: bool = False


@dataclass(frozen=True)
class Reply:
    """The result of a call; ``seconds`` are those in the model."""

    shard: str
    seconds: float = 0.0
    memory: int | None = None
    skipped: Sequence[int] = ()
    plan: Sequence[Sequence[int]] | None = None
    ended: Sequence[Ended] = ()


class Answerer(RecordingLM):
    """In a worker: a backend that surveys and answers, and stores nothing."""

    def __init__(self, backend: Any, truncation: Truncation) -> None:
        super().__init__(backend, None, {}, truncation=truncation)  # type: ignore[arg-type]  # nothing is stored

    @classmethod
    def load(cls, checkpoint: Checkpoint, config: RunConfig, device: str) -> Answerer:
        """With the backend that ``config`` names, on ``device``."""
        return cls(load_backend(checkpoint, config.model_copy(update={"device": device})), config.truncation)

    def run(self, calls: Sequence[Call], /) -> Iterator[Reply]:
        return map(self._reply, calls)

    def _reply(self, call: Call) -> Reply:
        if not call.shard:
            return Reply("", memory=free_memory(self.backend.device))
        if call.memory is not None:
            self.backend.memory_limit = call.memory
        self.begin(call.shard, call.length, chat=call.chat)
        requests = list(call.requests)
        if call.batch is None:
            fits, skipped = self._route(call.request_type, requests)
            plan = self._plan(call.request_type, [requests[i] for i in fits]) if fits else []
            return Reply(call.shard, skipped=skipped, plan=[[fits[i] for i in batch] for batch in plan])
        before = self.model_seconds
        ended = self._run(call.request_type, requests, range(len(requests)))
        ended = [(call.batch[place], answer, detail) for place, answer, detail in ended]
        return Reply(call.shard, seconds=self.model_seconds - before, ended=ended)


class Work:
    """All calls of a run, made when workers ask for them; :meth:`take` handles their replies.

    Args:
        shards: the unfinished ones, in their order.
        finish: evaluates a shard from the store and scores it, or raises :class:`Wanted`.
        workers: their number, which only decides how far ahead shards are opened.
        memory: whether the first worker measures how much memory a batch may use.
    """

    def __init__(
        self, lm: PooledLM, shards: Sequence[Shard], finish: Callable[[Shard], None], workers: int, *, memory: bool
    ) -> None:
        self._lm, self._finish = lm, finish
        self._closed, self._shards = deque(shards), {shard.id: shard for shard in shards}
        self._open: dict[str, Wanted] = {}
        self._ready: deque[Call] = deque([Call()] if memory else [])
        self._asked = memory
        self._memory: int | None = None
        self._ahead, self._surveyed = AHEAD * workers, 0
        self.model_seconds = 0.0

    def __iter__(self) -> Iterator[Call | Later]:
        while True:
            while not self._ready and self._closed and not self._asked and self._surveyed < self._ahead:
                self._begin(self._closed.popleft())
            if self._ready:
                yield self._ready.popleft()
            elif self._open or self._asked:
                yield LATER
            else:
                return

    def take(self, reply: Reply) -> tuple[float, int]:
        """Store a reply. Returns (samples answered, tokens read or written)."""
        if not reply.shard:
            self._memory, self._asked = reply.memory, False
            return 0.0, 0
        wanted = self._open[reply.shard]
        if reply.plan is not None:
            self._planned(wanted, reply)
            return len({*reply.skipped, *wanted.done}) * wanted.share, 0
        self.model_seconds += reply.seconds
        self._lm.store.save_batch(wanted.shard, wanted.request_type, keyed(wanted.keys, reply.ended))
        wanted.left -= 1
        if not wanted.left:
            self._begin(self._shards[wanted.shard])
        return len(reply.ended) * wanted.share, tokens(reply.ended)

    def _begin(self, shard: Shard) -> None:
        """Finish a shard if it has all its answers, else ask for its survey."""
        self._open.pop(shard.id, None)
        try:
            self._finish(shard)
        except Wanted as wanted:
            self._open[shard.id] = wanted
            self._surveyed += shard.n
            self._ready.append(self._call(wanted, None))

    def _planned(self, wanted: Wanted, reply: Reply) -> None:
        shard, request_type, store = wanted.shard, wanted.request_type, self._lm.store
        self._surveyed -= self._shards[shard].n
        if fresh := [number for number in reply.skipped if number not in wanted.done]:
            store.save_batch(shard, request_type, keyed(wanted.keys, skipped_answers(request_type, fresh)))
        plan = store.plan(shard, request_type)
        if plan is None:
            plan = [list(batch) for batch in reply.plan or ()]
            store.save_plan(shard, request_type, plan)
        batches = [batch for batch in plan if any(number not in wanted.done for number in batch)]
        wanted.left = len(batches)
        self._ready.extend(self._call(wanted, tuple(batch)) for batch in batches)
        if not batches:
            self._begin(self._shards[shard])

    def _call(self, wanted: Wanted, batch: tuple[int, ...] | None) -> Call:
        numbers = range(len(wanted.requests)) if batch is None else batch
        requests = tuple(_slim(wanted.requests[number]) for number in numbers)
        return Call(wanted.shard, wanted.length, wanted.request_type, batch, requests, self._memory, wanted.chat)


def _slim(request: Instance) -> Instance:
    """The request without its document, which only scoring reads."""
    return replace(request, doc={}, resps=[], filtered_resps={})
