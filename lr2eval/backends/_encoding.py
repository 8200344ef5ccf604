"""Tokenising each text once, although planning, measuring and running all need its tokens."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable

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
