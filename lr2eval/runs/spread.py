"""An evaluation over workers: batches of many shards at a time, written down by the driver alone.

What is evaluated does not depend on the number of workers. A shard's prompts are surveyed (measured, routed, planned)
by one worker, as a whole, and its plan is stored before its first batch; each batch runs whole on one worker. The
memory that bounds a batch is told by the first worker when it alone has loaded its model, and holds for all of them in
the survey and when they run a batch: so neither a plan nor a batch is another one because more workers share a machine.
Where that is then too much, a worker splits a batch that runs out of memory, as the backend does alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from lr2eval.backends.batching import free_memory
from lr2eval.benchmark import ResponseDetail, Truncation
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.runs.backend import load_backend
from lr2eval.runs.config import RunConfig
from lr2eval.runs.recording import _SKIPPED, RecordingLM, _Row
from lr2eval.workers.pool import LATER, Later

if TYPE_CHECKING:
    from lr2eval.benchmark import Shard
    from lr2eval.record.store import RunStore


AHEAD = 2
"""Shards are opened until so many samples a worker wait to be surveyed: enough to keep all busy, few to be held."""


class Wanted(Exception):  # no error: the work order asks for it
    """The requests of a shard, not all of which are answered yet."""

    def __init__(
        self, shard: str, length: int | None, request_type: str, requests: list[Instance], keys: list[str], done: Any
    ) -> None:
        super().__init__(shard)
        self.shard, self.length, self.request_type = shard, length, request_type
        self.requests, self.keys, self.done = requests, keys, done
        self.share = len({request.doc_id for request in requests}) / len(requests)
        self.left = 0
        """Batches that have not ended."""


class PooledLM(RecordingLM):
    """In the driver: hands back what is in the store, and raises :class:`Wanted` for a call that wants more."""

    def __init__(self, tokenizer: Any, store: RunStore, identity: Any, truncation: Truncation) -> None:
        super().__init__(_Chat(tokenizer), store, identity, truncation=truncation)

    def _answer(self, request_type: str, requests: list[Instance]) -> list[Any]:
        done = self.store.responses(self._shard, request_type)
        if len(done) < len(requests):
            keys = self._keys(request_type, requests)
            self._check(done, keys)
            raise Wanted(self._shard, self._length, request_type, requests, keys, done)
        return super()._answer(request_type, requests)

    def _plan(self, request_type: str, requests: list[Instance]) -> list[list[int]]:
        return []  # all of them were skipped


class _Chat:
    """What lm-eval asks of a backend beside answers; the same text as the backend's of a worker gives."""

    chat_template_args: dict[str, Any] = {}  # noqa: RUF012  # lm-eval's name
    apply_chat_template = HFLM.apply_chat_template
    chat_template = HFLM.chat_template
    tokenizer_name = HFLM.tokenizer_name

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer


@dataclass(frozen=True)
class Call:
    """One item: survey a shard's requests, or answer a batch of them; without a shard, say how much memory is free."""

    shard: str = ""
    length: int | None = None
    request_type: str = ""
    batch: tuple[int, ...] | None = None
    """Numbers of the requests in their shard; ``None``: survey them all."""
    requests: tuple[Instance, ...] = ()
    memory: int | None = None
    """Bytes that a batch may take beside the weights; ``None``: as the backend has it."""


@dataclass(frozen=True)
class Reply:
    """The result of the call; ``seconds`` in the model."""

    shard: str
    seconds: float = 0.0
    memory: int | None = None
    skipped: Sequence[int] = ()
    plan: Sequence[Sequence[int]] | None = None
    rows: Sequence[_Row] = ()


class Answerer(RecordingLM):
    """In a worker: a resident backend that surveys and answers, and keeps nothing."""

    def __init__(self, backend: Any, truncation: Truncation) -> None:
        super().__init__(backend, None, {}, truncation=truncation)  # type: ignore[arg-type]  # nothing is stored

    @classmethod
    def load(cls, checkpoint: Checkpoint, config: RunConfig, device: str) -> Answerer:
        """With the backend that ``config`` names, on ``device``."""
        return cls(load_backend(checkpoint, config.model_copy(update={"device": device})), config.truncation)

    def run(self, calls: Sequence[Call], /) -> Iterator[Reply]:
        for call in calls:
            yield self._reply(call)

    def _reply(self, call: Call) -> Reply:
        if not call.shard:
            return Reply("", memory=free_memory(self.backend.device))
        if call.memory is not None:
            self.backend.memory_limit = call.memory
        self.begin(call.shard, call.length)
        requests = list(call.requests)
        if call.batch is None:
            fits, skipped = self._route(call.request_type, requests)
            plan = self._plan(call.request_type, [requests[i] for i in fits]) if fits else []
            return Reply(call.shard, skipped=skipped, plan=[[fits[i] for i in batch] for batch in plan])
        before = self.model_seconds
        rows = self._run(call.request_type, requests, [""] * len(requests), list(range(len(requests))))
        rows = [(call.batch[place], *row[1:]) for place, row in enumerate(rows)]
        return Reply(call.shard, seconds=self.model_seconds - before, rows=rows)


class Work:
    """All calls of a run, made as workers ask for them, and what becomes of their replies.

    Args:
        shards: those that are not finished, in their order.
        finish: evaluates a shard out of the store and scores it, or raises :class:`Wanted`.
        workers: how many there are; decides only how far ahead shards are opened.
        memory: the first worker says how much a batch may take; otherwise the backend knows by itself.
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
        return self

    def __next__(self) -> Call | Later:
        while not self._ready and self._closed and not self._asked and self._surveyed < self._ahead:
            self._begin(self._closed.popleft())
        if self._ready:
            return self._ready.popleft()
        if self._open or self._asked:
            return LATER
        raise StopIteration

    def take(self, reply: Reply) -> tuple[float, int]:
        """Write down what came back; (samples answered, tokens read or written)."""
        if not reply.shard:
            self._memory, self._asked = reply.memory, False
            return 0.0, 0
        wanted = self._open[reply.shard]
        if reply.plan is not None:
            self._planned(wanted, reply)
            return len({*reply.skipped, *wanted.done}) * wanted.share, 0
        self.model_seconds += reply.seconds
        rows = [(number, wanted.keys[number], answer, detail) for number, _, answer, detail in reply.rows]
        self._lm.store.save_batch(wanted.shard, wanted.request_type, rows)
        wanted.left -= 1
        if not wanted.left:
            self._begin(self._shards[wanted.shard])
        tokens = sum(detail.prompt_tokens + detail.new_tokens for _, _, _, detail in rows)
        return len(rows) * wanted.share, tokens

    def _begin(self, shard: Shard) -> None:
        """Also what ends a shard: with all its answers there is nothing left to begin."""
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
            detail = ResponseDetail(finish="skipped")
            store.save_batch(shard, request_type, [(n, wanted.keys[n], _SKIPPED[request_type], detail) for n in fresh])
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
        return Call(wanted.shard, wanted.length, wanted.request_type, batch, requests, self._memory)


def _slim(request: Instance) -> Instance:
    """Without its document, which only scoring reads."""
    return replace(request, doc={}, resps=[], filtered_resps={})
