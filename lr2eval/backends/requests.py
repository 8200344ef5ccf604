"""What every backend of ours does to a request before a model sees it: the same ids, whichever engine runs them."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lr2eval.backends.generation import Decoding, Row
from lr2eval.benchmark import ResponseDetail, Truncation
from lr2eval.errors import BackendError
from lr2eval.model.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


Pair = tuple[list[int], list[int]]
"""(context, continuation), neither of them empty."""


class RequestSide:
    """Mixed in before an lm-eval ``TemplateLM`` with a ``tokenizer``; :meth:`_begin` comes last in ``__init__``."""

    tokenizer: Any
    limit: int
    prefix_token_id: Any
    _encode_pair: Callable[[str, str], Pair]
    _unread = 1
    """Tokens at the end of a scored text that need no place in the window: the last one is only predicted."""

    def _begin(self, prompts: PromptTokenizer, truncation: Truncation) -> None:
        self._truncation = truncation
        self._encode_prompt = TokenCache(prompts.encode_rendered)
        self._encode_text = TokenCache(super().tok_encode)  # type: ignore[misc]  # lm-eval's, next in line
        self._details: list[ResponseDetail] = []

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **kwargs: Any
    ) -> list[int]:
        """lm-eval's tokenisation of a text, remembered for the plain case."""
        if add_special_tokens is None and left_truncate_len is None and not kwargs:
            return self._encode_text(string)
        if left_truncate_len is not None:
            kwargs["left_truncate_len"] = left_truncate_len
        ids: list[int] = super().tok_encode(string, add_special_tokens, **kwargs)  # type: ignore[misc]
        return ids

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

    def _prompts(self, requests: Sequence[Instance]) -> tuple[list[Row], list[Decoding]]:
        decodings = [self._decoding(request) for request in requests]
        rows = []
        for number, (request, decoding) in enumerate(zip(requests, decodings, strict=True)):
            ids, room = self._prompt(request.args[0]), self.limit - decoding.new_tokens
            if len(ids) > room and (self._truncation != "middle" or room < 1):
                raise self._too_long(number, len(ids) + decoding.new_tokens)
            rows.append(Row(number, cut_middle(ids, room)))
        return rows, decodings

    def _prompt(self, text: str) -> list[int]:
        return self._encode_prompt(text) or [self.prefix_token_id]

    def _decoding(self, request: Instance) -> Decoding:
        return Decoding.parse(request.args[1], self.tokenizer.eos_token)

    def _pairs(self, requests: Sequence[Instance]) -> list[Pair]:
        return [self._pair(number, *request.args) for number, request in enumerate(requests)]

    def _pair(self, number: int, context: str, continuation: str) -> Pair:
        if context:
            ids, target = self._encode_pair(context, continuation)
        else:
            target = self.tok_encode(continuation, add_special_tokens=False)
            # A text that brings its own first special token needs no other before it.
            own = target[:1] == [self.prefix_token_id]
            ids, target = (target[:1], target[1:]) if own else ([self.prefix_token_id], target)
        if not ids or not target:
            raise BackendError(
                f"request {number}: {continuation!r:.60} adds no token to its context and cannot be scored; "
                "change the task's choices"
            )
        return ids, target

    def _fit_pair(self, number: int, pair: Pair) -> Pair:
        context, continuation = pair
        room = self.limit - (len(continuation) - self._unread)
        if len(context) <= room:
            return pair
        if self._truncation != "middle" or room < 1:
            raise self._too_long(number, len(context) + len(continuation))
        return cut_middle(context, room), continuation

    def _too_long(self, number: int, tokens: int) -> BackendError:
        return BackendError(
            f"request {number} needs {tokens:,} tokens, the window is {self.limit:,}; choose --truncation skip or "
            "middle, or shorter --lengths"
        )


_CAPACITY = 32_000_000


class TokenCache:
    """``encode`` with a memory, least recently used out first.

    Ids take 4 bytes each and texts are kept as hashes, so that the default capacity (in tokens) is 128 MB and a
    shard of long prompts is never held twice.
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
