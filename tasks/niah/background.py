"""The haystack of a sample as text of any number of words, with the tokens up to each sentence end."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.haystacks import Haystack, sentences
from lr2eval.tasks.niah.options import Places

FIRST = 4096
"""Words of the shortest beginning that is split and tokenised."""
MARGIN = 256
"""Words beyond a sample's last one: where its sentences and tokens end must not depend on where the text stops."""


class Background:
    """A haystack for one tokenizer. Everything is a function of the text, never of what was asked before."""

    def __init__(self, haystack: Haystack, tokenizer: PromptTokenizer, places: Places = "sentences") -> None:
        self.haystack = haystack
        self._between_words = places == "words"
        self._tokenizer = tokenizer
        self._beginnings: dict[int, _Beginning] = {}

    @property
    def available(self) -> int | None:
        """Words there are; ``None`` when the text is repeated."""
        return self.haystack.available

    def text(self, words: int) -> str:
        """The first ``words`` words."""
        beginning = self._beginning(words)
        return beginning.text[: beginning.word_ends[words - 1]]

    @property
    def rate(self) -> float:
        """Tokens of a word, about."""
        beginning = self._beginning(0)
        return max(len(beginning.token_starts) / len(beginning.word_ends), 1.0)

    def place(self, words: int, depth: float) -> int:
        """The character at which a needle goes in: the sentence end nearest to ``depth`` of the tokens.

        0 and the end of the text are places too. Of two equally near ones the first is taken.
        """
        beginning = self._beginning(words)
        ends = self._ends(words)
        end = ends[-1]
        target = depth * beginning.tokens(end)
        # Token counts rise with the places, so the nearest one is a neighbour of where the target would stand.
        after = bisect_left(ends, target, key=beginning.tokens)
        near = ends[max(after - 1, 0) : after + 1] or [end]
        return min(near, key=lambda char: abs(beginning.tokens(char) - target))

    def places(self, words: int) -> int:
        """How many places there are for needles in so many words."""
        return len(self._ends(words))

    def _ends(self, words: int) -> list[int]:
        beginning = self._beginning(words)
        end = beginning.word_ends[words - 1]
        return [0, *beginning.sentence_ends[: bisect_left(beginning.sentence_ends, end)], end]

    def depth(self, words: int, char: int) -> float:
        """The share of the haystack's tokens that stand before ``char``."""
        beginning = self._beginning(words)
        return beginning.tokens(char) / beginning.tokens(beginning.word_ends[words - 1])

    def _beginning(self, words: int) -> _Beginning:
        size = FIRST
        while size < words + MARGIN:
            size *= 2
        if self.available is not None:
            size = min(size, self.available)
        if size not in self._beginnings:
            self._beginnings[size] = _Beginning.make(
                " ".join(self.haystack.take(0, size)), self._tokenizer, between_words=self._between_words
            )
        return self._beginnings[size]


@dataclass(frozen=True)
class _Beginning:
    """Places are numbers of characters; ``token_starts`` are the first characters of the tokens."""

    text: str
    word_ends: list[int]
    sentence_ends: list[int]
    token_starts: list[int]

    @classmethod
    def make(cls, text: str, tokenizer: PromptTokenizer, *, between_words: bool) -> _Beginning:
        word_ends = [match.end() for match in re.finditer(r"\S+", text)]
        return cls(
            text,
            word_ends,
            # A place between words only: a needle must not stand in the middle of one.
            word_ends
            if between_words
            else [end for _, end in sentences.spans(text) if end == len(text) or text[end] == " "],
            _token_starts(text, tokenizer),
        )

    def tokens(self, char: int) -> int:
        """Tokens that begin before ``char``."""
        return bisect_right(self.token_starts, char - 1)


def _token_starts(text: str, tokenizer: PromptTokenizer) -> list[int]:
    if getattr(tokenizer.tokenizer, "is_fast", False):
        encoded = tokenizer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [start for start, _ in encoded["offset_mapping"]]
    # A slow tokenizer does not tell where its tokens stand: word by word is as near as one gets.
    pieces = re.findall(r" ?\S+", text)
    starts, char = [], 0
    for piece, count in zip(pieces, tokenizer.counts(pieces), strict=True):
        starts += [char] * count
        char += len(piece)
    return starts
