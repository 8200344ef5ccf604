"""The haystack of the demo model: endless plain sentences of a small grammar, the same at every reading."""

from __future__ import annotations

from random import Random

NAME = "demo-filler"
SENTENCES = 4000
_SEED = 17
_NOUNS = tuple(
    "actor ankle apron arrow badge baker basin beach bench bird boat bottle bowl branch brick bridge brush bucket cabin "
    "camel canal candle canoe carpet cart castle cat chain chair chalk cliff clock cloth coach coat coin corner cow "
    "crab crane crown cup desk dog donkey door dragon drum duck eagle engine farm fence field finger fish flag flower "
    "forest fork fox frog garden gate ghost giraffe glass goat goose guitar hammer harbor hat hill horse hotel house "
    "island jacket jar jug kettle key king kite kitten knife ladder lake lamp leaf letter lion lizard lock map market "
    "mirror monkey moon mouse nail nest oven owl paint panda paper pear pencil piano pig pilot pipe plate pocket pond".split()
)
_ADJECTIVES = tuple(
    "big black blue bold brave brown busy calm cheap clean clear cold cool dark deep dirty dry early easy empty fair "
    "fast fat fine fresh full gray great green happy heavy huge large late lazy light long loud low narrow new nice "
    "old pale pink plain proud quick quiet red rich".split()
)
_VERBS = tuple(
    "sees likes finds holds wants makes takes keeps leaves follows brings meets turns moves opens closes paints builds "
    "carries hears".split()
)


def sentence(rng: Random) -> str:
    """One sentence of three to seven words."""
    kind = rng.random()
    if kind < 0.5:
        return f"The {_adjective(rng)} {_noun(rng)} {rng.choice(_VERBS)} the {_noun(rng)}."
    if kind < 0.8:
        return f"Each {_noun(rng)} {rng.choice(_VERBS)} one {_adjective(rng)} {_noun(rng)}."
    return f"Every {_noun(rng)} is {_adjective(rng)}."


def pieces() -> tuple[str, ...]:
    """The whole text, one piece: about 23,000 words."""
    rng = Random(_SEED)
    return (" ".join(sentence(rng) for _ in range(SENTENCES)),)


def _noun(rng: Random) -> str:
    return rng.choice(_NOUNS)


def _adjective(rng: Random) -> str:
    return rng.choice(_ADJECTIVES)
