"""The text on which the demo model learns: word tables first, then needles in the wording of the ruler tasks.

Retrieval is learnt in minutes only in this order (words, then digits, then sentences), in a window that grows with the
model's accuracy (:mod:`demo_model.train`). Prompts of the tasks have lm-eval's wording, read at run time. What a
model is asked in an evaluation is never in here: evaluation keys are adjective-noun pairs, and training uses every
other kind of pair (noun-noun, noun-adjective, adjective-adjective); the asked values of the default evaluation are left
out as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from random import Random
from typing import Any, Literal

from lr2eval.tasks.facts import table
from lr2eval.tasks.haystacks import filler
from lr2eval.tasks.ruler import words as ruler_words
from lr2eval.tasks.shared import upstream

BOS, EOS = "<s>", "</s>"
Document = list[tuple[str, float]]
"""Pieces of text with the weight of their tokens in the loss on answers."""
Task = Literal["single_1", "multikey_1", "multikey_2", "multivalue", "multiquery", "vt"]
HELD_OUT = 0.1
"""Share of adjectives and nouns that training never uses."""
DIGITS = 7


@dataclass(frozen=True)
class Words:
    """Words of training and held-out ones, disjoint; both are alphabetic."""

    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    held_adjectives: tuple[str, ...]
    held_nouns: tuple[str, ...]

    @classmethod
    def load(cls) -> Words:
        """The word lists of the ruler tasks, split with a fixed seed."""
        rng = Random(5)
        parts: list[tuple[str, ...]] = []
        for category in ("adjective", "noun"):
            found = [word for word in ruler_words.listed(category) if word.isalpha() and word.islower()]
            rng.shuffle(found)
            held = int(len(found) * HELD_OUT)
            parts += [tuple(found[held:]), tuple(found[:held])]
        adjectives, held_adjectives, nouns, held_nouns = parts
        used = {*adjectives, *nouns}  # some words are both, and may be held out of one list only
        return cls(
            adjectives,
            nouns,
            tuple(word for word in held_adjectives if word not in used),
            tuple(word for word in held_nouns if word not in used),
        )

    @cached_property
    def _kinds(self) -> tuple[frozenset[str], frozenset[str]]:
        return frozenset(ruler_words.listed("adjective")), frozenset(ruler_words.listed("noun"))

    @cached_property
    def all(self) -> tuple[str, ...]:
        """Training words of both kinds."""
        return tuple(dict.fromkeys(self.adjectives + self.nouns))

    def key(self, rng: Random) -> str:
        """A pair of training words that no evaluation uses as a key: it is not adjective-noun."""
        adjectives, nouns = self._kinds
        while True:
            first, second = rng.choice(self.all), rng.choice(self.all)
            if not (first in adjectives and second in nouns):
                return f"{first}-{second}"

    def held_out_key(self, rng: Random) -> str:
        """Adjective-noun, both never seen in training."""
        return f"{rng.choice(self.held_adjectives)}-{rng.choice(self.held_nouns)}"


class Phrases:
    """The ruler texts for one number as parts: needle, instruction, question, answer prefix."""

    def __init__(self) -> None:
        texts = upstream.niah_texts()
        self.noise = texts.noise
        self._needle = texts.needle
        self._plural = (texts.template, texts.answer_prefix)
        self._single = (upstream.single_answer(texts.template), upstream.single_answer(texts.answer_prefix))

    def needle(self, key: str, value: str) -> str:
        return self._needle.format(type_needle_v="numbers", key=key, value=value)

    def instruction(self, many: bool = False) -> str:
        template, kind = (self._plural[0], "numbers") if many else (self._single[0], "number")
        return template.partition("{context}")[0].format(type_needle_v=kind)

    def question(self, key: str, many: bool = False) -> str:
        """With the newline before it."""
        template, kind = (self._plural[0], "numbers") if many else (self._single[0], "number")
        return template.partition("{context}")[2].format(type_needle_v=kind, query=key)

    def prefix(self, key: str, many: bool = False) -> str:
        """With the space before it."""
        template, kind = (self._plural[1], "numbers") if many else (self._single[1], "number")
        return template.format(type_needle_v=kind, query=key)


class Writer:
    """Writes documents. ``count`` gives the tokens of a text; ``reserved`` are values never to be used.

    ``one_token`` are words that take one token after a space: tables of them are the first thing a model can learn.
    """

    def __init__(
        self,
        count: Callable[[str], int],
        one_token: Sequence[str],
        words: Words,
        reserved: frozenset[str] = frozenset(),
    ) -> None:
        self._count, self._one_token, self._words, self._reserved = count, tuple(one_token), words, reserved
        self.phrases = Phrases()
        self._facts = table.facts()

    # Tables: what comes first in the curriculum. ``pool`` words are in use, ``room`` is in tokens.

    def repeated_words(self, rng: Random, room: int, pool: int) -> Document:
        """A list of distinct words, again and again."""
        listed = rng.sample(self._one_token[: max(pool, 40)], rng.randint(3, min(40, max(4, room // 2))))
        text = "".join(f" {word}" for word in listed)
        return [(text, 0.0), (text * (room // len(listed)), 1.0)]

    def word_pairs(self, rng: Random, room: int, pool: int) -> Document:
        """Pairs of words in ever new orders: every second word can be told from before."""
        half = min(pool, len(self._one_token)) // 2
        count = rng.randint(2, max(3, min(half, room // 5)))
        keys = rng.sample(self._one_token[:half], count)
        pairs = [(key, rng.choice(self._one_token[half : 2 * half])) for key in keys]
        document: Document = []
        for turn in range(room // (2 * count) + 1):
            rng.shuffle(pairs)
            for key, value in pairs:
                document += [(f" {key}", 0.0), (f" {value}", 1.0 if turn else 0.0)]
        return document

    def number_table(self, rng: Random, room: int, pool: int, level: int) -> Document:
        """Keys with numbers, stated, then stated or asked again and again. ``level`` 0 (plain) to 2 (as in ruler)."""
        kind, digits, stated, asked = self._table_form(rng, level)
        again = asked if stated != asked or rng.random() >= 0.5 else -1
        tight = level == 0 and rng.random() < 0.6
        fill = self._fill(rng) if level and rng.random() < 0.3 else None
        mixed = rng.random() < 0.4
        each = (2, 7, 4, 3)[kind] + digits + (2, 2, 17, 17, 10)[stated]
        wanted = max(2, min(int(room / each * rng.uniform(0.15, 0.55)), 40))
        document: Document = []
        pairs: list[tuple[str, str]] = []
        used = 0

        def put(pair: tuple[str, str], form: int, weight: float) -> None:
            nonlocal used
            document.extend(self._entry(pair, form, weight, tight))
            used += each

        while len(pairs) < wanted and used < room:
            if fill and rng.random() < 0.4:
                document.append((f"{fill(rng)}\n", 0.0))
                used += 20
            pairs.append((self._table_key(rng, kind, pool), self.number(rng, digits)))
            put(pairs[-1], stated, 0.0)
            while mixed and rng.random() < 0.5 and used < room:
                put(rng.choice(pairs), again, 1.0)
        while used < room:
            rng.shuffle(pairs)
            for pair in pairs:
                put(pair, again, 1.0)
        return document

    # Tasks: prompts of ruler with ``questions`` of them asked, as many units of text as fit into ``room`` tokens.

    def task(
        self,
        rng: Random,
        task: Task,
        room: int,
        questions: int = 1,
        *,
        key: Callable[[Random], str] | None = None,
        depth: float | None = None,
        keys: int | None = None,
    ) -> Document:
        """A prompt of ``task`` with its answers.

        ``key`` draws keys; ``depth`` (0 to 1) is where the first asked one is; ``keys`` stand in the text where their
        number is not that of the benchmark.
        """
        if task == "vt":
            return self._variables(rng, room)
        draw = key or self._words.key
        keys = keys or (1 if task in ("single_1", "multivalue") else 4)
        values = 4 if task == "multivalue" else 1
        facts = [(draw(rng), [self.number(rng) for _ in range(values)]) for _ in range(keys)]
        if task == "multikey_2":
            facts = [(draw(rng), [self.number(rng)]) for _ in range(questions)]
        many = task in ("multivalue", "multiquery")
        asked = facts if task == "multiquery" else facts[:questions]
        tail = self._asked_together(asked) if many else [part for fact in asked for part in self._asked(fact)]
        needles = [self.phrases.needle(name, value) for name, held in facts for value in held]
        noise = task == "single_1" or (task != "multikey_2" and rng.random() < 0.5)
        separator = "\n" if noise or task == "multikey_2" else " "
        left = room - 1 - self._count(self.phrases.instruction(many)) - sum(self._count(text) for text, _ in tail)
        left -= sum(self._count(f"{separator}{needle}") for needle in needles)
        units = self._units(rng, task, noise, separator, left, draw)
        base = len(units)
        places = [depth if depth is not None and at == 0 else rng.random() for at in range(len(needles))]
        if task == "multivalue":  # its values are told in the order of the text; any other could not be learnt
            places.sort()
        for place, needle in sorted(zip(places, needles, strict=True), reverse=True):
            units.insert(round(place * base), needle)
        return [(BOS + self.phrases.instruction(many) + separator.join(units), 0.0), *tail]

    def known(self, rng: Random, room: int) -> Document:
        """Statements of the facts table."""
        document: Document = []
        for _ in range(max(1, room // 14)):
            fact = rng.choice(self._facts)
            document += [(fact.stem, 0.0), (f" {fact.object}", 1.0), (".\n", 0.0)]
        return document

    def number(self, rng: Random, digits: int = DIGITS) -> str:
        """A number that is no value of the default evaluation."""
        while True:
            value = str(rng.randint(10 ** (digits - 1), 10**digits - 1))
            if value not in self._reserved:
                return value

    def _table_form(self, rng: Random, level: int) -> tuple[int, int, int, int]:
        """(kind of key, digits, form of the statement, form of the question)."""
        u = rng.random()
        if level == 0:
            form = rng.choice((0, 0, 0, 1))
            return (0 if u < 0.85 else 2), rng.choice((1, 2, 3, 4)), form, form
        if level == 1:
            kind = 0 if u < 0.2 else 2 if u < 0.5 else 3 if u < 0.65 else 1
            form = rng.choice((0, 1, 2, 4))
            other = rng.choice((5, 6, 7) if form else (0, 0, 5))
            return kind, rng.choice((2, 3, 4, 5, 7)), form, form if rng.random() < 0.5 else other
        kind = 0 if u < 0.04 else 3 if u < 0.1 else 1
        digits = 7 if rng.random() < 0.6 else rng.randint(2, 7)
        return kind, digits, rng.choice((1, 2, 2, 2, 4)), rng.choice((0, 5, 6, 6, 7, 7, 2))

    def _table_key(self, rng: Random, kind: int, pool: int) -> str:
        """A word of one token, a pair as in ruler, a pair of short words, or any word; with the space before it."""
        words = self._one_token[:pool]
        if kind == 0:
            return f" {rng.choice(words)}"
        if kind == 2:
            return f" {rng.choice(words)}-{rng.choice(words)}"
        return f" {rng.choice(self._words.all)}" if kind == 3 else f" {self._words.key(rng)}"

    def _entry(self, pair: tuple[str, str], form: int, weight: float, tight: bool) -> Document:
        """A pair stated (0 to 4) or asked (5 to 7); -1 states it in the plainest sentence."""
        key, value = pair
        name = key.strip()
        stem = self.phrases.prefix(name).strip()
        brief = stem.replace(" mentioned in the provided text", "")
        before, after, end = {
            -1: (brief, ".\n", 0.0),
            0: (key, "\n", 0.0),
            1: (f"{key}:", "\n", 0.0),
            2: (self.phrases.needle(name, "").removesuffix(" ."), ".\n", 0.0),
            4: (brief, ".\n", 0.0),
            5: (brief, EOS, 0.5),
            6: (stem, EOS, 0.5),
            7: (self.phrases.question(name).strip() + self.phrases.prefix(name), EOS, 0.5),
        }[form]
        close: Document = [(after, weight * end), ("\n", 0.0)] if end else [(after, 0.0)]
        return [(before if tight else f"{before} ", 0.0), (value, weight), *close]

    def _fill(self, rng: Random) -> Callable[[Random], str]:
        return filler.sentence if rng.random() < 0.5 else lambda _: self.phrases.noise

    def _units(
        self, rng: Random, task: Task, noise: bool, separator: str, left: int, draw: Callable[[Random], str]
    ) -> list[str]:
        if noise:
            return [self.phrases.noise] * max(0, left // self._count(f"{separator}{self.phrases.noise}"))
        units: list[str] = []
        while True:
            unit = self.phrases.needle(draw(rng), self.number(rng)) if task == "multikey_2" else filler.sentence(rng)
            left -= self._count(f"{separator}{unit}")
            if left < 0:
                return units
            units.append(unit)

    def _asked(self, fact: tuple[str, list[str]]) -> Document:
        name, (value, *_) = fact
        asked = self.phrases.question(name) + self.phrases.prefix(name)
        return [(f"{asked} ", 0.0), (value, 1.0), (EOS, 0.5)]

    def _asked_together(self, facts: Sequence[tuple[str, list[str]]]) -> Document:
        *most, last = [name for name, _ in facts]
        query = f"{', '.join(most)}, and {last}" if most else last
        document: Document = [(self.phrases.question(query, True) + self.phrases.prefix(query, True), 0.0)]
        values = [value for _, held in facts for value in held]
        for at, value in enumerate(values):
            document += [(" " if at == 0 else ", ", 0.0), (value, 1.0)]
        return [*document, (EOS, 0.5)]

    def _variables(self, rng: Random, room: int) -> Document:
        """The question of vt without its solved example: five names pass on a value."""
        texts = upstream.task_texts("vt")
        names = rng.sample([a + b + c for a in "BDFG" for b in "AEIO" for c in "KLMN"], 5)
        value = self.number(rng, 5)
        lines = [f"VAR {names[0]} = {value}", *(f"VAR {b} = VAR {a} " for a, b in pairwise(names))]
        fixed = texts.template.format(context="", query=value) + texts.answer_prefix.format(num_v=5, query=value)
        left = room - 10 - self._count(fixed) - sum(map(self._count, lines)) - 6 * len(names)
        units = [self.phrases.noise] * max(0, left // self._count(f"\n{self.phrases.noise}"))
        places = sorted(rng.randint(0, len(units)) for _ in lines)
        for shift, (place, line) in enumerate(zip(places, lines, strict=True)):
            units.insert(place + shift, line)
        prompt = texts.template.format(context="\n".join(units), query=value)
        prefix = texts.answer_prefix.format(num_v=len(names), query=value).rstrip()
        answer = "".join(f" {name}" for name in names)
        return [(BOS + prompt + prefix, 0.0), (answer, 1.0), (EOS, 0.5)]


@dataclass(frozen=True)
class Mixture:
    """What a window holds while the model's window has ``window`` tokens; shares of documents."""

    level: int
    tables: float
    tasks: float
    facts: float
    questions: int = 4
    room: int = 90
    """Tokens of a prompt for each of its questions, at least."""


def mixture(rng: Random, window: int, full: int, last: Mapping[str, Any]) -> Mixture:
    """The stage of the curriculum for a window of ``window`` of ``full`` tokens; ``last`` describes the last stage."""
    u, v = rng.random(), rng.random()
    if window < 44:
        return Mixture(-1, 1.0, 0.0, 0.0)
    if window < 80:
        return Mixture(0 if u < 0.9 else -1, 0.85, 0.0, 0.0)
    if window < 128:
        return Mixture(1 if u < 0.75 else 0, 0.83, 0.0, 0.05)
    if window < 256:
        return Mixture(2 if u < 0.6 else 1 if v < 0.7 else 0, 0.8, 0.0, 0.15)
    level = 2 if u < 0.8 else 1
    if window < full:
        return Mixture(level, 0.45, 0.37, 0.15)
    return Mixture(level, last["tables"], last["tasks"], last["facts"], last["questions"], last["room"])


TASK_SHARES: tuple[tuple[Task, float], ...] = (
    ("single_1", 0.2),
    ("multikey_1", 0.22),
    ("multikey_2", 0.46),
    ("multiquery", 0.05),
    ("multivalue", 0.04),
    ("vt", 0.03),
)
SMALLEST_TASK = 230
"""Tokens below which a task's prompt has hardly any text."""


def documents(writer: Writer, rng: Random, room: int, pool: int, mix: Mixture, rare: float | None = None) -> Document:
    """The next document of a window with ``room`` tokens left.

    ``rare``: the share of documents that may be long; others end within 160 tokens. ``None``: all may.
    """
    u = rng.random()
    if mix.level == -1:
        if u < 0.3:
            return writer.repeated_words(rng, room, pool)
        return writer.word_pairs(rng, room, pool) if u < 0.85 else writer.number_table(rng, room, pool, 0)
    if room < 24:
        return writer.repeated_words(rng, room, pool)
    if mix.level == 0 and u < 0.3:
        return writer.repeated_words(rng, room, pool) if u < 0.1 else writer.word_pairs(rng, room, pool)
    longest = room if rare is None or rng.random() < rare else min(room, 160)
    if u < mix.tables:
        whole = longest < 64 or mix.level == 0
        size = longest if whole else int(math.exp(rng.uniform(math.log(48), math.log(longest))))
        return writer.number_table(rng, size, pool, mix.level)
    if u < mix.tables + mix.tasks and longest >= SMALLEST_TASK:
        (task,) = rng.choices([name for name, _ in TASK_SHARES], [share for _, share in TASK_SHARES])
        size = longest if rng.random() < 0.5 else rng.randint(SMALLEST_TASK, longest)
        most = {"multikey_1": min(4, mix.questions), "multikey_2": mix.questions}.get(task, 1)
        return writer.task(rng, task, size, rng.randint(1, max(1, min(most, (size - 150) // mix.room))))
    if u > 1 - mix.facts:
        return writer.known(rng, min(longest, rng.randint(40, 200)))
    return writer.number_table(rng, min(longest, rng.randint(48, 200)), pool, mix.level)
