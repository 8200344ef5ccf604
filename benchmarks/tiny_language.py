"""A made-up language of 304 words in which a model of half a megabyte learns to look things up.

Documents hold facts to look up (``k17 v3``: key 17 has value 3) in filler, and questions (``? k17 v3``). Long
dependencies can be made rare, as they are in natural text: that is what LongRoPE2 says leaves the slow RoPE pairs
under-trained. A second kind of document states closed-book facts (``! s4 r1 o9 .``), which need no context at all.

Every document is a list of words and a weight per word: 1 for the words that answer something.

A :class:`Form` makes the facts to look up harder: values that stand apart from their keys, keys of two words that share
words with many others, keys that are stated again with another value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KEYS, VALUES, FILLERS, SUBJECTS, RELATIONS, OBJECTS = 112, 48, 48, 48, 2, 32
SPECIAL = ("<pad>", "<s>", "<unk>", "?", "!", ".")
WORDS: tuple[str, ...] = (
    *SPECIAL,
    *(f"k{i}" for i in range(KEYS)),
    *(f"v{i}" for i in range(VALUES)),
    *(f"w{i}" for i in range(FILLERS)),
    *(f"s{i}" for i in range(SUBJECTS)),
    *(f"r{i}" for i in range(RELATIONS)),
    *(f"o{i}" for i in range(OBJECTS)),
)
NUMBER = {word: number for number, word in enumerate(WORDS)}
K0, V0, W0, S0, R0, O0 = (NUMBER[f"{letter}0"] for letter in "kvwsro")
PAD, BOS, ASK, STATE, STOP = (NUMBER[word] for word in ("<pad>", "<s>", "?", "!", "."))

_TABLES = np.random.default_rng(2024)
FACTS = _TABLES.integers(0, OBJECTS, size=(SUBJECTS, RELATIONS))
"""The object of every subject and relation: what a model must know by heart."""
_NEXT = np.stack([_TABLES.choice(FILLERS, 4, replace=False) for _ in range(FILLERS)])
_ODDS = np.array([0.55, 0.25, 0.15, 0.05])

Rng = np.random.Generator


@dataclass(frozen=True)
class Form:
    """What a fact to look up is like; ``?`` asks for it with the key alone, and the value follows.

    ``gap``: the most filler words between a key and its value. ``doubled``: a key is two words out of the first
    16, so that each word is shared by many keys. ``latest``: about three statements a key; the last one in front of the
    question counts.
    """

    gap: int = 0
    doubled: bool = False
    latest: bool = False

    def keys(self, rng: Rng, count: int) -> list[tuple[int, ...]]:
        """So many different ones, as words."""
        if not self.doubled:
            return [(int(key),) for key in rng.permutation(KEYS)[:count] + K0]
        return [(K0 + int(key) // 16, K0 + int(key) % 16) for key in rng.permutation(16 * 16)[:count]]

    def stated(self, rng: Rng, key: tuple[int, ...], value: int) -> tuple[int, ...]:
        """The words of a statement."""
        apart = filler(rng, int(rng.integers(0, self.gap + 1))) if self.gap else ()
        return (*key, *(int(word) for word in apart), value)

    @property
    def size(self) -> int:
        """Most words of a statement."""
        return 2 + self.doubled + self.gap

    @property
    def asking(self) -> int:
        """Words of a question with its answer."""
        return 3 + self.doubled


PLAIN = Form()


@dataclass
class Document:
    """Word numbers and their weights, both of one length."""

    words: np.ndarray
    answers: np.ndarray


def filler(rng: Rng, length: int) -> np.ndarray:
    """A walk over the filler words, four possible successors each."""
    choices = rng.choice(4, size=length, p=_ODDS)
    found = np.empty(length, np.int64)
    word = int(rng.integers(FILLERS))
    for place, choice in enumerate(choices):
        word = int(_NEXT[word, choice])
        found[place] = word
    return found + W0


def recall(rng: Rng, length: int, pairs: int, questions: int, *, at_end: bool, form: Form = PLAIN) -> Document:
    """Pairs at random places in filler, each question somewhere behind its pair or all questions at the end."""
    keys, values = form.keys(rng, pairs), rng.integers(0, VALUES, pairs) + V0
    if form.latest:
        keys = [keys[which] for which in rng.integers(0, max(1, pairs // 3), pairs)]
    asked = np.resize(rng.permutation(pairs), questions)
    stated_at = rng.random(pairs)
    asked_at = (
        1 + rng.random(questions) if at_end else stated_at[asked] + (1 - stated_at[asked]) * rng.random(questions)
    )
    items: list[tuple[float, tuple[int, ...], int]] = [
        *((when, key, int(value)) for when, key, value in zip(stated_at, keys, values, strict=True)),
        *((when, keys[which], -1) for when, which in zip(asked_at, asked, strict=True)),
    ]
    items.sort(key=lambda item: item[0])
    known: dict[tuple[int, ...], int] = {}
    written: list[tuple[int, ...]] = []
    for _, key, value in items:
        if value >= 0:
            known[key] = value
        written.append(form.stated(rng, key, value) if value >= 0 else (ASK, *key, known[key]))
    spare = length - 1 - sum(map(len, written))
    gaps = pairs + 1 if at_end else len(items) + 1
    room = rng.multinomial(spare, np.full(gaps, 1 / gaps))
    words, answers = filler(rng, length), np.zeros(length, np.float32)
    words[0] = BOS
    place = 1
    for number, item in enumerate(written):
        place += int(room[number]) if number < gaps else 0
        words[place : place + len(item)] = item
        place += len(item)
        if item[0] == ASK:
            answers[place - 1] = 1
    return Document(words, answers)


def dense(rng: Rng, length: int, pairs: int, form: Form = PLAIN) -> Document:
    """The same pairs again and again in new orders: from the second time on every value answers, right behind its
    key."""
    keys, values = form.keys(rng, pairs), rng.integers(0, VALUES, pairs) + V0
    order = np.concatenate([rng.permutation(pairs) for _ in range(length // (2 * pairs) + 2)])
    words: list[int] = [BOS]
    answers: list[float] = [0.0]
    for number, which in enumerate(order):
        value = int(values[which])
        item = form.stated(rng, keys[which], value) if number < pairs else (*keys[which], value)
        words += item
        answers += [0.0] * (len(item) - 1) + [float(number >= pairs)]
    return Document(np.array(words)[:length], np.array(answers, np.float32)[:length])


def copied(rng: Rng, length: int) -> Document:
    """A random run of keys and values, repeated."""
    period = int(rng.integers(3, length // 2))
    words = np.concatenate([[BOS], np.resize(rng.integers(K0, V0 + VALUES, period), length)])[:length]
    answers = np.zeros(length, np.float32)
    answers[period + 2 :] = 0.3
    return Document(words, answers)


def facts(rng: Rng, length: int) -> Document:
    """Closed-book statements with some filler between them."""
    words, answers = filler(rng, length), np.zeros(length, np.float32)
    words[0] = BOS
    place = 1
    while place + 5 <= length:
        subject, relation = int(rng.integers(SUBJECTS)), int(rng.integers(RELATIONS))
        words[place : place + 5] = STATE, S0 + subject, R0 + relation, O0 + FACTS[subject, relation], STOP
        answers[place + 3] = 1
        place += 5 + (int(rng.integers(0, 6)) if rng.random() < 0.3 else 0)
    return Document(words, answers)


def packed(rng: Rng, length: int, form: Form = PLAIN) -> Document:
    """Short documents of 20 to 40 words one after the other, so that no dependency is longer than 40."""
    parts: list[Document] = []
    left = length
    while left:
        size = min(int(rng.integers(20, 41)), left)
        left -= size
        if size < 20:
            parts.append(Document(filler(rng, size), np.zeros(size, np.float32)))
        elif rng.random() < 0.4:
            parts.append(dense(rng, size, int(rng.integers(2, max(3, size // (2 * form.size)))), form))
        elif rng.random() < 0.3:
            parts.append(facts(rng, size))
        else:
            pairs = min(int(rng.integers(2, 4)), (size - 2) // (form.size + form.asking))
            parts.append(recall(rng, size, pairs, 3 if form == PLAIN else pairs, at_end=rng.random() < 0.4, form=form))
    words = np.concatenate([part.words for part in parts])
    words[1:][words[1:] == BOS] = STOP
    return Document(words, np.concatenate([part.answers for part in parts]))


def full_recall(rng: Rng, length: int, form: Form = PLAIN) -> Document:
    """A recall document with as many pairs and questions as fit, or fewer."""
    budget = int((length - 2) * (rng.random() if rng.random() < 0.7 else rng.uniform(0.15, 1)))
    pairs = max(1, min(int(budget * rng.uniform(0.3, 0.6) / form.size), KEYS))
    questions = min(max(1, (budget - form.size * pairs) // form.asking), 2 * pairs)
    return recall(rng, length, pairs, questions, at_end=rng.random() < 0.4, form=form)


def document(rng: Rng, length: int, *, rare_long: float = 0.93, form: Form = PLAIN) -> Document:
    """One training document; beyond 48 words the share ``rare_long`` of them is packed from short ones."""
    if length > 48 and rng.random() < rare_long:
        return packed(rng, length, form)
    copy, dense_share, fact = (0.2, 0.5, 0.1) if length < 64 else (0.05, 0.15, 0.3)
    kind = rng.random()
    if kind < copy:
        return copied(rng, length)
    if kind < copy + dense_share:
        return dense(rng, length, int(rng.integers(2, max(3, length // (5 * form.size // 2)))), form)
    if kind < copy + dense_share + fact:
        return facts(rng, length)
    return full_recall(rng, length, form)


def text(words: Sequence[int] | np.ndarray) -> str:
    """Words as the tokenizer reads them."""
    return " ".join(WORDS[int(word)] for word in words)
