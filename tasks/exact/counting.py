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
_LINES = re.compile("(.*[^\\s\u180e])( [^ \n]*\n(?:.*\n)*\\S*[^\\s\u180e]) (.*)")
"""A line's end but for its last word; that, further lines and the first word of the last; and the rest of that."""


class _Memo(dict[str, int]):
    """The token counts of texts. One pass over many texts adds up the known counts and collects the unknown texts."""

    def look_up(self, texts: Iterable[str]) -> tuple[int, list[str]]:
        """The sum over the known ones, and the others, as often as they occur."""
        if len(self) > MEMO_LIMIT:
            self.clear()
        self._missed: list[str] = []
        return sum(map(self.__getitem__, texts)), self._missed

    def __missing__(self, text: str) -> int:
        self._missed.append(text)
        return 0

    def learn(self, missed: Iterable[str], new: Iterable[str], tokens: Iterable[int]) -> int:
        """Remember what ``new`` take; the sum over ``missed``."""
        self.update(zip(new, tokens, strict=True))
        return sum(map(self.__getitem__, missed))


class CountingTokenizer(PromptTokenizer):
    """A prompt tokenizer with the same counts, quicker where ``additive``: then every word is tokenised once."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        super().__init__(tokenizer.tokenizer, chat=tokenizer.chat, **tokenizer.given)
        self._plain = tokenizer
        self._words, self._sentences, self._pieces = _Memo(), _Memo(), _Memo()
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
        first, *sentences = text.split(". ")
        if not sentences or len(text) < SHORTEST * len(sentences):
            return self._by_words(text)
        last = sentences.pop()
        total, missed = self._sentences.look_up(sentences)
        rest: list[str] = []
        # What spans lines is hardly met again, unless the lines are all alike; but its begin and end may be.
        passing = {each for each in missed if "\n" in each or len(each) > LONGEST}
        if sum(map(len, passing)) > LONGEST:
            found = [_LINES.fullmatch(each) or each for each in missed if each in passing]
            rest = [f" {each}." if isinstance(each, str) else each[2] for each in found]
            ends = [end for each in found if not isinstance(each, str) for end in (f"{each[1]}. ", each[3])]
            known, more = self._sentences.look_up(ends)
            total, missed = total + known, [each for each in missed if each not in passing] + more
        if new := [*set(missed)]:
            texts = [f" {each[:-2]}" if each.endswith(". ") else f" {each}." for each in new]
            self._by_words("".join(texts))  # all their new words in one call
            total += self._sentences.learn(missed, new, map(self._by_words, texts))
        return total + self._by_words(f"{first}.{''.join(rest)} {last}")

    def _by_words(self, text: str) -> int:
        """Tokens of a text, by its words."""
        first, *words = text.split(" ")
        total, missed = self._words.look_up(words)
        # Words met before are sound, so only new ones are looked at. Nothing stands before the first space of a text.
        if any(map(_unsound, {first[-1:] or ".", *(word[-1:] for word in missed)})):
            first, *words = _CUT.split(text)
            ends = [first, f" {words.pop()}"] if words and _unsound(words[-1][-1:]) else [first]
            total, missed = self._words.look_up(words)
        else:
            ends = [first]
        if new := [*set(missed)]:
            total += self._words.learn(missed, new, self._by_pieces([f" {word}" for word in new]))
        return total + sum(self._encoded([each for each in ends if each]))

    def _by_pieces(self, words: list[str]) -> Iterable[int]:
        """Tokens of each of these words, which begin with a space, by their pieces."""
        if not self._pattern:
            return self._encoded(words)
        find = self._pattern.findall
        found = [find(word) if PLAIN.match(word) else (word,) for word in words]
        _, missed = self._pieces.look_up(chain.from_iterable(found))
        new = [*set(missed)]
        self._pieces.learn((), new, self._encoded(new))
        return [sum(map(self._pieces.__getitem__, pieces)) for pieces in found]

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
