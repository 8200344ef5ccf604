"""The cells of the study, the order in which they are run, what they cost, and who runs which."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DESIGN = Path(__file__).with_name("design.toml")
STUDY_SEARCHES = ("longrope", "paper-q", "free-q")
"""Searches that the study runs; every other one comes from ``search_strategies.py``."""
TEMPERATURES = {"longrope": "su", "yarn": "yarn", "gradient": "own", "evolution-temperature": "own", "best-rule": "own"}
"""With which temperature a vector was published; compositions with ``su``, every other one with 1."""
RESERVE = 1.25
"""What two processes on two cores cost each other."""


@dataclass(frozen=True)
class Cell:
    """One model under one vector of factors at one temperature after one training."""

    seed: int
    factors: str
    temperature: str
    training: str

    @property
    def key(self) -> str:
        """``SEED/FACTORS/TEMPERATURE/TRAINING``."""
        return f"{self.seed}/{self.factors}/{self.temperature}/{self.training}"

    @classmethod
    def parse(cls, key: str) -> Cell:
        """The inverse of :attr:`key`. Raises :class:`ValueError` for anything else."""
        seed, *factors, temperature, training = key.split("/")
        return cls(int(seed), "/".join(factors), temperature, training)


@dataclass(frozen=True)
class Group:
    """Cells that stand together in the design. ``documents`` names how many each of them reads."""

    name: str
    factors: tuple[str, ...]
    temperatures: tuple[str, ...]
    training: str
    documents: str
    seeds: tuple[int, ...]


def most(sets: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, dict[str, int]]:
    """Documents by task and length that any cell reads. A smaller cell reads the first ones."""
    found: dict[str, dict[str, int]] = {}
    for counts in sets.values():
        for task, by_length in counts.items():
            kept = found.setdefault(task, {})
            kept |= {length: max(count, kept.get(length, 0)) for length, count in by_length.items()}
    return found


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

    @property
    def groups(self) -> list[Group]:
        given = ({"seeds": self.seeds, **group} for group in self.own["groups"])
        return [Group(**{key: tuple(v) if isinstance(v, list) else v for key, v in each.items()}) for each in given]

    def same(self, factors: str) -> str:
        """The vector under the name that has the cells."""
        return str(self.own["same"].get(factors, factors))

    def searches(self, factors: str) -> set[str]:
        """The searches that a vector is made of."""
        sides = self.own["sides"]
        left, _, right = factors.partition("/right-")
        if right:
            names = [*([right] if right in sides else []), *(["searched-q"] if left == "left-q" else [])]
            return {sides[name] for name in names}
        return {"best-rule": {"gradient"}}.get(factors, {factors} & {"longrope", "gradient", "evolution-temperature"})

    def to_json(self) -> dict[str, Any]:
        """Everything that decides a result."""
        return {"subject": self.subject, **self.common, **{key: v for key, v in self.own.items() if key != "costs"}}


def published(factors: str) -> str:
    """The temperature with which a vector was published."""
    return TEMPERATURES.get(factors, "su" if factors.startswith("left-") or factors == "evolution" else "1")


def plan(design: Design) -> dict[Cell, Group]:
    """Every cell once with its group, first things first; of one vector and temperature all seeds together."""
    cells: dict[Cell, Group] = {}
    for group in design.groups:
        for temperature in group.temperatures:
            for factors in group.factors:
                for seed in group.seeds:
                    cells.setdefault(Cell(seed, factors, temperature, group.training), group)
    return cells


def seconds(design: Design, cells: Mapping[Cell, Group], there: Collection[str] = ()) -> dict[Cell, float]:
    """Estimated processor seconds of every cell that is not there, on an idle machine; a search of the study counts
    with the first cell that waits for it."""
    costs, searched = design.own["costs"], set(there)
    found = {}
    for cell, group in cells.items():
        if cell.key in there:
            continue
        counts = design.own["documents"][group.documents].values()
        found[cell] = costs["cell"] + sum(
            costs["document"][length] * n for each in counts for length, n in each.items()
        )
        if cell.training != "no":
            found[cell] += costs["training"]
        for key in study_searches(design, cell):
            if key not in searched:
                found[cell] += costs["search"]
                searched.add(key)
    return found


def study_searches(design: Design, cell: Cell) -> list[str]:
    """Keys of the lines that a cell needs beside its own, made by the study."""
    return [f"{cell.seed}/search/{name}" for name in STUDY_SEARCHES if name in design.searches(cell.factors)]


def part(design: Design, cells: Mapping[Cell, Group], number: int, of: int) -> list[Cell]:
    """The cells of one of several processes, in order: shares of equal cost. Cells that wait for the same search of the
    study are in one part, so that it is run once. Raises :class:`ValueError` for a part that there is not."""
    if not 0 <= number < of:
        raise ValueError(f"part {number} of {of}: give 0 to {of - 1}")
    units: dict[str, list[Cell]] = {}
    for cell in cells:
        units.setdefault(next(iter(study_searches(design, cell)), cell.key), []).append(cell)
    cost, load, mine = seconds(design, cells), [0.0] * of, set[Cell]()
    for unit in units.values():
        least = load.index(min(load))
        load[least] += sum(cost[cell] for cell in unit)
        if least == number:
            mine.update(unit)
    return [cell for cell in cells if cell in mine]


def listing(design: Design, there: Iterable[str] = ()) -> str:
    """Groups with their cells, how many are left, and the processor hours that those take."""
    cells, known = plan(design), set(there)
    left = seconds(design, cells, known)
    lines = []
    for group in design.groups:
        own = [cell for cell in cells if cells[cell] == group]
        hours = sum(left.get(cell, 0) for cell in own) / 3600
        count = sum(cell in left for cell in own)
        lines.append(f"{hours:6.2f} h  {count:3} of {len(own):3} cells  {design.subject}: {group.name}")
    total = sum(left.values()) / 3600
    lines.append(f"{total:6.2f} h  {len(left):3} of {len(cells):3} cells  {design.subject}: all")
    lines.append(f"{RESERVE * total:6.2f} h  with a quarter more for two processes side by side")
    return "\n".join(lines)
