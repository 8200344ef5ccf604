"""Tables and figures of ``docs/reproduction.md`` from the results.

``tables.py --write PAGE``, ``--check PAGE``, ``--figures FOLDER``.

In the page a table stands between ``<!-- table SUBJECT NAME -->`` and ``<!-- end -->``. ``--check`` says which of them
are not what the results give (exit code 1); ``--write`` puts them in. Nothing else of the page is touched.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
import numpy as np
from reproduction.cells import Cell, Design, plan
from reproduction.intervals import Estimate, documents, over_seeds, paired, share
from reproduction.store import Store, unpack

HERE = Path(__file__).parent
ABSENT = "missing"
NAMES = {
    "none": "none",
    "pi": "PI",
    "ntk-aware": "NTK-aware",
    "ntk": "NTK (the paper's)",
    "yarn": "YaRN",
    "yarn-1.5": "YaRN at 1.5 s (control)",
    "longrope": "LongRoPE v1",
    "longrope2": "LongRoPE2",
    "longrope2-unsearched": "LongRoPE2, not searched",
    "longrope2-left-2": "LongRoPE2's right side, left side with q = 2",
    "search-needles": "thin search (reference)",
    "search-plain": "thin search, loss of every token",
    "search-all": "thin search over all pairs",
    "search-splits": "thin search over splits",
    "yarn-rcd": "YaRN-rcd",
    "ntk-rcd": "NTK-rcd",
    "search-left-q": "thin search, q searched",
    "search-left-2": "thin search, q = 2",
}
REFERENCES = {
    "longrope2-unsearched": "longrope2",
    "longrope2-left-2": "longrope2",
    "search-needles": "longrope2",
    "yarn-rcd": "yarn",
    "ntk-rcd": "ntk",
}
"""What an ablation is compared with; the other searches with the thin search."""
STATES = (
    ("no", False, "no training, original RoPE in the window"),
    ("no", True, "no training, rescaled RoPE left on"),
    ("mixed", False, "mixed windows"),
    ("mixed", True, "mixed windows, rescaled RoPE left on"),
    ("long-only", False, "long rows only"),
)
TRAININGS = {"no": "no training", "mixed": "mixed windows", "long-only": "long rows only"}


class Answers(NamedTuple):
    """Right (1) or wrong (0), and the document of each."""

    right: np.ndarray
    document: np.ndarray


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

    @property
    def window(self) -> int:
        return int(self.design.own["window"])

    @property
    def target(self) -> int:
        return int(self.design.own["target"])

    @property
    def tasks(self) -> list[str]:
        """Of retrieval; the first is asked at every length."""
        return [task for task in self.design.own["documents"] if task != "facts"]

    def has(self, rule: str, training: str) -> list[int]:
        """The seeds that have this cell."""
        return [seed for seed in self.design.seeds if Cell(seed, rule, training).key in self.store]

    def answers(self, seed: int, rule: str, training: str, task: str, *, left_on: bool = False) -> Answers:
        line = self.store[Cell(seed, rule, training).key]
        asked = documents(self.store[f"{seed}"]["tests"][task]["questions"])
        return Answers(unpack(line["left_on" if left_on else "answers"][task]), asked)

    def far(self, seed: int, rule: str, training: str, fifth: int | None = None) -> Answers:
        """Every retrieval question at the target length, or those whose answer is in one fifth of the text."""
        parts = [self.answers(seed, rule, training, f"{task}@{self.target}") for task in self.tasks]
        firsts = np.cumsum([0, *(part.document[-1] + 1 for part in parts)])
        right = np.concatenate([part.right for part in parts])
        document = np.concatenate([part.document + first for part, first in zip(parts, firsts, strict=False)])
        if fifth is None:
            return Answers(right, document)
        tests = self.store[f"{seed}"]["tests"]
        fifths = np.array([int(digit) for task in self.tasks for digit in tests[f"{task}@{self.target}"]["fifths"]])
        return Answers(right[fifths == fifth], document[fifths == fifth])

    def mean(self, rule: str, training: str, answers: Callable[[int], Answers]) -> str:
        """Over the seeds that have the cell: mean and t interval; of a single one, that over its documents."""
        seeds = self.has(rule, training)
        if not seeds:
            return ABSENT
        found = [answers(seed) for seed in seeds]
        fewer = "" if len(seeds) == len(self.design.seeds) else f" (n {len(seeds)})"
        if len(found) == 1:
            return _percent(share(found[0].right, found[0].document)) + fewer
        return _percent(over_seeds([float(each.right.mean()) for each in found], (0, 1))) + fewer


def _percent(value: Estimate, sign: str = "") -> str:
    text = f"{100 * value.mean:{sign}.1f}"
    return text if math.isnan(value.low) else f"{text} [{100 * value.low:{sign}.1f}, {100 * value.high:{sign}.1f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def coverage(results: Results) -> str:
    """How many seeds of each cell are there."""
    common, total = results.design.common, len(results.design.seeds)
    planned = {cell.key for cell in plan(results.design)}
    first = results.design.seeds[0]

    def entry(rule: str, training: str) -> str:
        return f"{len(results.has(rule, training))} of {total}" if Cell(first, rule, training).key in planned else ""

    rows = [
        [NAMES[rule], *(entry(rule, training) for training in TRAININGS)]
        for rule in [*common["rules"], *common["ablations"]]
    ]
    return _table(["seeds that are there", *TRAININGS.values()], rows)


def missing(results: Results) -> str:
    """The cells that are not there yet, in the order they will be run."""
    cells = plan(results.design)
    left = [cell.key for cell in cells if cell.key not in results.store]
    there = f"{len(cells) - len(left)} of {len(cells)} cells are there"
    return f"{there}; missing: {', '.join(f'`{key}`' for key in left)}." if left else f"{there}."


def length(results: Results, training: str) -> str:
    """The first task by length."""
    task = results.tasks[0]
    names = [f"{task}@{each}" for each in results.design.lengths]
    head = [TRAININGS[training], *(f"{each // results.window}x: {each}" for each in results.design.lengths)]
    return _table(head, [_by(results, rule, training, names) for rule in results.design.common["rules"]])


def tasks(results: Results, training: str) -> str:
    """Every retrieval task at the lengths it has, but the first one's."""
    names = [
        f"{task}@{each}"
        for task in results.tasks[1:]
        for each in results.design.lengths
        if str(each) in results.design.own["documents"][task]
    ]
    return _table(
        [TRAININGS[training], *names], [_by(results, r, training, names) for r in results.design.common["rules"]]
    )


def _by(results: Results, rule: str, training: str, names: Sequence[str]) -> list[str]:
    def answers(name: str) -> Callable[[int], Answers]:
        return lambda seed: results.answers(seed, rule, training, name)

    return [NAMES[rule], *(results.mean(rule, training, answers(name)) for name in names)]


def depth(results: Results, training: str) -> str:
    """All retrieval questions at the target length by the fifth of the text that holds the answer."""

    def answers(rule: str, fifth: int) -> Callable[[int], Answers]:
        return lambda seed: results.far(seed, rule, training, fifth)

    head = [TRAININGS[training], "first fifth (farthest)", "second", "third", "fourth", "last fifth"]
    rows = [
        [NAMES[rule], *(results.mean(rule, training, answers(rule, fifth)) for fifth in range(5))]
        for rule in results.design.common["rules"]
    ]
    return _table(head, rows)


def seeds(results: Results, training: str) -> str:
    """All retrieval questions at the target length, seed by seed, with the interval over the seed's documents."""

    def entry(seed: int, rule: str) -> str:
        if seed not in results.has(rule, training):
            return ABSENT
        found = results.far(seed, rule, training)
        return _percent(share(found.right, found.document))

    head = [TRAININGS[training], *(f"seed {seed}" for seed in results.design.seeds)]
    rows = [
        [NAMES[rule], *(entry(seed, rule) for seed in results.design.seeds)] for rule in results.design.common["rules"]
    ]
    return _table(head, rows)


def against(results: Results, training: str) -> str:
    """LongRoPE2 minus every other rule on the same questions at the target length."""
    rows = []
    for rule in results.design.common["rules"]:
        if rule == "longrope2":
            continue
        both = [seed for seed in results.has(rule, training) if seed in results.has("longrope2", training)]
        rows.append([NAMES[rule], *_differences(results, ("longrope2", training), (rule, training), both)])
    each = [f"seed {seed}" for seed in results.design.seeds]
    return _table([f"LongRoPE2 minus ..., {TRAININGS[training]}", "over seeds", *each], rows)


def _differences(results: Results, new: tuple[str, str], old: tuple[str, str], both: Sequence[int]) -> list[str]:
    """New minus old over seeds, then of each seed."""
    found = {}
    for seed in both:
        right, document = results.far(seed, *new)
        found[seed] = paired(right, results.far(seed, *old).right, document, 0.95)
    if not found:
        return [ABSENT] * (1 + len(results.design.seeds))
    each = list(found.values())
    mean = each[0] if len(each) == 1 else over_seeds([one.mean for one in each], (-1, 1))
    return [
        _percent(mean, "+"),
        *(_percent(found[seed], "+") if seed in found else ABSENT for seed in results.design.seeds),
    ]


def retention(results: Results) -> str:
    """What a model loses inside its window: paired with the original on the same answers."""
    names = [f"{results.tasks[0]}@{results.window}", f"facts@{results.window}"]
    rows = []
    for training, left_on, said in STATES:
        if not any(results.has(rule, training) for rule in results.design.common["rules"]):
            rows.append([said, "every rule", *([ABSENT] * len(names))])
            continue
        for rule in results.design.common["rules"]:
            if (rule, left_on) != ("none", True):  # there nothing is rescaled
                rows.append([said, NAMES[rule], *(_kept(results, rule, training, left_on, name) for name in names)])
    return _table(["", "rule", *(f"{name}: points, and seeds within the margin" for name in names)], rows)


def _kept(results: Results, rule: str, training: str, left_on: bool, name: str) -> str:
    """Mean difference to the original over seeds; on how many of them its lower limit is within the margin."""
    margin, confidence = results.design.common["margin"], results.design.common["retention_confidence"]
    found = []
    for seed in results.has(rule, training):
        if seed in results.has("none", "no"):
            right, document = results.answers(seed, rule, training, name, left_on=left_on)
            original = results.answers(seed, "none", "no", name).right
            found.append(paired(right, original, document, confidence))
    if not found:
        return ABSENT
    kept = sum(each.low > -margin for each in found)
    mean = found[0] if len(found) == 1 else over_seeds([each.mean for each in found], (-1, 1))
    return f"{_percent(mean, '+')}; {kept} of {len(found)}"


def ablations(results: Results, training: str) -> str:
    """Each variant at the target length, and the difference to what it is compared with."""
    rows = []
    for rule in results.design.common["ablations"]:
        other = REFERENCES.get(rule, "search-needles")
        both = [seed for seed in results.has(rule, training) if seed in results.has(other, training)]

        def answers(seed: int, rule: str = rule) -> Answers:
            return results.far(seed, rule, training)

        shown = results.mean(rule, training, answers)
        rows.append(
            [NAMES[rule], shown, NAMES[other], *_differences(results, (rule, training), (other, training), both)]
        )
    each = [f"seed {seed}" for seed in results.design.seeds]
    return _table([TRAININGS[training], "right at the target", "compared with", "difference over seeds", *each], rows)


def searched(results: Results) -> str:
    """What the searches found."""
    rows = []
    for name in ("longrope", "needles", "plain", "all", "splits", "left-q", "left-2"):
        for seed in results.design.seeds:
            key = f"{seed}/search/{name}"
            if key not in results.store:
                rows.append([name, str(seed), *([ABSENT] * 5)])
                continue
            line = results.store[key]
            free = line["split"] == 0
            rows.append(
                [name, str(seed), "all pairs" if free else str(line["split"]), _word(line["d_rcd"]),
                 "" if free else f"{line['power']:g}", f"{line['nll']:.4f}", str(line["evaluations"])]
            )  # fmt: skip
    head = ["search", "seed", "split", "first pair with s or more", "q", "best score (nats a token)", "evaluations"]
    return _table(head, rows)


def _word(value: Any) -> str:
    return "none" if value is None else str(value)


TABLES: Mapping[str, Callable[[Results], str]] = {
    "coverage": coverage,
    "missing": missing,
    "retention": retention,
    "searched": searched,
    **{
        f"{make.__name__} {training}": lambda results, make=make, training=training: make(results, training)
        for make in (length, tasks, depth, seeds, against, ablations)
        for training in TRAININGS
    },
}
_PLACE = re.compile(r"(<!-- table (\w+) ([\w -]+?) -->\n)(.*?)(<!-- end -->)", re.S)


def filled(page: str, results: Callable[[str], Results] = Results.read) -> str:
    """The page with every table drawn anew. Raises :class:`KeyError` for a table that there is not."""
    return _PLACE.sub(lambda m: f"{m[1]}\n{TABLES[m[3]](results(m[2]))}\n\n{m[5]}", page)


def figures(results: Results, folder: Path) -> list[Path]:
    """Right answers by length, and by depth at the target length; one picture each, a panel per training.

    Bars reach from the lowest to the highest seed.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "lr2eval", "svg.fonttype": "none"}
    import matplotlib.pyplot as plt

    rules = results.design.common["rules"]
    trainings = [training for training in TRAININGS if any(results.has(rule, training) for rule in rules)]
    task, lengths = results.tasks[0], results.design.lengths
    made = []
    for kind, ticks in (("length", [f"{each // results.window}x" for each in lengths]), ("depth", list("12345"))):
        figure, axes = plt.subplots(
            1, len(trainings), figsize=(1 + 4 * len(trainings), 3.6), sharey=True, squeeze=False
        )
        for axis, training in zip(axes[0], trainings, strict=True):
            for number, rule in enumerate(rules):
                there = results.has(rule, training)
                if not there:
                    continue
                shares = np.array([_curve(results, kind, seed, rule, training, task) for seed in there])
                spots = np.arange(5) + (number - len(rules) / 2) * 0.03
                low, high = (shares.mean(0) - shares.min(0)), (shares.max(0) - shares.mean(0))
                drawn = {"linestyle": "--" if rule in ("none", "pi", "yarn-1.5") else "-", "color": f"C{number}"}
                axis.errorbar(spots, 100 * shares.mean(0), 100 * np.array([low, high]), label=NAMES[rule],
                              marker="o", markersize=3, linewidth=1.2, capsize=2, **drawn)  # fmt: skip
            axis.set(title=TRAININGS[training], ylim=(-3, 103))
            axis.set_xticks(range(5), ticks)
            axis.set_xlabel("length (1x: the window)" if kind == "length" else "fifth of the text (1: farthest)")
        axes[0][0].set_ylabel("right answers, %")
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="center right", fontsize=7, frameon=False)
        figure.tight_layout(rect=(0, 0, 1 - 1.6 / (1 + 4 * len(trainings)), 1))
        path = folder / f"reproduction-{results.design.subject}-{kind}.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
        made.append(path)
    return made


def _curve(results: Results, kind: str, seed: int, rule: str, training: str, task: str) -> list[float]:
    if kind == "length":
        found = [results.answers(seed, rule, training, f"{task}@{each}") for each in results.design.lengths]
    else:
        found = [results.far(seed, rule, training, fifth) for fifth in range(5)]
    return [float(each.right.mean()) for each in found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--check", type=Path)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--subject", choices=("tiny", "demo"), default="tiny", help="of the figures")
    arguments = parser.parse_args()
    if arguments.figures:
        for path in figures(Results.read(arguments.subject), arguments.figures):
            print(f"{path} ({path.stat().st_size:,} bytes)")
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
