"""``python -m benchmarks.campaign``: see the package's own words, or ``--help``."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from . import __doc__ as about
from . import bombs, disk, examples, inputs, kills, names, process, shim, signals, subjects, workers
from .table import Finding, Table

CLASSES = ("kills", "workers", "signals", "disk", "damage", "bombs", "names")
RESULT = Path(__file__).parents[1] / "results" / "campaign.json"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _share(found: Sequence[Any], share: float, seed: int, at_least: int = 1) -> list[Any]:
    """So many of these, drawn evenly, in their order."""
    count = min(len(found), max(at_least, round(share * len(found)))) if found else 0
    return [found[at] for at in sorted(random.Random(f"share {seed}").sample(range(len(found)), count))]


class Campaign:
    """All trials of one call."""

    def __init__(self, work: Path, options: argparse.Namespace) -> None:
        self.work, self.options = work, options
        self.examples, self.references = work / "examples", work / "references"
        self.table = Table()

    def run(self) -> Table:
        """Try everything that is asked for."""
        process.warm_up()
        _say("making the examples")
        examples.make(self.examples)
        self.references.mkdir()
        if "vllm" in self.wanted or "workers" in self.wanted:
            self._vllm()
        trials = list(self._trials())
        if again := self.options.repeat:
            trials = [trial for trial in self._all_trials() if trial[1] == again]
            if not trials and not again.startswith("damage "):
                raise SystemExit(f"--repeat {again}: there is no such trial")
        used = {
            subjects.BY_NAME.get(subject, subjects.BY_NAME[subjects.SPREAD]).name
            for subject, *_ in trials
            if subject in NEED
        }
        _say(f"undisturbed: {', '.join(sorted(used))}")
        calm = [
            (f"undisturbed {name}", partial(_reference, name, self.examples, self.references)) for name in sorted(used)
        ]
        self._spread(calm)
        for name in sorted(used):
            calm_one = subjects.read_reference(self.references / f"{name}.json")
            self.table.writes[name] = {
                "calls": calm_one.calls,
                "bytes": calm_one.bytes,
                "seconds": round(calm_one.seconds, 1),
            }
        tasks = [(name, partial(trial, self.examples, self.references)) for _, name, trial in trials]
        if "damage" in self.wanted and not again:
            tasks += inputs.tasks(self.examples, round(self.options.share * inputs.COUNT), self.options.seed)
        elif again and again.startswith("damage "):
            tasks.append((again, partial(_again, self.examples, int(again.split()[1]), self.options.seed)))
        # Long ones and short ones mixed, so that no core waits for the other.
        random.Random(self.options.seed).shuffle(tasks)
        self._spread(tasks)
        return self.table

    @property
    def wanted(self) -> set[str]:
        """The classes that are asked for."""
        return set(self.options.only.split(","))

    def _trials(self) -> Iterator[kills.Planned]:
        """The share of the trials of every class."""
        share, seed = self.options.share, self.options.seed
        for kind, found in self._planned().items():
            if kind in self.wanted:
                yield from _share(found, share, seed)

    def _all_trials(self) -> Iterator[kills.Planned]:
        for found in self._planned().values():
            yield from found

    def _planned(self) -> dict[str, list[kills.Planned]]:
        seed, without = self.options.seed, shim.missing()
        if without:
            self.table.skipped |= dict.fromkeys({"kills", "workers", "disk"} & self.wanted, without)
        elif "workers" in self.wanted:
            self.table.skipped |= {f"kills: {name}": why for name, why in workers.skipped().items()}
        there = [trial for trial in workers.plan(seed) if trial[0] not in workers.skipped()]
        return {
            "kills": [] if without else kills.plan(seed),
            "workers": [] if without else there,
            "signals": [*signals.plan(seed), *signals.plan_pipes()],
            "disk": [] if without else disk.plan(seed),
            "bombs": bombs.plan(),
            "names": names.plan(seed),
        }

    def _vllm(self) -> None:
        python = self.options.vllm_python
        if python is None:
            self.table.skipped[f"kills: {workers.VLLM}"] = "no Python with vLLM is given (--vllm-python)"
        elif kept := round(self.options.share * workers.VLLM_KILLS):
            self.table.add(workers.vllm(python, kept, self.options.seed))

    def _spread(self, tasks: Sequence[tuple[str, process.Task]]) -> None:
        def say(done: int, of: int) -> None:
            _say(f"{done} of {of}; {self.table.failed.total()} of {self.table.tried.total()} failed")

        for found in process.spread(tasks, self.work, self.options.jobs, say):
            if "died" in found:
                told = f"the process of the campaign died with {found['code']}"
                self.table.add([Finding("campaign", found["died"].partition(" ")[0], told, found["died"])])
            else:
                self.table.add([Finding(**found)])
            if problem := found.get("problem"):
                _say(f"failed: {found['repeat']}: {problem}")


NEED = {*subjects.BY_NAME, *workers.KINDS}
"""Subjects that are compared with an undisturbed command."""


def _reference(name: str, examples_at: Path, references: Path, home: Path) -> list[dict[str, Any]]:
    return subjects.make_reference(subjects.BY_NAME[name], examples_at, references / f"{name}.json", home)


def _again(examples_at: Path, number: int, seed: int, home: Path) -> list[dict[str, Any]]:
    return inputs._batch(examples_at, range(number, number + 1), seed, home)


def main() -> int:
    """0: nothing failed; 1: something did."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.campaign", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=float, default=1.0, help="how much of the campaign to do, such as 0.02")
    parser.add_argument("--only", default=",".join(CLASSES), help="classes, separated by commas [%(default)s]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--repeat", help="one trial by the name that the table gives it")
    parser.add_argument("--vllm-python", help="a Python that has vLLM, for its kills")
    parser.add_argument("--out", type=Path, help=f"write the results here; {RESULT.name} has those of a whole campaign")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(CLASSES):
        parser.error(f"--only {', '.join(sorted(unknown))}: choose from {', '.join(CLASSES)}")
    if not shim.is_settled():
        shim.start_again()
    shim.clean_up()
    with tempfile.TemporaryDirectory(prefix="campaign-") as work:
        began = time.monotonic()
        table = Campaign(Path(work), options).run()
        seconds = time.monotonic() - began
    print(table.text())
    print(f"{seconds:.0f} seconds, seed {options.seed}, share {options.share:g}")
    if options.out:
        options.out.write_text(json.dumps(_results(table, options, seconds), indent=1, ensure_ascii=True) + "\n")
    return 1 if table.failed.total() else 0


def _results(table: Table, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    from benchmarks import machine
    from lr2eval import __version__

    facts = {"lr2eval": __version__, "python": sys.version.split()[0], **machine.facts()}
    asked = {key: getattr(options, key) for key in ("share", "only", "seed", "jobs")}
    return {**asked, "seconds": round(seconds), "machine": facts, **table.to_json()}


if __name__ == "__main__":
    sys.exit(main())
