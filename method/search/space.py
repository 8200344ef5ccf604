"""The candidates of a LongRoPE2 search at one split, and how new ones are made: pure functions of a seeded generator.

A candidate is a strictly increasing list of factors for the pairs from the split on, in whole grid steps, so that
candidates can be compared exactly. The factors below the split follow from it (:func:`rope.rules.longrope2`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from dataclasses import dataclass

import numpy as np

from lr2eval.method.rope.rules import longrope2, window_ratio
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling

PLAIN_POWER = 100
"""The paper's left side, ``S^(i/split)``, in hundredths."""
_POWER_STEP = 5
_LAST_MAY_RISE = 4.0
_CROSS_TRIES = 20
SEEDS = 8


@dataclass(frozen=True)
class Candidate:
    """``right``: factors from the split on, in grid steps. ``power``: exponent of the left side, in hundredths.
    ``temperature``: attention factor in hundredths; ``None`` for that of the space."""

    split: int
    right: tuple[int, ...]
    power: int = PLAIN_POWER
    temperature: int | None = None


@dataclass(frozen=True)
class Space:
    """Factors in ``[s, reach s]`` on a grid, strictly increasing from ``split`` on; the paper's ``reach`` is 2.

    ``powers`` are the least and largest exponent of the left side ``S^((i/split)^q)``; ``None`` keeps the paper's 1.
    Raises :class:`ValueError` if no strictly increasing list fits.
    """

    rope: OriginalRope
    target: int
    split: int
    grid: float = 0.01
    powers: tuple[float, float] | None = None
    attention_factor: float | None = None
    """``None``: LongRoPE's temperature."""
    reach: float = 2.0
    temperatures: tuple[float, float] | None = None
    """The least and largest attention factor, a gene that the paper does not have; ``None``: it is fixed."""

    def __post_init__(self) -> None:
        window_ratio(self.rope, self.target)  # raises if the target is too short
        if not 1 <= self.split < self.rope.pairs:
            raise ValueError(f"split {self.split}: is not a pair from 1 to {self.rope.pairs - 1}")
        if self.high - self.low + 1 < self.size:
            raise ValueError(
                f"grid {self.grid:g}: is too coarse for {self.size} increasing factors between {self.scale:g} and "
                f"{self.reach * self.scale:g}; use a finer one"
            )
        for name, pair in (("powers", self.powers), ("temperatures", self.temperatures)):
            if pair is not None and not 0 < pair[0] < pair[1]:
                raise ValueError(f"{name} {pair[0]:g}, {pair[1]:g}: give two positive numbers, the smaller one first")

    @property
    def scale(self) -> float:
        """``s = L / Lt``."""
        return window_ratio(self.rope, self.target)

    @property
    def size(self) -> int:
        """Pairs from the split on."""
        return self.rope.pairs - self.split

    @property
    def low(self) -> int:
        """Least factor, in grid steps."""
        return math.ceil(self.scale / self.grid - 1e-9)

    @property
    def high(self) -> int:
        """Largest factor, in grid steps."""
        return math.floor(self.reach * self.scale / self.grid + 1e-9)

    @property
    def _hundredths(self) -> tuple[int, int] | None:
        if self.temperatures is None:
            return None
        low, high = self.temperatures
        return round(100 * low), round(100 * high)

    def random_temperature(self, rng: np.random.Generator) -> int | None:
        """A temperature for a candidate; ``None`` if temperatures are not searched."""
        low, high = self._hundredths or (0, 0)
        return int(rng.integers(low, high + 1)) if high else None

    def scaling(self, candidate: Candidate) -> RopeScaling:
        """The factors of a candidate, its left side filled in."""
        return longrope2(
            self.rope,
            self.target,
            split=self.split,
            right=[round(step * self.grid, 9) for step in candidate.right],
            power=candidate.power / 100,
            attention_factor=self.attention_factor if candidate.temperature is None else candidate.temperature / 100,
        )

    def seeds(self) -> list[Candidate]:
        """The published start: from ``S0 + k S0/8`` at the split (``k`` = 0..7, ``S0`` = s) in steps of 0.1.

        With another reach the eight are spread over its range in the same way.
        If powers are searched, every second seed has the middle power. If temperatures are searched, these seeds have
        evenly spread ones and the others the space's own.
        """
        step = max(1, round(0.1 / self.grid))
        low, high = self._hundredths or (0, 0)
        found = []
        for k in range(SEEDS):
            begin = round((self.scale + k * (self.reach - 1) * self.scale / SEEDS) / self.grid)
            right = tuple(
                min(max(begin, self.low) + step * j, self.high - (self.size - 1 - j)) for j in range(self.size)
            )
            power = PLAIN_POWER if self.powers is None or k % 2 == 0 else _on_step(sum(self.powers) * 50)
            heat = None
            if self.temperatures is not None:
                usual = self.scaling(Candidate(self.split, right)).long_attention_factor
                heat = min(max(round(100 * usual), low), high) if k % 2 == 0 else low + (high - low) * k // SEEDS
            found.append(Candidate(self.split, right, power, heat))
        return list(dict.fromkeys(found))


def mutate(
    space: Space, parent: Candidate, rng: np.random.Generator, rate: float, seen: Container[Candidate]
) -> Candidate | None:
    """A new candidate: each factor, with probability ``rate``, anywhere between its two neighbours.

    The last one may rise to at most 4 above the one before it, as in the published code. ``None`` if many tries give
    nothing unseen.
    """

    def child() -> Candidate:
        right = list(parent.right)
        for i in range(space.size):
            if rng.random() >= rate:
                continue
            low = right[i - 1] + 1 if i else space.low
            high = right[i + 1] - 1 if i + 1 < space.size else space.high
            if i and i + 1 == space.size:
                high = max(low, min(high, right[i - 1] + round(_LAST_MAY_RISE / space.grid)))
            right[i] = int(rng.integers(low, high + 1))
        power, heat = parent.power, parent.temperature
        if space.powers is not None and rng.random() < rate:
            power = _random_power(space.powers, rng)
        if space.temperatures is not None and rng.random() < rate:
            heat = space.random_temperature(rng)
        return Candidate(space.split, tuple(right), power, heat)

    return _unseen(child, seen)


def cross(
    space: Space,
    first: Candidate,
    second: Candidate,
    rng: np.random.Generator,
    rate: float,
    seen: Container[Candidate],
) -> Candidate | None:
    """A child of two parents: a copy of ``first`` that takes each factor of ``second`` with probability ``rate / 2``,
    unless the list would no longer increase. ``None`` if 20 attempts, as published, give nothing unseen.

    The published code stops at the first factor that makes the child new, so most of its children differ from a parent
    in one factor. Here every factor may be taken.
    """

    def child() -> Candidate:
        right = list(first.right)
        for i in range(space.size):
            if rng.random() >= rate / 2:
                continue
            value = second.right[i]
            if (not i or right[i - 1] < value) and (i + 1 == space.size or value < right[i + 1]):
                right[i] = value
        power = second.power if space.powers is not None and rng.random() < 0.5 else first.power
        hotter = second if space.temperatures is not None and rng.random() < 0.5 else first
        return Candidate(space.split, tuple(right), power, hotter.temperature)

    return _unseen(child, seen, _CROSS_TRIES)


def draw(space: Space, rng: np.random.Generator, seen: Container[Candidate]) -> Candidate | None:
    """A uniformly random candidate; ``None`` if many tries give nothing unseen."""

    def child() -> Candidate:
        right = np.sort(rng.choice(np.arange(space.low, space.high + 1), size=space.size, replace=False))
        power = PLAIN_POWER if space.powers is None else _random_power(space.powers, rng)
        return Candidate(space.split, tuple(int(step) for step in right), power, space.random_temperature(rng))

    return _unseen(child, seen)


def _unseen(make: Callable[[], Candidate], seen: Container[Candidate], tries: int = 1000) -> Candidate | None:
    made = (make() for _ in range(tries))
    return next((child for child in made if child not in seen), None)


def _random_power(powers: tuple[float, float], rng: np.random.Generator) -> int:
    low, high = (_on_step(100 * power) for power in powers)
    return _POWER_STEP * int(rng.integers(low // _POWER_STEP, high // _POWER_STEP + 1))


def _on_step(hundredths: float) -> int:
    return _POWER_STEP * round(hundredths / _POWER_STEP)
