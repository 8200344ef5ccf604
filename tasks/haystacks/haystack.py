"""A background text: what it is called, its words, and any number of them split into sentences."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate

from lr2eval.base import ids
from lr2eval.benchmark import Scalar
from lr2eval.tasks.haystacks import filler, sentences


@dataclass(frozen=True)
class Haystack:
    """``texts`` are its pieces (one per file) in a fixed order; ``comparable`` if published RULER numbers use it.

    With ``repeat`` the text starts again after its end, as upstream's does; otherwise its words run out.
    """

    name: str
    comparable: bool
    texts: tuple[str, ...]
    repeat: bool = True

    @cached_property
    def sha256(self) -> str:
        """Of the pieces in their order."""
        return ids.digest(list(self.texts))

    @cached_property
    def words(self) -> tuple[str, ...]:
        """All words, white space being whatever Python's ``split`` takes for it."""
        return tuple(word for text in self.texts for word in text.split())

    @property
    def available(self) -> int | None:
        """How many words there are, ``None`` when the text is repeated."""
        return None if self.repeat else len(self.words)

    @property
    def edition(self) -> str:
        """Part of the identity of samples with needles between sentences; raise it when sentences end elsewhere.

        1 stands for an untrained splitter. It found the same sentences in the filler, so those samples stay.
        """
        return "1" if self.texts == filler.pieces() else "2"

    @property
    def facts(self) -> dict[str, Scalar]:
        """What manifest and report must say about this text (part of ``Shard.data``)."""
        return {
            "haystack": self.name,
            "haystack_sha256": self.sha256,
            "haystack_words": len(self.words),
            "repeated": self.repeat,
            "comparable": self.comparable,
            **({} if self.comparable else {"stand_in": True}),
        }

    def take(self, start: int, stop: int) -> list[str]:
        """Words ``start`` to ``stop - 1`` of the text repeated without end."""
        count = len(self.words)
        return [self.words[index % count] for index in range(start, stop)]

    def first(self, count: int) -> list[str]:
        """The sentences of the first ``count`` words."""
        rounds = -(-count // len(self.words))
        return _repeated(self, 1 << max(rounds - 1, 0).bit_length()).first(count)


@lru_cache(maxsize=4)
def _repeated(haystack: Haystack, rounds: int) -> RepeatedText:
    return RepeatedText(haystack.words, rounds)


class RepeatedText:
    """The text repeated ``rounds`` times and split once. All its beginnings share their sentences, except the last."""

    def __init__(self, words: Sequence[str], rounds: int) -> None:
        self._text = " ".join([*words] * rounds)
        spans = sentences.spans(self._text)
        self._starts = [start for start, _ in spans]
        self._sentences = [self._text[start:stop] for start, stop in spans]
        # Where words end in the text.
        self._ends = list(accumulate((1 + len(word) for word in [*words] * rounds), initial=-1))

    def first(self, count: int) -> list[str]:
        # Where a sentence ends depends on the word there and on the next: only the end of the text is split anew,
        # from the last sentence that begins with a word that has another whole word after it.
        safe = self._ends[max(count - 2, 0)] + 1
        kept = max(bisect_right(self._starts, safe) - 1, 0)
        while kept and self._text[self._starts[kept] - 1] != " ":
            kept -= 1
        return self._sentences[:kept] + sentences.split(self._text[self._starts[kept] : self._ends[count]])
