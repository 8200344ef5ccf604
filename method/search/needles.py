"""Needle samples: exactly ``L`` tokens whose last ones can only be told by looking far back (LongRoPE2, section 3.2).

A sample is an instruction, a haystack with needles in it, and for every asked needle a question, an answer stem and
the answer. Only answer tokens are scored. Everything is put together from tokens, so a sample has exactly the asked
length whatever the tokenizer does at borders, and what is scored is known to the token.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import Any, Literal

from lr2eval.base.ids import digest, sample_seed
from lr2eval.base.wording import Wording
from lr2eval.errors import UsageError
from lr2eval.model.tokenizer import PromptTokenizer

VERSION = "needles-1"
Depths = Literal["start", "grid"]


@dataclass(frozen=True)
class NeedleSettings:
    """What decides the samples of a search beside haystack and tokenizer; ``length`` in tokens."""

    length: int
    depths: Depths = "start"
    """``start``: as in the paper. ``grid``: the asked needles of all samples evenly over the length, as in its code."""
    needles: int = 1
    """Asked for in one sample; the paper has one."""
    distractors: int = 0
    """Further needles at random depths that nobody asks for."""
    repeat: bool = False
    """Begin the haystack again where it is too short; otherwise that is an error."""
    seed: int = 0
    wording: Wording = field(default_factory=Wording)

    def __post_init__(self) -> None:
        if self.depths not in ("start", "grid"):
            raise ValueError(f"depths is {self.depths!r}; choose start or grid")
        if self.needles < 1 or self.distractors < 0:
            raise ValueError("a sample needs at least one needle and no negative number of distractors")
        for name, given in (("keys", self.wording.keys), ("values", self.wording.values)):
            if given and self.needles + self.distractors > len(given):
                raise ValueError(f"{self.needles + self.distractors} needles, but the wording has {len(given)} {name}")

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a manifest; equal to what a JSON file of them holds."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found


@dataclass(frozen=True)
class Sample:
    """``ids`` are all tokens of a sample, ``scored`` the places (ascending, none 0) whose tokens are scored."""

    ids: tuple[int, ...]
    scored: tuple[int, ...]
    depths: tuple[float, ...] = ()
    """Share of the haystack's tokens in front of each asked needle."""
    answers: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Over tokens and scored places."""
        return digest([list(self.ids), list(self.scored)])


class TokenText:
    """A haystack as tokens: texts one after the other. ``breaks`` are the places between sentences."""

    def __init__(self, name: str, texts: Sequence[Sequence[str]], tokenizer: PromptTokenizer) -> None:
        """``texts`` are given as their sentences. Raises :class:`UsageError` if there is no word in them."""
        self.name = name
        self.ids: list[int] = []
        self.breaks: list[int] = []
        self.starts: list[int] = []
        for sentences in texts:
            ids, ends = _tokenise(sentences, tokenizer)
            if not ids:
                continue
            self.starts.append(len(self.ids))
            self.breaks += [len(self.ids), *(len(self.ids) + end for end in ends if end < len(ids))]
            self.ids += ids
        if not self.ids:
            raise UsageError(f"haystack {name}: holds no words; give another")

    def stretch(self, size: int, index: int, settings: NeedleSettings, rng: Random) -> tuple[list[int], list[int]]:
        """``size`` tokens for sample ``index``, and the places between sentences in them.

        Of several texts, each sample begins with another one (in an order of the seed); of a single text, at any
        sentence. Reading goes on into the next text. Raises :class:`UsageError` where the text ends too early.
        """
        several = len(self.starts) > 1
        usable = list(self.starts if several else self.breaks)
        if not settings.repeat:
            usable = [start for start in usable if len(self.ids) - start >= size]
            if not usable and len(self.ids) >= size:
                usable = [start for start in self.breaks if len(self.ids) - start >= size]
            if not usable:
                raise UsageError(
                    f"haystack {self.name}: {len(self.ids):,} tokens where a sample of {settings.length:,} needs "
                    f"{size:,}; give a longer text, or allow repetition with --repeat"
                )
        if several:
            Random(settings.seed).shuffle(usable)
            start = usable[index % len(usable)]
        else:
            start = rng.choice(usable)
        rounds = -(-(start + size) // len(self.ids))
        ids = (self.ids * rounds)[start : start + size]
        first = bisect_right(self.breaks, start) - 1
        places = [place + turn * len(self.ids) - start for turn in range(rounds) for place in self.breaks]
        return ids, [place for place in places[first:] if 0 <= place <= size]


def make_samples(
    text: TokenText, tokenizer: PromptTokenizer, settings: NeedleSettings, count: int, *, first: int = 0
) -> list[Sample]:
    """Samples ``first`` to ``first + count - 1`` of exactly ``settings.length`` tokens.

    A sample depends on its number, so held-out ones are simply those with further numbers. Raises :class:`UsageError`
    for a length that has no room and a haystack that ends too early.
    """
    return [_sample(text, tokenizer, settings, number, number - first, count) for number in range(first, first + count)]


def plain_samples(
    text: TokenText, tokenizer: PromptTokenizer, settings: NeedleSettings, count: int, *, first: int = 0
) -> list[Sample]:
    """As :func:`make_samples`, of bare text whose every token but the first is scored: the ablation's objective."""
    found = []
    for number in range(first, first + count):
        rng = Random(sample_seed(VERSION, "plain", settings.length, number, settings.seed))
        head = _specials(tokenizer)
        ids, _ = text.stretch(settings.length - len(head), number, settings, rng)
        found.append(Sample((*head, *ids), tuple(range(1, settings.length))))
    return found


def _sample(
    text: TokenText, tokenizer: PromptTokenizer, settings: NeedleSettings, number: int, row: int, count: int
) -> Sample:
    wording, asked = settings.wording, settings.needles
    rng = Random(sample_seed(VERSION, "needles", settings.length, number, settings.seed))
    keys = rng.sample(wording.keys, asked + settings.distractors)
    values = _values(wording, len(keys), rng)
    needles = [
        tokenizer.encode(wording.needle.format(key=key, value=value)) for key, value in zip(keys, values, strict=True)
    ]
    head = [*_specials(tokenizer), *tokenizer.encode(wording.instruction)]
    tails = [_tail(tokenizer, wording, key, value) for key, value in zip(keys[:asked], values[:asked], strict=True)]
    size = settings.length - len(head) - sum(map(len, needles)) - sum(len(ids) for ids, _ in tails)
    if size < 1:
        raise UsageError(
            f"{settings.length:,} tokens have no room for a haystack beside needles and questions "
            f"({settings.length - size:,}); ask for a longer target"
        )
    hay, breaks = text.stretch(size, number, settings, rng)
    if settings.depths == "start":
        wished = [0.0] * asked
    else:
        wished = [(row + place * count) / (asked * count) for place in range(asked)]
    wished += [rng.random() for _ in range(settings.distractors)]
    places = [breaks[bisect_right(breaks, wish * size) - 1] for wish in wished]  # a stretch begins with a break
    ids = [*head]
    done = 0
    for place, needle in sorted(zip(places, needles, strict=True), key=lambda pair: pair[0]):
        ids += [*hay[done:place], *needle]
        done = place
    ids += hay[done:]
    scored: list[int] = []
    for tail, answer in tails:
        scored += range(len(ids) + answer, len(ids) + len(tail))
        ids += tail
    return Sample(tuple(ids), tuple(scored), tuple(place / size for place in places[:asked]), tuple(values[:asked]))


def _values(wording: Wording, count: int, rng: Random) -> list[str]:
    if wording.values:
        return rng.sample(wording.values, count)
    return [str(number) for number in rng.sample(range(1_000_000, 10_000_000), count)]


def _tail(tokenizer: PromptTokenizer, wording: Wording, key: str, value: str) -> tuple[list[int], int]:
    """Question, stem and answer as tokens, and where the answer begins.

    They are tokenised together as a model would meet them; a token that holds both the stem's end and the answer's
    begin is part of the answer.
    """
    asked = wording.question.format(key=key) + wording.stem.format(key=key)
    whole = tokenizer.encode(asked + wording.answer.format(value=value))
    before = tokenizer.encode(asked)
    answer = next((i for i, (a, b) in enumerate(zip(whole, before, strict=False)) if a != b), len(before))
    if answer >= len(whole):
        raise UsageError(f"the wording's answer for {value!r} has no token of its own; change `answer`")
    return whole, answer


def _specials(tokenizer: PromptTokenizer) -> list[int]:
    """What the tokenizer puts in front of a prompt (BOS), and nothing where it puts nothing there."""
    bare, prompt = tokenizer.encode("a"), tokenizer.encode_rendered("a")
    begin = next((i for i in range(len(prompt)) if prompt[i : i + len(bare)] == bare), 0)
    return prompt[:begin]


def _tokenise(sentences: Sequence[str], tokenizer: PromptTokenizer) -> tuple[list[int], list[int]]:
    """Tokens of a text given as sentences, and after how many of them each sentence ends."""
    if not getattr(tokenizer.tokenizer, "is_fast", False):
        parts = [tokenizer.encode((" " if number else "") + sentence) for number, sentence in enumerate(sentences)]
        ends, total = [], 0
        for part in parts:
            total += len(part)
            ends.append(total)
        return [token for part in parts for token in part], ends
    encoded = tokenizer.tokenizer(
        " ".join(sentences), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    begins = [begin for begin, _ in encoded["offset_mapping"]]
    ends, char = [], 0
    for sentence in sentences:
        char += len(sentence)
        ends.append(bisect_right(begins, char - 1))
        char += 1
    return list(encoded["input_ids"]), ends
