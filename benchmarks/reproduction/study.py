"""The reproduction of LongRoPE2's claims at small scale: ``study.py MODEL... --subject SUBJECT --work FOLDER``.

MODEL is one checkpoint a seed of the design, the first with its first seed. Runs every cell of ``design.toml`` that the
results do not have yet, first things first, and writes each as it ends: a study that was killed goes on with the same
command (a search and a training go on from where they were). ``--list`` says what is missing and how long it takes.

``--part K/N`` is the share of one of N processes that write into one file; together they run every cell once. Factors
of the gradient search and of both evolutions come from ``search_strategies.py``. A cell whose search or checkpoint is
not there yet is left out and said at the end; the same command runs it later.

``--cell SEED/FACTORS/TEMPERATURE/TRAINING --fresh`` runs one cell again from nothing, beside the results, and says
whether every share of right answers lies in the 95 % interval of the stored one; exit code 1 where it does not.
Searches are not repeated for it, unless ``--fresh`` is given with ``--cell SEED/search/NAME``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).parents[1]))
import machine
import numpy as np
import torch
from reproduction import rules, searches
from reproduction.cells import STUDY_SEARCHES, Cell, Design, listing, part, plan
from reproduction.intervals import documents, share
from reproduction.measure import Test, answered
from reproduction.store import Store, pack, unpack

from lr2eval.method.data.rows import Segment
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.rope.source import ModelRope
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search.needles import Sample
from lr2eval.method.train.recipe import Recipe, read_recipe
from lr2eval.method.train.train import train

STRATEGIES = Path(__file__).parents[1] / "results" / "search_strategies.jsonl"


class Subject(Protocol):
    """What is studied: models of one kind with their language. Everything is a function of the seed."""

    name: str

    def rows(self, seed: int, *, long_only: bool) -> list[Segment]:
        """For training, equally many either way."""

    def tests(self, seed: int) -> dict[str, list[Test]]:
        """``TASK@LENGTH``; nothing of it is in the rows or the samples."""

    def samples(self, seed: int, count: int, stream: int) -> list[Sample]:
        """Of the target length, for the study's own searches."""


class Study:
    """One subject, its checkpoints, its results; ``strategies`` holds the results of ``search_strategies.py``."""

    def __init__(
        self, design: Design, subject: Subject, folders: Mapping[int, Path], store: Store, work: Path,
        strategies: Path = STRATEGIES,
    ) -> None:  # fmt: skip
        self.design, self.subject, self.folders, self.store, self.work = design, subject, folders, store, work
        self.strategies = strategies
        self.cells = plan(design)
        self._tests: dict[int, dict[str, list[Test]]] = {}
        self.recipe: Recipe = read_recipe(design.own["recipe"])

    def run(self, cell: Cell) -> None:
        """Make the cell's line, and those it stands on."""
        self.prepare(cell.seed)
        self.store.add(self.measured(cell, self.work))

    def prepare(self, seed: int) -> None:
        """The line of a seed: which weights, which questions. Raises :class:`SystemExit` for other weights."""
        key, weights = f"{seed}", self.weights(seed)
        if key not in self.store:
            asked = {name: [len(test.asked) for test in each] for name, each in self.tests(seed).items()}
            line = {"key": key, "weights": weights, "machine": machine.facts(), "questions": asked}
            self.store.add(line, once=True)
        if self.store[key]["weights"] != weights:
            raise SystemExit(f"{self.folders[seed]}: other weights than those of the results of seed {seed}")

    def weights(self, seed: int) -> str:
        return hashlib.sha256((self.folders[seed] / "model.safetensors").read_bytes()).hexdigest()

    def tests(self, seed: int) -> dict[str, list[Test]]:
        if seed not in self._tests:
            self._tests[seed] = self.subject.tests(seed)
        return self._tests[seed]

    def asked(self, cell: Cell) -> dict[str, list[Test]]:
        """The first documents of every task, as many as the cell's group reads."""
        counts, tests = self.design.own["documents"][self.cells[cell].documents], self.tests(cell.seed)
        return {f"{task}@{at}": tests[f"{task}@{at}"][:n] for task, each in counts.items() for at, n in each.items()}

    def waits_for(self, cell: Cell) -> list[str]:
        """What the cell needs and is not there: its checkpoint, searches of ``search_strategies.py``."""
        if not (self.folders[cell.seed] / "model.safetensors").exists():
            return [f"the checkpoint of seed {cell.seed}"]
        known = Store(self.strategies)
        names = sorted(self.design.searches(cell.factors) - set(STUDY_SEARCHES))
        return [key for name in names if (key := self._strategy(cell.seed, name)) not in known]

    def _strategy(self, seed: int, name: str) -> str:
        return f"{self.design.subject}-{seed}/{name}/{self.design.own['sampling_seed']}"

    def found(self, seed: int, name: str) -> Mapping[str, Any]:
        """The line of a search. One of the study is run where it is missing.

        Raises :class:`SystemExit` for one of ``search_strategies.py`` on other weights.
        """
        key = f"{seed}/search/{name}"
        if name in STUDY_SEARCHES:
            if key not in self.store:
                self.store.add(self.searched(seed, name, self.work))
            return self.store[key]
        line = Store(self.strategies)[self._strategy(seed, name)]
        if line["weights"] != self.weights(seed):
            raise SystemExit(f"{self.strategies}: {line['key']} has other weights than {self.folders[seed]}")
        return line

    def searched(self, seed: int, name: str, work: Path) -> dict[str, Any]:
        began = time.process_time()
        settings, own = self.design.own["search"], self.design.own
        line = searches.run(
            name,
            self.load(seed),
            self.rope(seed),
            own["target"],
            own["sampling_seed"],
            self.subject.samples(own["sampling_seed"], settings["samples"], 0),
            settings,
            work / f"search-{name}-{seed}",
        )
        return {"key": f"{seed}/search/{name}", **line, "processor_seconds": round(time.process_time() - began)}

    def measured(self, cell: Cell, work: Path) -> dict[str, Any]:
        """The line of a cell."""
        seed, own = cell.seed, self.design.own
        rope = self.rope(seed)
        made = rules.scaling(
            cell.factors, cell.temperature, rope, own["target"], own["sides"], lambda name: self.found(seed, name)
        )
        began = time.process_time()
        model = self.load(seed)
        line: dict[str, Any] = {"key": cell.key, "rope": made.to_json()}
        if cell.training == "no":
            install_rope(model, made)
        else:
            out, long_only = work / cell.key.replace("/", "-"), cell.training == "long-only"
            recipe = self.recipe.model_copy(update={"long_only": long_only, "seed": seed})
            rows = self.subject.rows(seed, long_only=long_only)
            result = train(recipe, model, self.folders[seed], rows, made, out)
            line["training"] = {
                "steps": result.steps,
                "tokens": result.tokens,
                "loss_first": result.loss_first,
                "loss_last": result.loss_last,
                "wall_seconds": round(result.seconds),
            }
        asked = self.asked(cell)
        line["answers"] = {name: pack(answered(model, each)) for name, each in asked.items()}
        if cell.training == "mixed":
            left_on = replace(made, short_factor=made.long_factor)
            install_rope(model, left_on)
            inside = {name: each for name, each in asked.items() if name.endswith(f"@{own['window']}")}
            line["left_on"] = {name: pack(answered(model, each)) for name, each in inside.items()}
        line["processor_seconds"] = round(time.process_time() - began)
        if cell.training != "no":
            shutil.rmtree(work / cell.key.replace("/", "-"))
        return line

    def every(self, cells: Sequence[Cell]) -> Iterator[Cell]:
        """Run the missing cells whose inputs are there; yield each cell as it ends."""
        for cell in cells:
            if cell.key not in self.store and not self.waits_for(cell):
                self.run(cell)
                yield cell

    def load(self, seed: int) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.folders[seed], dtype=torch.float32).eval()

    def rope(self, seed: int) -> OriginalRope:
        return ModelRope.read(self.folders[seed]).original()

    def again(self, key: str) -> bool:
        """Run a cell or a search from nothing; print both, and whether they agree."""
        fresh = self.work / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        stored, (seed, *name) = self.store[key], key.split("/")
        if name[0] == "search":
            line = self.searched(int(seed), name[1], fresh)
            print(json.dumps({"stored": stored["nll"], "again": line["nll"]}))
            return bool(line["factors"] == stored["factors"])
        line = self.measured(Cell.parse(key), fresh)
        agree = True
        for task, packed in line["answers"].items():
            mean = packed["right"] / packed["asked"]
            right = unpack(stored["answers"][task])
            known = share(right, documents(self.store[seed]["questions"][task])[: len(right)])
            inside = known.low <= mean <= known.high
            agree &= inside
            print(f"{task}: again {mean:.4f}, stored {known.mean:.4f} [{known.low:.4f}, {known.high:.4f}]"
                  f" n {known.n}{'' if inside else '  OUTSIDE'}")  # fmt: skip
        return agree


def subject_of(design: Design, folder: Path) -> Subject:
    """The subject of a design; ``folder`` is a checkpoint of it."""
    if design.subject == "tiny":
        from reproduction.tiny import Tiny

        return Tiny(design.own)
    from reproduction.demo import Demo

    return Demo(design.own, folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*", help="one checkpoint folder a seed")
    parser.add_argument("--subject", choices=("tiny", "demo"), default="tiny")
    parser.add_argument("--work", type=Path, help="folder for what is half done")
    parser.add_argument("--results", type=Path, help="JSON lines; the committed ones by default")
    parser.add_argument("--strategies", type=Path, default=STRATEGIES, help="results of search_strategies.py")
    parser.add_argument("--part", default="0/1", help="K/N: the K-th of N processes, from 0 on")
    parser.add_argument("--list", action="store_true", help="groups, cells that are missing, estimated hours")
    parser.add_argument("--cell", help="SEED/FACTORS/TEMPERATURE/TRAINING: only this one")
    parser.add_argument("--fresh", action="store_true", help="with --cell: run it again and compare")
    arguments = parser.parse_args()
    design = Design.read(arguments.subject)
    path = arguments.results or Path(__file__).with_name(f"{arguments.subject}.jsonl")
    if arguments.list:
        print(listing(design, Store(path).lines))
        return 0
    if len(arguments.models) != len(design.seeds) or not arguments.work:
        parser.error(f"give --work and {len(design.seeds)} checkpoints, for seeds {design.seeds}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    store = Store(path, design.to_json())
    folders = dict(zip(design.seeds, arguments.models, strict=True))
    subject = subject_of(design, arguments.models[0])
    study = Study(design, subject, folders, store, arguments.work, arguments.strategies)
    if arguments.cell and arguments.fresh:
        return 0 if study.again(arguments.cell) else 1
    number, of = map(int, arguments.part.split("/"))
    mine = [cell for cell in part(design, study.cells, number, of) if arguments.cell in (None, cell.key)]
    for cell in study.every(mine):
        line = store[cell.key]
        shares = {name: round(each["right"] / each["asked"], 3) for name, each in line["answers"].items()}
        print(time.strftime("%H:%M:%S"), cell.key, line["processor_seconds"], shares, flush=True)
    waiting = sorted({key for cell in mine if cell.key not in store for key in study.waits_for(cell)})
    if waiting:
        print("not there yet, so their cells wait for the same command: " + ", ".join(waiting))
    return 0


if __name__ == "__main__":
    sys.exit(main())
