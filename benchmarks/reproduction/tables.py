"""Tables of ``docs/reproduction.md`` from the results.

``tables.py --write PAGE``, ``--check PAGE``, ``--show SUBJECT NAME``.

In the page a table stands between ``<!-- table SUBJECT NAME -->`` and ``<!-- end -->``. ``--check`` says which of them
are not what the results give (exit code 1); ``--write`` puts them in. Nothing else of the page is touched.

NAME is one of these, with its arguments; TIMES is ``8x`` or ``16x``, TRAINING ``no``, ``mixed`` or ``long-only``:
``factors TRAINING TIMES`` every vector at every temperature; ``seeds TRAINING TIMES`` the same seed by seed and pooled;
``right``, ``left`` and ``temperature`` with ``TRAINING TIMES [TEMPERATURE]``, ``searches`` with ``TRAINING TIMES``:
differences, everything else equal; TEMPERATURE leaves only that one;
``length TRAINING TASK``; ``retention``; ``found`` what the searches found; ``missing``.

Shares of one seed have Wilson's interval for documents that go together, and so have pooled ones. A mean over seeds has
Student's t interval over n seeds: it speaks for models like these. Differences are paired on the same answers, by
document; "pooled" takes the documents of all seeds as one set: it speaks for these models. Every interval has 95 %.
Cells that read different numbers of documents are compared on the documents that both read.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
from reproduction.cells import Cell, Design, plan, published
from reproduction.intervals import Estimate, documents, over_seeds, paired, pooled, share
from reproduction.store import Store, unpack

HERE = Path(__file__).parent
ABSENT = "missing"
RIGHTS = {"s": "s", "2s": "2s", "4s": "4s", "ntk": "NTK's", "searched": "searched", "searched-q": "searched with q"}
LEFTS = {"left-1": "q = 1", "left-q": "q searched", "left-0": "fast pairs as trained"}
NAMES = {
    "none": "none",
    "pi": "PI",
    "ntk-aware": "NTK-aware",
    "ntk": "NTK (the paper's)",
    "yarn": "YaRN",
    "longrope": "LongRoPE v1",
    "best-rule": "best rule of the screening",
    **{f"{left}/right-{right}": f"{LEFTS[left]}, right side {RIGHTS[right]}" for left in LEFTS for right in RIGHTS},
    "evolution": "published search",
    "evolution-temperature": "published search with temperature",
    "gradient": "gradient search",
}
SMALL = {"evolution": "small search with q", "evolution-temperature": "small search with q and temperature"}
"""The evolutions of the demo models: at most 720 evaluations, and a searched q."""
TEMPERATURES = {"su": "su", "yarn": "YaRN's", "own": "its own"}
TRAININGS = {"no": "no training", "mixed": "mixed windows", "long-only": "long rows only"}


class Which(NamedTuple):
    """A cell of any seed."""

    factors: str
    temperature: str
    training: str


class Answers(NamedTuple):
    """Right (1) or wrong (0), and the document of each."""

    right: np.ndarray
    document: np.ndarray

    @property
    def n(self) -> str:
        """``ANSWERS in DOCUMENTS``."""
        return f"{len(self.right)} in {len(np.unique(self.document))}"


@dataclass(frozen=True)
class Results:
    """The lines of one subject and its design."""

    design: Design
    store: Store

    @classmethod
    def read(cls, subject: str, path: Path | None = None) -> Results:
        """Raises :class:`SystemExit` where the results are of another design than the committed one."""
        found = cls(Design.read(subject), Store(path or HERE / f"{subject}.jsonl"))
        if found.store.lines and found.store["design"]["design"] != found.design.to_json():
            raise SystemExit(f"{found.store.path}: results of another design than design.toml")
        return found

    @cached_property
    def planned(self) -> set[Which]:
        return {Which(cell.factors, cell.temperature, cell.training) for cell in plan(self.design)}

    @property
    def factors(self) -> list[str]:
        """Every vector that has cells, in the order of :data:`NAMES`."""
        there = {which.factors for which in self.planned}
        return [name for name in NAMES if name in there]

    @cached_property
    def temperatures(self) -> dict[str, str]:
        """Those of the design with their names, numbers first."""
        used = {which.temperature for which in self.planned}
        return {each: each for each in sorted(used - TEMPERATURES.keys())} | TEMPERATURES

    def which(self, factors: str, temperature: str, training: str) -> Which:
        return Which(self.design.same(factors), temperature, training)

    def name(self, factors: str) -> str:
        return (NAMES | SMALL if self.design.subject == "demo" else NAMES)[factors]

    def named(self, factors: str) -> str:
        """With the other names of the same vector."""
        same = [other for other, each in self.design.own["same"].items() if each == factors]
        return " = ".join(map(self.name, [factors, *same]))

    def names(self, times: str) -> list[str]:
        """Retrieval tasks at this multiple of the window."""
        length = self.design.own["window"] * int(times.removesuffix("x"))
        counts = next(iter(self.design.own["documents"].values()))
        return [f"{task}@{length}" for task in self.design.own["tasks"] if str(length) in counts[task]]

    def has(self, *each: Which) -> list[int]:
        """The seeds that have all these cells."""
        return [s for s in self.design.seeds if all(Cell(s, *which).key in self.store for which in each)]

    def answers(self, seed: int, names: Iterable[str], *each: Which, left_on: bool = False) -> list[Answers]:
        """Of several cells on the documents that all of them read. ``left_on`` concerns the first cell.

        Raises :class:`KeyError` for a task that a cell has not been asked.
        """
        lines = [self.store[Cell(seed, *which).key] for which in each]
        parts: list[list[np.ndarray]] = [[] for _ in each]
        document, first = [], 0
        for name in names:
            given = [
                unpack(line["left_on" if left_on and not number else "answers"][name])
                for number, line in enumerate(lines)
            ]
            count = min(map(len, given))
            document.append(documents(self.store[f"{seed}"]["questions"][name])[:count] + first)
            first = document[-1][-1] + 1
            for part, right in zip(parts, given, strict=True):
                part.append(right[:count])
        asked = np.concatenate(document)
        return [Answers(np.concatenate(part), asked) for part in parts]

    def seeds_and_pooled(self, which: Which, names: Sequence[str]) -> tuple[dict[int, Answers], Answers | None]:
        """Of each seed; of all of them as one set of documents."""
        found = {seed: self.answers(seed, names, which)[0] for seed in self.has(which)}
        if not found:
            return found, None
        firsts = np.cumsum([0, *(each.document[-1] + 1 for each in found.values())])
        apart = [each.document + first for each, first in zip(found.values(), firsts, strict=False)]
        return found, Answers(np.concatenate([each.right for each in found.values()]), np.concatenate(apart))


def _percent(value: Estimate, sign: str = "") -> str:
    text = f"{100 * value.mean:{sign}.1f}"
    return text if math.isnan(value.low) else f"{text} [{100 * value.low:{sign}.1f}, {100 * value.high:{sign}.1f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mean(found: Mapping[int, Answers]) -> str:
    """Over seeds; of a single one, over its documents. The n is that of seeds, or that of answers and documents."""
    if not found:
        return ABSENT
    if len(found) == 1:
        (only,) = found.values()
        return f"{_percent(share(*only))}, n {only.n}"
    return f"{_percent(over_seeds([float(each.right.mean()) for each in found.values()], (0, 1)))}, n {len(found)}"


def factors(results: Results, training: str, times: str) -> str:
    """Every vector at every temperature."""
    rows = []
    for name in results.factors:
        each = [Which(name, temperature, training) for temperature in results.temperatures]
        if not results.planned.isdisjoint(each):
            told = [
                _mean(results.seeds_and_pooled(which, results.names(times))[0]) if which in results.planned else ""
                for which in each
            ]
            rows.append([results.named(name), results.temperatures[published(name)], *told])
    head = [f"{TRAININGS[training]}, {times}; temperature:", "as published", *results.temperatures.values()]
    return _table(head, rows)


def seeds(results: Results, training: str, times: str) -> str:
    """Every vector at every temperature, seed by seed and pooled."""
    rows = []
    for name in results.factors:
        for temperature, said in results.temperatures.items():
            which = Which(name, temperature, training)
            if which not in results.planned:
                continue
            found, every = results.seeds_and_pooled(which, results.names(times))
            told = [_percent(share(*found[s])) if s in found else ABSENT for s in results.design.seeds]
            n = next(iter(found.values())).n if found else ABSENT
            rows.append(
                [results.name(name), said, n, *told, f"{_percent(share(*every))}, n {every.n}" if every else ABSENT]
            )
    each = [f"seed {seed}" for seed in results.design.seeds]
    head = [f"{TRAININGS[training]}, {times}", "temperature", "answers in documents", *each, "pooled"]
    return _table(head, rows)


def _differences(
    results: Results,
    first: str,
    training: str,
    times: str,
    pairs: Iterable[tuple[str, tuple[str, str], tuple[str, str]]],
) -> str:
    """A row for each ``(label, new, old)``, vectors with their temperature, whose cells are planned."""
    rows = []
    for label, new, old in pairs:
        each = [results.which(*new, training), results.which(*old, training)]
        if not results.planned.issuperset(each):
            continue
        found = {seed: results.answers(seed, results.names(times), *each) for seed in results.has(*each)}
        alone = {seed: paired(a.right, b.right, a.document, 0.95) for seed, (a, b) in found.items()}
        told = [_percent(alone[seed], "+") if seed in alone else ABSENT for seed in results.design.seeds]
        if not found:
            rows.append([label, ABSENT, *told, ABSENT, ABSENT])
            continue
        mean = over_seeds([each.mean for each in alone.values()], (-1, 1))
        every = pooled([(a.right, b.right, a.document) for a, b in found.values()], 0.95)
        n = next(iter(found.values()))[0].n
        rows.append([label, n, *told, f"{_percent(mean, '+')}, n {mean.n}", f"{_percent(every, '+')}, n {every.n}"])
    each_seed = [f"seed {seed}" for seed in results.design.seeds]
    head = [f"{first}; {TRAININGS[training]}, {times}", "answers in documents", *each_seed, "over seeds", "pooled"]
    return _table(head, rows)


def right(results: Results, training: str, times: str, only: str = "") -> str:
    """The searched right side minus every other one, at the same left side and temperature."""
    pairs = [
        (
            f"{LEFTS[left]}{at}: searched minus {RIGHTS[other]}",
            (f"{left}/right-searched", temperature),
            (f"{left}/right-{other}", temperature),
        )
        for temperature, at in _at(results, only)
        for left in LEFTS
        for other in RIGHTS
        if other != "searched"
    ]
    return _differences(results, _head("right side", results, only), training, times, pairs)


def left(results: Results, training: str, times: str, only: str = "") -> str:
    """Another left side minus q = 1, at the same right side and temperature."""
    pairs = [
        (
            f"right side {RIGHTS[side]}{at}: {LEFTS[other]} minus q = 1",
            (f"{other}/right-{side}", temperature),
            (f"left-1/right-{side}", temperature),
        )
        for temperature, at in _at(results, only)
        for other in ("left-q", "left-0")
        for side in RIGHTS
    ]
    return _differences(results, _head("left side", results, only), training, times, pairs)


def _at(results: Results, only: str) -> list[tuple[str, str]]:
    """Temperatures, and how a row names them: not at all where the head of the table does."""
    return [(only, "")] if only else [(each, f", temperature {said}") for each, said in results.temperatures.items()]


def _head(first: str, results: Results, only: str) -> str:
    return f"{first}, temperature {results.temperatures[only]}" if only else first


def temperature(results: Results, training: str, times: str, only: str = "") -> str:
    """Every vector at another temperature minus itself at 1."""
    pairs = [
        (f"{results.named(name)}: {said} minus 1", (name, other), (name, "1"))
        for name in results.factors
        for other, said in results.temperatures.items()
        if other != "1" and only in ("", other)
    ]
    return _differences(results, "temperature", training, times, pairs)


def searches(results: Results, training: str, times: str) -> str:
    """Searches against each other and against rules, as published and at equal temperatures."""
    wanted = [
        (("gradient", "own"), ("evolution", "su")),
        (("gradient", "own"), ("evolution-temperature", "own")),
        (("gradient", "own"), ("best-rule", "own")),
        (("evolution", "su"), ("best-rule", "own")),
        (("evolution-temperature", "own"), ("evolution", "su")),
        (("gradient", "own"), ("gradient", "su")),
        (("gradient", "su"), ("evolution", "su")),
        (("evolution", "su"), ("ntk", "1")),
        (("evolution", "su"), ("ntk", "su")),
        (("evolution", "su"), ("yarn", "yarn")),
        (("evolution", "su"), ("yarn", "su")),
        (("evolution", "su"), ("longrope", "su")),
        (("left-1/right-searched", "su"), ("ntk", "su")),
        (("left-1/right-searched", "su"), ("yarn", "su")),
    ]

    def said(which: tuple[str, str]) -> str:
        return f"{results.name(which[0])} at {results.temperatures[which[1]]}"

    pairs = [(f"{said(new)} minus {said(old)}", new, old) for new, old in wanted]
    return _differences(results, "searches", training, times, pairs)


def length(results: Results, training: str, task: str) -> str:
    """One task at the lengths it is asked: every vector at ``su``, and as published where that is something else."""
    rows, window = [], results.design.own["window"]
    lengths = [at for at in results.design.lengths if f"{task}@{at}" in results.names(f"{at // window}x")]
    for name in results.factors:
        for temperature in dict.fromkeys(("su", published(name))):
            which = Which(name, temperature, training)
            if which in results.planned:
                each = [_mean(results.seeds_and_pooled(which, [f"{task}@{at}"])[0]) for at in lengths]
                rows.append([results.name(name), results.temperatures[temperature], *each])
    each_length = [f"{each // window}x: {each}" for each in lengths]
    return _table([f"{task}, {TRAININGS[training]}", "temperature", *each_length], rows)


def retention(results: Results) -> str:
    """What a model loses inside its window: paired with the original on the same answers, as the gate computes it."""
    window, tasks = results.design.own["window"], results.design.own["tasks"]
    names = [f"{tasks[0]}@{window}", f"facts@{window}"]
    states = [(w, False) for t in ("su", "yarn") if (w := Which("none", t, "no")) in results.planned]
    for training in ("mixed", "long-only"):
        trained = [Which(n, t, training) for n in results.factors for t in results.temperatures]
        there = [which for which in trained if which in results.planned]
        states += [(which, on) for on in (False, True) for which in there if not on or training == "mixed"]
    rows = []
    for which, left_on in states:
        said = TRAININGS[which.training] + (", rescaled RoPE left on" if left_on else "")
        name = "any: the original RoPE" if which.training == "no" else results.name(which.factors)
        kept = [_kept(results, which, left_on, task) for task in names]
        rows.append([said, name, results.temperatures[which.temperature], *kept])
    head = ["", "factors", "temperature", *(f"{name}: points, and seeds within the margin" for name in names)]
    return _table(head, rows)


def _kept(results: Results, which: Which, left_on: bool, name: str) -> str:
    """Mean difference to the original over seeds; on how many of them its lower limit is within the margin."""
    margin, confidence = results.design.common["margin"], results.design.common["retention_confidence"]
    original, found, n = Which("none", "1", "no"), [], ""
    for seed in results.has(which, original):
        try:
            new, old = results.answers(seed, [name], which, original, left_on=left_on)
        except KeyError:
            return "not asked"
        found.append(paired(new.right, old.right, new.document, confidence))
        n = new.n
    if not found:
        return ABSENT
    kept = sum(each.low > -margin for each in found)
    mean = found[0] if len(found) == 1 else over_seeds([each.mean for each in found], (-1, 1))
    return f"{_percent(mean, '+')}, n {len(found)} x {n}; {kept} of {len(found)}"


def found(results: Results) -> str:
    """What the searches found."""
    rows, s = [], results.design.own["target"] / results.design.own["window"]
    for name in ("evolution", "left-1/right-searched", "left-q/right-searched-q", "evolution-temperature", "gradient",
                 "best-rule", "longrope"):  # fmt: skip
        which = results.which(name, published(name), "no")
        if which not in results.planned or (name != which.factors and which.factors.startswith("left-")):
            continue
        for seed in results.design.seeds:
            if seed not in results.has(which):
                rows.append([results.named(name), str(seed), *([ABSENT] * 4)])
                continue
            rope = results.store[Cell(seed, *which).key]["rope"]
            long = rope["long_factor"]
            first = next((str(pair) for pair, factor in enumerate(long) if factor >= s), "none")
            left_side = f"{long[len(long) // 4]:.2f}"
            told = [f"{rope['long_attention_factor']:.3f}", first, left_side, f"{long[-1] / s:.2f} s"]
            rows.append([results.named(name), str(seed), *told])
    head = ["vector", "seed", "temperature", "first pair with s or more", "factor at a quarter of the pairs", "last"]
    return _table(head, rows)


def missing(results: Results) -> str:
    """How many cells are there, and which groups are not whole."""
    cells = plan(results.design)
    left = [cell for cell in cells if cell.key not in results.store]
    there = f"{len(cells) - len(left)} of {len(cells)} cells are there"
    groups = [f"{g.name} ({sum(cells[c] == g for c in left)})" for g in results.design.groups]
    return (
        f"{there}; missing: {', '.join(each for each in groups if not each.endswith('(0)'))}." if left else f"{there}."
    )


TABLES: Mapping[str, Callable[..., str]] = {
    make.__name__: make
    for make in (factors, seeds, right, left, temperature, searches, length, retention, found, missing)
}
_PLACE = re.compile(r"(<!-- table (\w+) ([\w -]+?) -->\n)(.*?)(<!-- end -->)", re.S)


def table(results: Results, name: str) -> str:
    """One table by its name and arguments. Raises :class:`KeyError` for one that there is not."""
    kind, *arguments = name.split()
    return TABLES[kind](results, *arguments)


def filled(page: str, results: Callable[[str], Results] = Results.read) -> str:
    """The page with every table drawn anew. Raises :class:`KeyError` for a table that there is not."""
    return _PLACE.sub(lambda m: f"{m[1]}\n{table(results(m[2]), m[3])}\n\n{m[5]}", page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    parser.add_argument("--check", type=Path, metavar="PAGE")
    parser.add_argument("--show", nargs=2, metavar=("SUBJECT", "NAME"))
    arguments = parser.parse_args()
    if arguments.show:
        print(table(Results.read(arguments.show[0]), arguments.show[1]))
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        arguments.write.write_text(filled(page), encoding="utf-8")
    if arguments.check:
        page = arguments.check.read_text(encoding="utf-8")
        stale = [
            f"{old[2]} {old[3]}"
            for old, new in zip(_PLACE.finditer(page), _PLACE.finditer(filled(page)), strict=True)
            if old[0] != new[0]
        ]
        if stale:
            print(f"{arguments.check}: not what the results give: {', '.join(stale)}; run --write")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
