"""Where English sentences end, without any download: the decisions of an untrained Punkt splitter.

nltk's ``PunktSentenceTokenizer()`` (3.10) knows no abbreviation before it is trained, so what is left of Kiss and
Strunk's algorithm are rules over a word and its neighbour. They are restated here and give the same sentences, which
a test checks where nltk is installed. Whether to split is decided for every ".", "?" and "!" that is followed by
white space or by closing punctuation; of several in one word the last decides.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from itertools import pairwise

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


def _ends(token: str, following: str) -> bool:
    """Whether a sentence ends with ``token``: "3." and "J." may go on, and so may an ellipsis."""
    if token in ("?", "!"):
        return True
    if not token.endswith(".") or token.endswith(".."):
        return False
    initial = _INITIAL.fullmatch(token)
    if initial or _NUMBER.fullmatch(token):
        goes_on = following in (*";:,.!?",) or following[0].islower()
        return not (goes_on or (initial and following[0].isupper()))
    return True
