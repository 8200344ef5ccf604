"""The reproduction of LongRoPE2's claims at small scale: ``study.py MODEL... --work FOLDER``.

MODEL is one checkpoint a seed of the design, the first with its first seed. Runs every cell of ``design.toml`` that the
results do not have yet, first things first, and writes each as it ends: a study that was killed goes on with the same
command (a search and a training go on from where they were). ``--list`` says what is there and what is missing.

``--cell SEED/RULE/TRAINING --fresh`` runs one cell again from nothing, beside the results, and says whether every share
of right answers lies in the 95 % interval of the stored one; exit code 1 where it does not. Searches are not repeated
for it, unless ``--fresh`` is given with ``--cell SEED/search/NAME``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).parents[1]))
import machine
import numpy as np
import torch
from reproduction import rules, searches
from reproduction.cells import Cell, Design, plan
from reproduction.intervals import documents, share
from reproduction.measure import Test, answered, layout
from reproduction.store import Store, pack, unpack

from lr2eval.method.data.rows import Segment
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.rope.source import ModelRope
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search.needles import Sample
from lr2eval.method.train.recipe import Recipe, read_recipe
from lr2eval.method.train.train import train


class Subject(Protocol):
    """What is studied: models of one kind with their language. Everything is a function of the seed."""

    name: str

    def rows(self, seed: int, *, long_only: bool) -> list[Segment]:
        """For training, equally many either way."""

    def tests(self, seed: int) -> dict[str, list[Test]]:
        """``TASK@LENGTH``; nothing of it is in the rows or the samples."""

    def samples(self, seed: int, count: int) -> list[Sample]:
        """Of the target length, for the study's own searches."""

    def published(self, seed: int, rope: OriginalRope) -> tuple[RopeScaling, int]:
        """Factors and split that the full search found."""


class Study:
    """One subject, its checkpoints, its results."""

    def __init__(self, design: Design, subject: Subject, folders: Mapping[int, Path], store: Store, work: Path) -> None:
        self.design, self.subject, self.folders, self.store, self.work = design, subject, folders, store, work
        self._tests: dict[int, dict[str, list[Test]]] = {}
        self.recipe: Recipe = read_recipe(design.own["recipe"])

    def run(self, cell: Cell) -> None:
        """Make the cell's line, and those it stands on."""
        self.prepare(cell.seed)
        line = self.measured(cell, self.work)
        self.store.add(line)

    def prepare(self, seed: int) -> None:
        """The line of a seed: which weights, which questions. Raises :class:`SystemExit` for other weights."""
        weights = hashlib.sha256((self.folders[seed] / "model.safetensors").read_bytes()).hexdigest()
        key = f"{seed}"
        if key not in self.store:
            facts = {"machine": machine.facts(), "tests": layout(self.tests(seed))}
            self.store.add({"key": key, "weights": weights, **facts})
        elif self.store[key]["weights"] != weights:
            raise SystemExit(f"{self.folders[seed]}: other weights than those of the results of seed {seed}")

    def tests(self, seed: int) -> dict[str, list[Test]]:
        if seed not in self._tests:
            self._tests[seed] = self.subject.tests(seed)
        return self._tests[seed]

    def found(self, seed: int, name: str) -> Mapping[str, Any]:
        """The line of a search, run where it is missing."""
        key = f"{seed}/search/{name}"
        if key not in self.store:
            self.store.add(self.searched(seed, name, self.work))
        return self.store[key]

    def searched(self, seed: int, name: str, work: Path) -> dict[str, Any]:
        began = time.process_time()
        settings, own = self.design.common["search"], self.design.own
        line = searches.run(
            name,
            self.load(seed),
            self.rope(seed),
            own["target"],
            seed,
            self.subject.samples(seed, settings["samples"]),
            settings,
            own["splits"],
            work / f"search-{name}-{seed}",
        )
        return {"key": f"{seed}/search/{name}", **line, "processor_seconds": round(time.process_time() - began)}

    def measured(self, cell: Cell, work: Path) -> dict[str, Any]:
        """The line of a cell."""
        seed, own = cell.seed, self.design.own
        began = time.process_time()
        model, rope = self.load(seed), self.rope(seed)
        scaling = rules.factors(
            cell.rule,
            rope,
            own["target"],
            lambda: self.subject.published(seed, rope),
            lambda name: self.found(seed, name),
        )
        line: dict[str, Any] = {"key": cell.key, "factors": scaling.to_json()}
        long_only = cell.training == "long-only"
        if cell.training == "no":
            install_rope(model, scaling)
        else:
            out = work / cell.key.replace("/", "-")
            recipe = self.recipe.model_copy(update={"long_only": long_only, "seed": seed})
            rows = self.subject.rows(seed, long_only=long_only)
            result = train(recipe, model, self.folders[seed], rows, scaling, out)
            line["training"] = {
                "steps": result.steps,
                "tokens": result.tokens,
                "loss_first": result.loss_first,
                "loss_last": result.loss_last,
                "wall_seconds": round(result.seconds),
            }
        tests = self.tests(seed)
        line["answers"] = {name: pack(answered(model, each)) for name, each in tests.items()}
        if not long_only:  # there the rescaled RoPE is never off
            left_on = replace(
                scaling,
                short_factor=scaling.long_factor,
                short_attention_factor=scaling.long_attention_factor,
            )
            install_rope(model, left_on)
            inside = {name: each for name, each in tests.items() if name.endswith(f"@{own['window']}")}
            line["left_on"] = {name: pack(answered(model, each)) for name, each in inside.items()}
        line["processor_seconds"] = round(time.process_time() - began)
        if cell.training != "no":
            shutil.rmtree(work / cell.key.replace("/", "-"))
        return line

    def load(self, seed: int) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(self.folders[seed], dtype=torch.float32).eval()

    def rope(self, seed: int) -> OriginalRope:
        return ModelRope.read(self.folders[seed]).original()

    def again(self, key: str) -> bool:
        """Run a cell or a search from nothing; print both, and whether they agree."""
        fresh = self.work / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        seed, kind, name = key.split("/")
        stored = self.store[key]
        if kind == "search":
            line = self.searched(int(seed), name, fresh)
            print(json.dumps({"stored": stored["nll"], "again": line["nll"]}))
            return bool(line["factors"] == stored["factors"])
        line = self.measured(Cell.parse(key), fresh)
        questions = self.store[seed]["tests"]
        agree = True
        for task, packed in line["answers"].items():
            mean = packed["right"] / packed["asked"]
            known = share(unpack(stored["answers"][task]), documents(questions[task]["questions"]))
            inside = known.low <= mean <= known.high
            agree &= inside
            print(f"{task}: again {mean:.4f}, stored {known.mean:.4f} [{known.low:.4f}, {known.high:.4f}]"
                  f" n {known.n}{'' if inside else '  OUTSIDE'}")  # fmt: skip
        return agree


def subject_of(design: Design, folders: Sequence[Path], search: Path | None) -> Subject:
    """The subject of a design; ``search`` is a finished search of the demo model."""
    if design.subject == "tiny":
        from reproduction.tiny import Tiny

        return Tiny(design.own)
    from reproduction.demo import Demo

    return Demo(design.own, folders[0], search)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*", help="one checkpoint folder a seed")
    parser.add_argument("--subject", choices=("tiny", "demo"), default="tiny")
    parser.add_argument("--work", type=Path, help="folder for what is half done")
    parser.add_argument("--results", type=Path, help="JSON lines; the committed ones by default")
    parser.add_argument("--search", type=Path, help="folder of the demo model's finished search")
    parser.add_argument("--list", action="store_true", help="say which cells are missing")
    parser.add_argument("--cell", help="SEED/RULE/TRAINING: only this one")
    parser.add_argument("--fresh", action="store_true", help="with --cell: run it again and compare")
    arguments = parser.parse_args()
    design = Design.read(arguments.subject)
    path = arguments.results or Path(__file__).with_name(f"{arguments.subject}.jsonl")
    cells = plan(design)
    if arguments.list:
        store = Store(path)
        missing = [cell.key for cell in cells if cell.key not in store]
        print(f"{len(cells) - len(missing)} of {len(cells)} cells are there; missing, in the order they would be run:")
        print("\n".join(missing))
        return 0
    if len(arguments.models) != len(design.seeds) or not arguments.work:
        parser.error(f"give --work and {len(design.seeds)} checkpoints, for seeds {design.seeds}")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    store = Store(path, design.to_json())
    folders = dict(zip(design.seeds, arguments.models, strict=True))
    subject = subject_of(design, arguments.models, arguments.search)
    study = Study(design, subject, folders, store, arguments.work)
    if arguments.cell and arguments.fresh:
        return 0 if study.again(arguments.cell) else 1
    for cell in cells:
        if cell.key not in store and arguments.cell in (None, cell.key):
            study.run(cell)
            line = store[cell.key]
            shares = {name: round(each["right"] / each["asked"], 3) for name, each in line["answers"].items()}
            print(time.strftime("%H:%M:%S"), cell.key, line["processor_seconds"], shares, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
