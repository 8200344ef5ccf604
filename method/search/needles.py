"""Needle samples: exactly ``L`` tokens, the last of which the model can only predict by looking far back (LongRoPE2,
section 3.2).

A sample is an instruction, a haystack with needles in it, and for every asked needle a question, an answer stem and
the answer. Only answer tokens are scored. Samples are assembled from tokens, not text, so each has exactly the asked
length, and the scored tokens are known.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Any

from lr2eval.base.ids import digest, sample_seed
from lr2eval.base.wording import Wording
from lr2eval.errors import UsageError
from lr2eval.method.search.config import SearchConfig
from lr2eval.model.tokenizer import PromptTokenizer

VERSION = "needles-1"


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
            raise UsageError(f"haystack {name}: contains no words; give another text")

    def stretch(self, size: int, index: int, config: SearchConfig, rng: Random) -> tuple[list[int], list[int]]:
        """``size`` tokens for sample ``index``, and the places between sentences in them.

        With several texts, each sample begins with another text, in an order that the seed decides; with a single text,
        at a random sentence. Reading goes on into the next text. Raises :class:`UsageError` if the text is too short.
        """
        several = len(self.starts) > 1
        usable = list(self.starts if several else self.breaks)
        if not config.repeat:
            usable = [start for start in usable if len(self.ids) - start >= size]
            if not usable and len(self.ids) >= size:
                usable = [start for start in self.breaks if len(self.ids) - start >= size]
            if not usable:
                raise UsageError(
                    f"haystack {self.name}: has {len(self.ids):,} tokens, but a sample of {config.target_length:,} "
                    f"needs {size:,}; give a longer text, or add --repeat"
                )
        if several:
            Random(config.seed).shuffle(usable)
            start = usable[index % len(usable)]
        else:
            start = rng.choice(usable)
        rounds = -(-(start + size) // len(self.ids))
        ids = (self.ids * rounds)[start : start + size]
        first = bisect_right(self.breaks, start) - 1
        places = [place + turn * len(self.ids) - start for turn in range(rounds) for place in self.breaks]
        return ids, [place for place in places[first:] if 0 <= place <= size]


def make_samples(
    text: TokenText, tokenizer: PromptTokenizer, config: SearchConfig, wording: Wording, count: int, *, first: int = 0
) -> list[Sample]:
    """Samples ``first`` to ``first + count - 1`` of exactly ``config.target_length`` tokens.

    A sample depends on its number, so held-out samples are the ones with further numbers. Raises :class:`UsageError`
    for a length without room for a haystack, a haystack that is too short, and a wording with too few keys or values.
    """
    wanted = config.needles + config.distractors
    for name, given in (("keys", wording.keys), ("values", wording.values)):
        if given and wanted > len(given):
            raise UsageError(f"needles: {wanted} are asked for, but the wording has only {len(given)} {name}")
    return [_sample(text, tokenizer, config, wording, first + row, row, count) for row in range(count)]


def needle_facts(config: SearchConfig, wording: Wording) -> dict[str, Any]:
    """What decides the samples beside haystack and tokenizer, as JSON has it: for the manifest and ``search.json``."""
    kept = ("depths", "needles", "distractors", "repeat", "seed")
    facts = {"length": config.target_length, **{name: getattr(config, name) for name in kept}, "wording": vars(wording)}
    found: dict[str, Any] = json.loads(json.dumps(facts))
    return found


def _sample(
    text: TokenText,
    tokenizer: PromptTokenizer,
    config: SearchConfig,
    wording: Wording,
    number: int,
    row: int,
    count: int,
) -> Sample:
    asked, length = config.needles, config.target_length
    rng = Random(sample_seed(VERSION, "needles", length, number, config.seed))
    keys = rng.sample(wording.keys, asked + config.distractors)
    known: Sequence[Any] = wording.values or range(1_000_000, 10_000_000)
    values = [str(value) for value in rng.sample(known, len(keys))]
    needles = [
        tokenizer.encode(wording.needle.format(key=key, value=value)) for key, value in zip(keys, values, strict=True)
    ]
    head = [*_specials(tokenizer), *tokenizer.encode(wording.instruction)]
    tails = [_tail(tokenizer, wording, key, value) for key, value in zip(keys[:asked], values[:asked], strict=True)]
    size = length - len(head) - sum(map(len, needles)) - sum(len(ids) for ids, _ in tails)
    if size < 1:
        raise UsageError(
            f"--target-length {length:,}: needles and questions alone take {length - size:,} tokens, which leaves no "
            "room for a haystack; give a longer target"
        )
    hay, breaks = text.stretch(size, number, config, rng)
    if config.depths == "start":
        wished = [0.0] * asked
    else:
        wished = [(row + place * count) / (asked * count) for place in range(asked)]
    wished += [rng.random() for _ in range(config.distractors)]
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
        raise UsageError(f"--wording: the answer for {value!r} adds no token to the prompt; change `answer`")
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
        return [token for part in parts for token in part], list(accumulate(map(len, parts)))
    encoded = tokenizer.tokenizer(
        " ".join(sentences), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    begins = [begin for begin, _ in encoded["offset_mapping"]]
    # Each stop is behind the space that follows the sentence.
    stops = accumulate(len(sentence) + 1 for sentence in sentences)
    return list(encoded["input_ids"]), [bisect_right(begins, stop - 2) for stop in stops]
