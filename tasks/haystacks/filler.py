"""The haystack of the demo model: endless plain sentences of a small grammar, the same at every reading."""

from __future__ import annotations

from functools import cache
from random import Random

NAME = "demo-filler"
SENTENCES = 4000
_SEED = 17
_NOUN_LIST = (
    "actor ankle apron arrow badge baker basin beach bench bird boat bottle bowl branch brick bridge brush "
    "bucket cabin camel canal candle canoe carpet cart castle cat chain chair chalk cliff clock cloth coach coat "
    "coin corner cow crab crane crown cup desk dog donkey door dragon drum duck eagle engine farm fence field "
    "finger fish flag flower forest fork fox frog garden gate ghost giraffe glass goat goose guitar hammer "
    "harbor hat hill horse hotel house island jacket jar jug kettle key king kite kitten knife ladder lake lamp "
    "leaf letter lion lizard lock map market mirror monkey moon mouse nail nest oven owl paint panda paper pear "
    "pencil piano pig pilot pipe plate pocket pond"
)
_ADJECTIVE_LIST = (
    "big black blue bold brave brown busy calm cheap clean clear cold cool dark deep dirty dry early easy empty "
    "fair fast fat fine fresh full gray great green happy heavy huge large late lazy light long loud low narrow "
    "new nice old pale pink plain proud quick quiet red rich"
)
_VERB_LIST = (
    "sees likes finds holds wants makes takes keeps leaves follows brings meets turns moves opens closes paints "
    "builds carries hears"
)
_NOUNS, _ADJECTIVES, _VERBS = (tuple(text.split()) for text in (_NOUN_LIST, _ADJECTIVE_LIST, _VERB_LIST))


def sentence(rng: Random) -> str:
    """One sentence of three to seven words."""
    kind = rng.random()
    if kind < 0.5:
        return f"The {rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)} {rng.choice(_VERBS)} the {rng.choice(_NOUNS)}."
    if kind < 0.8:
        return f"Each {rng.choice(_NOUNS)} {rng.choice(_VERBS)} one {rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}."
    return f"Every {rng.choice(_NOUNS)} is {rng.choice(_ADJECTIVES)}."


@cache
def pieces() -> tuple[str, ...]:
    """The whole text, one piece: about 23,000 words."""
    rng = Random(_SEED)
    return (" ".join(sentence(rng) for _ in range(SENTENCES)),)
