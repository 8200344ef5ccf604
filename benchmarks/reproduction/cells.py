"""The cells of the study and the order in which they are run: a useful table stands early, the rest follows."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DESIGN = Path(__file__).with_name("design.toml")
SEARCHED = ("longrope",)
"""Rules that wait for a search of the study; ``longrope2`` reads its factors from a finished one."""
CHEAP = ("longrope2-unsearched", "longrope2-left-2")
"""Ablations without a search of their own."""
FIRST_TRAINED = ("longrope2", "yarn", "ntk", "pi")


@dataclass(frozen=True)
class Cell:
    """One model under one rule after one training."""

    seed: int
    rule: str
    training: str

    @property
    def key(self) -> str:
        """``SEED/RULE/TRAINING``."""
        return f"{self.seed}/{self.rule}/{self.training}"

    @classmethod
    def parse(cls, key: str) -> Cell:
        """The inverse of :attr:`key`. Raises :class:`ValueError` for anything else."""
        seed, rule, training = key.split("/")
        return cls(int(seed), rule, training)


@dataclass(frozen=True)
class Design:
    """``design.toml``, what concerns one subject."""

    subject: str
    common: Mapping[str, Any]
    own: Mapping[str, Any]

    @classmethod
    def read(cls, subject: str, path: Path = DESIGN) -> Design:
        """Of one subject. Raises :class:`KeyError` for one that the file does not have."""
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        own = found[subject]
        return cls(subject, {key: value for key, value in found.items() if key not in ("tiny", "demo")}, own)

    @property
    def seeds(self) -> list[int]:
        return list(self.own["seeds"])

    @property
    def lengths(self) -> list[int]:
        """1x, 2x, 4x, 8x, 16x the window."""
        return [self.own["window"] * 2**step for step in range(5)]

    def to_json(self) -> dict[str, Any]:
        """Everything that decides a result."""
        return {"subject": self.subject, **self.common, **self.own}


def plan(design: Design) -> list[Cell]:
    """Every cell once, first things first; of one rule and training all seeds together."""
    rules, ablations = design.common["rules"], design.common["ablations"]
    trained = [*FIRST_TRAINED, *(rule for rule in rules if rule not in FIRST_TRAINED)]
    order: list[tuple[Sequence[str], str]] = [
        ([rule for rule in rules if rule not in SEARCHED], "no"),
        (CHEAP, "no"),
        (FIRST_TRAINED, "mixed"),
        (["longrope2"], "long-only"),
        (SEARCHED, "no"),
        ([rule for rule in ablations if rule not in CHEAP], "no"),
        (trained, "mixed"),
        (trained, "long-only"),
        (ablations, "mixed"),
    ]
    cells = [Cell(seed, rule, training) for names, training in order for rule in names for seed in design.seeds]
    return list(dict.fromkeys(cells))
