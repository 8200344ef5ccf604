"""Counting the tokens of long prompts from the counts of their words, where that is provably the same.

Most tokenizers cut a text before every space that follows something else than white space, and treat what lies
between two cuts independently: GPT-2's and its successors' regular expressions match a space only in front, BERT drops
spaces, sentencepiece starts a piece with them. For those the tokens of a text are the sum over its words, and a word
met before costs nothing. :func:`cuts_before_spaces` recognises them from the tokenizer's own description; any other
tokenizer counts whole prompts as before.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from weakref import WeakKeyDictionary

from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact.cuts import cuts_before_spaces

MEMO_LIMIT = 200_000
"""Distinct words whose token counts are remembered (some 20 megabytes)."""


# A space starts a new word unless white space stands before it; U+180E counted as white space in older Unicode.
_CUT = re.compile("(?<=[^\\s\u180e]) ")


class CountingTokenizer(PromptTokenizer):
    """A prompt tokenizer with the same counts, quicker where ``additive``: then every word is tokenised once."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        super().__init__(tokenizer.tokenizer, chat=tokenizer.chat, **tokenizer.given)
        self._plain = tokenizer
        self._memo: dict[str, int] = {}
        self._special = 0
        self.additive = False
        if getattr(self.tokenizer, "is_fast", False):
            self.additive = cuts_before_spaces(json.loads(self.tokenizer.backend_tokenizer.to_str()))
        if self.additive:
            self._special = len(self.encode_rendered("a")) - len(self.encode("a"))

    def count_prompt(self, prompt: str, answer_prefix: str = "") -> int:
        """As :meth:`PromptTokenizer.count_prompt`."""
        if not self.additive:
            return self._plain.count_prompt(prompt, answer_prefix)
        text = self.render(prompt, answer_prefix)
        bos = getattr(self.tokenizer, "bos_token", None)
        return self._count(text) + (0 if bos and text.startswith(bos) else self._special)

    def verified(self, prompt: str, answer_prefix: str) -> bool:
        """Whether both ways of counting agree on this prompt; where they do not, whole prompts are counted on."""
        if self.additive and self.count_prompt(prompt, answer_prefix) != self._plain.count_prompt(
            prompt, answer_prefix
        ):
            self.additive = False
        return self.additive

    def _count(self, text: str) -> int:
        """Tokens of a text, by its words."""
        if len(self._memo) > MEMO_LIMIT:
            self._memo.clear()
        total = 0
        first, *words = text.split(" ")
        counted = Counter(words)
        # Words met before are sound, so only new ones are looked at.
        if any(map(_unsound, (first, *(word for word in counted if word not in self._memo)))):
            first, *words = _CUT.split(text)
            last = words.pop() if words and _unsound(words[-1]) else None  # the end of the text
            total = 0 if last is None else sum(self._encoded([f" {last}"]))
            counted = Counter(words)
        return total + self._sum(counted) + sum(self._encoded([first] if first else []))

    def _sum(self, words: Mapping[str, int]) -> int:
        """The number of tokens of words after a space. ``words`` maps each word to how often it occurs."""
        memo = self._memo
        new = [word for word in words if word not in memo]
        memo.update(zip(new, self._encoded([f" {word}" for word in new]), strict=True))
        return sum([memo[word] * times for word, times in words.items()])

    def _encoded(self, texts: list[str]) -> Iterable[int]:
        return map(len, self.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False))


def _unsound(word: str) -> bool:
    """Whether what a plain split calls a word is none, since white space stands before the space behind it."""
    return not word or word[-1].isspace() or word[-1] == "\u180e"


_COUNTING: WeakKeyDictionary[PromptTokenizer, CountingTokenizer] = WeakKeyDictionary()


def counting(tokenizer: PromptTokenizer) -> CountingTokenizer:
    """The counting tokenizer of ``tokenizer``, always the same one: reading a large vocabulary takes a second."""
    if isinstance(tokenizer, CountingTokenizer):
        return tokenizer
    if tokenizer not in _COUNTING:
        _COUNTING[tokenizer] = CountingTokenizer(tokenizer)
    return _COUNTING[tokenizer]
