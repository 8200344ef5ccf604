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
from collections.abc import Iterable
from itertools import chain
from weakref import WeakKeyDictionary

from lr2eval.model.tokenizer import PromptTokenizer
from lr2eval.tasks.exact.cuts import PLAIN, cuts_before_spaces, pieces

MEMO_LIMIT = 200_000
"""Distinct words whose token counts are remembered (some 20 megabytes), and as many sentences."""
LONGEST = 1000
"""Letters of a sentence that is remembered, and of all those of one text that span lines."""
SHORTEST = 20
"""Letters of the sentences of a text, on average, from where on they are quicker to look up than their words."""


# A space starts a new word unless white space stands before it; U+180E counted as white space in older Unicode.
_CUT = re.compile(" (?<=[^\\s\u180e] )")
_LINES = re.compile("( .*[^\\s\u180e])( [^ \n]*\n(?:.*\n)*\\S*[^\\s\u180e])( .*)")
"""A line's end but for its last word; that, further lines and the first word of the last; and the rest of that."""


class CountingTokenizer(PromptTokenizer):
    """A prompt tokenizer with the same counts, quicker where ``additive``: then every word is tokenised once."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        super().__init__(tokenizer.tokenizer, chat=tokenizer.chat, **tokenizer.given)
        self._plain = tokenizer
        self._memo: dict[str, int] = {}
        self._sentences: dict[str, int] = {}
        self._pieces: dict[str, int] = {}
        self._special = 0
        self.additive = False
        if getattr(self.tokenizer, "is_fast", False):
            state = json.loads(self.tokenizer.backend_tokenizer.to_str())
            self.additive = cuts_before_spaces(state)
        if self.additive:
            self._pattern = pieces(state)
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
        """Tokens of a text, by its sentences: there is always a cut behind a full stop with a space."""
        stops = text.count(". ")
        if not stops or len(text) < SHORTEST * stops:
            return self._by_words(text)
        first, *sentences, last = text.split(". ")
        sentences = [f" {each}." for each in sentences]
        new = set(sentences).difference(self._sentences)
        rest = []
        # What spans lines is hardly met again, unless the lines are all alike; but its begin and end may be.
        passing = {each for each in new if "\n" in each or len(each) > LONGEST}
        if sum(map(len, passing)) > LONGEST:
            every, sentences = sentences, []
            for each in every:
                if each not in passing:
                    sentences.append(each)
                elif found := _LINES.fullmatch(each):
                    sentences += found.group(1, 3)
                    rest.append(found[2])
                else:
                    rest.append(each)
        return self._remembered(sentences) + self._by_words(f"{first}.{''.join(rest)} {last}")

    def _remembered(self, texts: list[str]) -> int:
        """Tokens of texts that begin with a space and end without one."""
        memo = self._sentences
        if len(memo) > MEMO_LIMIT:
            memo.clear()
        if new := set(texts).difference(memo):
            self._by_words("".join(new))  # all their new words in one call
            memo.update(zip(new, map(self._by_words, new), strict=True))
        return sum(map(memo.__getitem__, texts))

    def _by_words(self, text: str) -> int:
        """Tokens of a text, by its words."""
        first, *words = text.split(" ")
        memo = self._memo
        if len(memo) > MEMO_LIMIT:
            memo.clear()
        new = set(words).difference(memo)
        # Words met before are sound, so only new ones are looked at. Nothing stands before the first space of a text.
        if any(map(_unsound, {first[-1:] or ".", *(word[-1:] for word in new)})):
            first, *words = _CUT.split(text)
            ends = [first, f" {words.pop()}"] if words and _unsound(words[-1][-1:]) else [first]
            new = set(words).difference(memo)
        else:
            ends = [first]
        memo.update(zip(new, self._new([f" {word}" for word in new]), strict=True))
        return sum(map(memo.__getitem__, words)) + sum(self._encoded([each for each in ends if each]))

    def _new(self, words: list[str]) -> Iterable[int]:
        """Tokens of each of these words, which begin with a space, by their pieces."""
        if not self._pattern:
            return self._encoded(words)
        find, memo = self._pattern.findall, self._pieces
        found = [find(word) if PLAIN.match(word) else (word,) for word in words]
        if len(memo) > MEMO_LIMIT:
            memo.clear()
        new = [*set(chain.from_iterable(found)).difference(memo)]
        memo.update(zip(new, self._encoded(new), strict=True))
        return [sum(map(memo.__getitem__, each)) for each in found]

    def _encoded(self, texts: list[str]) -> Iterable[int]:
        encode = self.tokenizer.backend_tokenizer.encode_batch_fast
        return map(len, encode(texts, add_special_tokens=False)) if texts else ()


def _unsound(letter: str) -> bool:
    """Whether a space behind this last letter of a word starts no new word; the letter is empty if the word is."""
    return not letter or letter.isspace() or letter == "\u180e"


_COUNTING: WeakKeyDictionary[PromptTokenizer, CountingTokenizer] = WeakKeyDictionary()


def counting(tokenizer: PromptTokenizer) -> CountingTokenizer:
    """The counting tokenizer of ``tokenizer``, always the same one: reading a large vocabulary takes a second."""
    if isinstance(tokenizer, CountingTokenizer):
        return tokenizer
    if tokenizer not in _COUNTING:
        _COUNTING[tokenizer] = CountingTokenizer(tokenizer)
    return _COUNTING[tokenizer]
