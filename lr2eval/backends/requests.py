"""What every backend of ours does to a request before a model sees it: the same ids, whichever engine runs them."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from lr2eval.backends.generation import Decoding, DecodingRow, Side
from lr2eval.benchmark import ResponseDetail, Truncation, WindowPolicy
from lr2eval.errors import BackendError
from lr2eval.model.tokenizer import PromptTokenizer

Pair = tuple[list[int], list[int]]
"""(context, continuation), neither of them empty."""
Ended = tuple[int, Any, ResponseDetail]
"""(number of the request, answer, detail)."""


class PromptLM(LM):  # type: ignore[misc]  # lm-eval is untyped here
    """An lm-eval model that tokenizes with our :class:`PromptTokenizer` and keeps to a window.

    Args:
        prompts: the tokenizer of the checkpoint.
        limit: the window: tokens that prompt and answer may hold together.
        truncation: ``middle`` cuts the middle out of prompts that are too long. Otherwise such a prompt raises.
        original_window: ``Lt`` of a model with two windows.
        window_policy: ``exact`` starts a prompt of at most ``Lt`` tokens under the short factors and changes to the
            long ones when the sequence outgrows ``Lt``; ``budget`` starts long when prompt + new tokens exceed ``Lt``.
    """

    _unread = 1
    """Tokens at the end of a scored text that need no place in the window: the last one is only predicted."""

    def __init__(
        self,
        prompts: PromptTokenizer,
        *,
        limit: int,
        truncation: Truncation = "error",
        original_window: int | None = None,
        window_policy: WindowPolicy = "exact",
    ) -> None:
        super().__init__()
        self.prompts = prompts
        self.tokenizer = prompts.tokenizer
        self.tok_encode = TokenCache(prompts.encode_rendered)
        self.limit = limit
        self.model_seconds = 0.0
        self._truncation = truncation
        self._original = original_window
        self._policy = window_policy
        self._details: list[ResponseDetail] = []

    prefix_token_id = property(lambda self: self.prompts.prefix_token_id)

    def expect(self, *, chat: bool) -> None:
        """Whether the next prompts are chats: some tasks are never wrapped in a chat template."""
        if chat != self.prompts.chat:
            self.prompts = self.prompts.with_chat(chat)
            self.tok_encode = TokenCache(self.prompts.encode_rendered)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.prompts.chat_template(chat_template)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.prompts.apply_chat_template(chat_history, add_generation_prompt)

    def tok_decode(self, tokens: Sequence[int]) -> str:
        """The text of new tokens, without special tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def measure(self, request_type: str, requests: Sequence[Instance]) -> list[int]:
        """Tokens each request needs in all, untruncated; a rolling request needs no more than the window."""
        if request_type == "generate_until":
            return [len(self._prompt(r.args[0])) + self._decoding(r).new_tokens for r in requests]
        if request_type == "loglikelihood":
            return [len(context) + len(continuation) for context, continuation in self._pairs(requests)]
        return [min(1 + len(self.tok_encode(request.args[0])), self.limit) for request in requests]

    def take_details(self) -> list[ResponseDetail]:
        """Details of the last call's responses in the order of its requests; empties the list."""
        details, self._details = self._details, []
        return details

    # Generation

    def _prompt(self, text: str) -> list[int]:
        return self.tok_encode(text) or [self.prefix_token_id]

    def _decoding(self, request: Instance) -> Decoding:
        return Decoding.parse(request.args[1], self.tokenizer.eos_token)

    def _rows(self, requests: Sequence[Instance]) -> list[DecodingRow]:
        rows = []
        for number, request in enumerate(requests):
            whole, decoding = self._prompt(request.args[0]), self._decoding(request)
            ids = self._fit(number, whole, decoding.new_tokens)
            rows.append(DecodingRow(number, ids, decoding, len(whole) - len(ids)))
        return rows

    def _starts_long(self, row: DecodingRow) -> bool:
        """Whether the row is prefilled under the long factors."""
        final = row.end if self._policy == "budget" else len(row.prompt)
        return self._original is not None and final > self._original

    def _answer(self, row: DecodingRow) -> tuple[str, ResponseDetail]:
        text = self.tok_decode(row.tokens)
        answer = row.decoding.cut(text)
        return answer, ResponseDetail(
            prompt_tokens=len(row.prompt),
            new_tokens=len(row.tokens),
            window=row.side,
            finish="stop" if row.finished or answer != text else "length",
            truncated_tokens=row.truncated,
        )

    # Log-likelihood

    def _pairs(self, requests: Sequence[Instance]) -> list[Pair]:
        return [self._pair(number, *request.args) for number, request in enumerate(requests)]

    def _pair(self, number: int, context: str, continuation: str) -> Pair:
        if context:
            # As lm-eval: spaces at the end of the context belong to the continuation.
            ids = self.tok_encode(context.rstrip())
            target = self.tok_encode(context + continuation)[len(ids) :]
        else:
            target = self.prompts.encode(continuation)
            # A text that brings its own first special token needs no other before it.
            own = target[:1] == [self.prefix_token_id]
            ids, target = (target[:1], target[1:]) if own else ([self.prefix_token_id], target)
        if not ids or not target:
            raise BackendError(
                f"request {number}: {continuation!r:.60} adds no token to its context, so it has no score; "
                "change the task's choices"
            )
        return ids, target

    def _fitted(self, pairs: Sequence[Pair]) -> list[Pair]:
        return [
            (self._fit(number, context, len(continuation), self._unread), continuation)
            for number, (context, continuation) in enumerate(pairs)
        ]

    def _choice_detail(self, whole: Pair, fitted: Pair) -> ResponseDetail:
        read = len(fitted[0]) + len(fitted[1])
        return ResponseDetail(
            prompt_tokens=read,
            window=self._side(read - 1),
            finish="choice",
            truncated_tokens=len(whole[0]) - len(fitted[0]),
        )

    def _rolling(self, requests: Sequence[Instance]) -> tuple[list[Pair], list[int], list[ResponseDetail]]:
        """(pairs that score each text in disjoint windows, the request of each pair, detail of each request)."""
        longest = self.limit - 1 + self._unread
        pairs, owners, details = [], [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            windows = get_rolling_token_windows(ids, self.prefix_token_id, max_seq_len=longest, context_len=1)
            parts = [make_disjoint_window(window) for window in windows]
            pairs += parts
            owners += [number] * len(parts)
            # A text of several windows fills each of them; the last one is filled with context.
            side = self._side(min(len(ids), longest))
            details.append(ResponseDetail(prompt_tokens=len(ids), window=side, finish="choice"))
        return pairs, owners, details

    # Window

    def _side(self, tokens: int) -> Side:
        """The window of one forward over ``tokens`` tokens."""
        if self._original is None:
            return "only"
        return "long" if tokens > self._original else "short"

    def _fit(self, number: int, ids: list[int], follow: int, unread: int = 0) -> list[int]:
        """``ids`` that leave room for ``follow`` tokens, all but ``unread`` of which need a place in the window."""
        room = self.limit - (follow - unread)
        if len(ids) > room and (self._truncation != "middle" or room < 1):
            raise BackendError(
                f"request {number} needs {len(ids) + follow:,} tokens, the window is {self.limit:,}; choose "
                "--truncation skip or middle, or shorter --lengths"
            )
        return cut_middle(ids, room)


class StreamLM(PromptLM):
    """A :class:`PromptLM` whose engine batches by itself."""

    def stream(self, request_type: str, requests: list[Instance]) -> Iterator[list[Ended]]:
        """The answers as they end; ``request_type`` is the name of a method below. May raise :class:`Postponed`."""
        raise NotImplementedError

    def _all(self, request_type: str, requests: list[Instance]) -> list[Any]:
        ended = {n: (answer, detail) for part in self.stream(request_type, requests) for n, answer, detail in part}
        self._details = [ended[n][1] for n in range(len(requests))]
        return [ended[n][0] for n in range(len(requests))]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers cut before the first stop string."""
        return self._all("generate_until", requests)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability in nats, greedy?) per request."""
        return self._all("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability in nats of each text, read in disjoint windows."""
        return self._all("loglikelihood_rolling", requests)


_CAPACITY = 32_000_000


class TokenCache:
    """``encode`` with a memory; forgets the least recently used text first.

    Ids take 4 bytes each and texts are kept as hashes: the default capacity (in tokens) takes 128 MB, and a shard of
    long prompts is never held twice.
    """

    def __init__(self, encode: Callable[[str], list[int]], capacity: int = _CAPACITY) -> None:
        self._encode = encode
        self._capacity = capacity
        self._held = 0
        self._known: OrderedDict[bytes, array[int]] = OrderedDict()

    def __call__(self, text: str) -> list[int]:
        """Token ids of ``text``."""
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key].tolist()
        ids = self._encode(text)
        self._known[key] = array("i", ids)
        self._held += len(ids)
        while self._held > self._capacity and self._known:
            self._held -= len(self._known.popitem(last=False)[1])
        return ids


def cut_middle(ids: list[int], keep: int) -> list[int]:
    """The first and last halves of ``ids``, ``keep`` tokens in all (the instruction and the question survive)."""
    if len(ids) <= keep:
        return ids
    head = keep // 2
    return ids[:head] + ids[len(ids) - (keep - head) :]
