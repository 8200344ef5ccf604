"""Is there a small model on which factors that are too large lose anything? ``screen.py --work FOLDER --minutes N``.

The paper's claim is that NTK's factors are too large for the slow pairs. It can show only where such factors cost
right answers. Each candidate is a tiny model that is trained here in its window and asked at 16 times that, under four
vectors: NTK clipped at ``s``, at ``2s``, as it is, and NTK's left side with a right side without position. Each has the
best of three temperatures (1, ``su``, ``yarn``), chosen on the same questions. The verdict:

* ``can show``: NTK as it is, or without position, is below the better clipped one, and the 95 % interval of the
  difference, paired by document, is below 0;
* ``cannot show``: neither is;
* ``fails``: no vector reaches 30 % of the answers; ``not learned``: less than 80 % in the window. Both say nothing.

``--claim NAME`` then tests the claim on that candidate: a small search with the paper's left side (q = 1) against NTK
and against ``s`` and ``2s`` on the right, at equal temperatures, on questions that neither the search nor the verdict
has seen. Differences are searched minus the other, paired by document, with 95 % intervals.

One line for each candidate in ``results/screen.jsonl``, and one for each claim. The same command goes on after a kill.
No candidate begins that may not end within ``--minutes`` of processor time in all, counted over every finished line.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import machine
import numpy as np
import tiny_language as language
import tiny_search
import torch
import train_tiny_retrieval
from reproduction import searches
from reproduction.cells import Design
from reproduction.intervals import documents, paired
from reproduction.measure import Test, answered
from reproduction.store import Store, pack
from reproduction.tiny import question

from lr2eval.method.rope.rules import longrope, longrope2, ntk, with_attention
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.rope.windowed import install_rope
from lr2eval.method.search.needles import Sample
from lr2eval.model.rope_facts import CLIPPED

RESULTS = Path(__file__).parents[1] / "results" / "screen.jsonl"
WINDOW = train_tiny_retrieval.WINDOW
TARGET, DOCUMENTS, PAIRS, ASKED, SEED = 16 * WINDOW, 24, 110, 12, 31_000
CLAIM_DOCUMENTS, SEARCH_SEED, CLAIM_SEED = 60, 32_000, 33_000
LEARNED, WORKS = 0.8, 0.3
MINUTES = 12.0
"""What a candidate takes, until one has taken longer."""


@dataclass(frozen=True)
class Candidate:
    """At a window of 128 a base of 74 leaves 28 % of the pairs beyond the theoretical split, 150 leaves 38 %, 400
    leaves 47 %, and 1000, that of the study's tiny models, 56 %."""

    name: str
    layers: int = 3
    theta: float = 400.0
    steps: int = 2600
    gap: int = 0
    doubled: bool = False
    latest: bool = False
    seed: int = 0

    @property
    def form(self) -> language.Form:
        return language.Form(self.gap, self.doubled, self.latest)


CANDIDATES = (
    Candidate("latest", latest=True),
    Candidate("doubled", doubled=True),
    Candidate("gap", gap=4),
    Candidate("latest-base-150", latest=True, theta=150),
    Candidate("latest-doubled-4-layers", latest=True, doubled=True, layers=4, steps=2300),
    Candidate("gap-doubled-4-layers", gap=4, doubled=True, layers=4, steps=2300),
    Candidate("plain-base-150", theta=150),
    Candidate("latest-gap-4-layers", latest=True, gap=4, layers=4, steps=2300),
    Candidate("latest-6-layers", latest=True, layers=6, steps=1500),
    Candidate("all-4-layers-base-150", latest=True, gap=4, doubled=True, layers=4, steps=2300, theta=150),
    Candidate("latest-base-150-seed-1", latest=True, theta=150, seed=1),
)
"""In the order in which they are tried, unless ``--only`` names some. The last one was added when the claim had shown
on ``latest-base-150``: the same with another pre-training seed."""


def vectors(rope: OriginalRope, target: int) -> dict[str, list[float]]:
    """The four."""
    s, known = target / rope.window, ntk(rope, target).long_factor
    return {
        "clipped at s": [min(factor, s) for factor in known],
        "clipped at 2s": [min(factor, 2 * s) for factor in known],
        "as is": list(known),
        "no position": [factor if pair < rope.d_tcd else CLIPPED for pair, factor in enumerate(known)],
    }


def tests(form: language.Form, count: int, target: int, seed: int) -> list[Test]:
    """Questions at the end of texts of the target length; no training draws from this generator."""
    rng = np.random.default_rng(seed)
    made = (language.recall(rng, target, PAIRS, ASKED, at_end=True, form=form) for _ in range(count))
    return [question(each) for each in made]


def measured(model: Any, rope: OriginalRope, asked: Sequence[Test], target: int) -> dict[str, tuple[str, np.ndarray]]:
    """Of every vector its best temperature and the answers, ``(questions,)``."""
    found = {}
    for name, factors in vectors(rope, target).items():
        each = {}
        for temperature in ("1", "su", "yarn"):
            install_rope(model, with_attention(longrope(rope, target, factors=factors), temperature))
            each[temperature] = answered(model, asked)
        best = max(each, key=lambda name: float(each[name].mean()))
        found[name] = (best, each[best])
    return found


def judged(found: Mapping[str, tuple[str, np.ndarray]], questions: Sequence[int], in_window: float) -> dict[str, Any]:
    """Shares, differences to the better clipped vector, and the verdict."""
    share = {name: float(right.mean()) for name, (_, right) in found.items()}
    clipped = max(("clipped at s", "clipped at 2s"), key=lambda name: share[name])
    differences = {}
    for name in ("as is", "no position"):
        made = paired(found[name][1], found[clipped][1], documents(questions), 0.95)
        differences[f"{name} minus {clipped}"] = asdict(made)
    loses = any(each["high"] < 0 for each in differences.values())
    verdict = "can show" if loses else "cannot show"
    if in_window < LEARNED:
        verdict = "not learned"
    elif max(share.values()) < WORKS:
        verdict = "fails"
    return {
        "vectors": {name: {"temperature": heat, **pack(right)} for name, (heat, right) in found.items()},
        "differences": differences,
        "verdict": verdict,
    }


def screened(candidate: Candidate, work: Path, count: int = DOCUMENTS, target: int = TARGET) -> dict[str, Any]:
    """The line of a candidate; trains it where FOLDER does not have it."""
    began, folder = time.process_time(), work / candidate.name
    if not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.jsonl").open("w") as log:
            given = candidate.layers, candidate.theta, candidate.form
            train_tiny_retrieval.train(candidate.seed, candidate.steps, log, *given).save_pretrained(folder)
    model, rope = tiny_search.load(folder)
    inside = train_tiny_retrieval.in_window(model, form=candidate.form)
    asked = tests(candidate.form, count, target, SEED)
    found = measured(model, rope, asked, target)
    return {
        "key": candidate.name,
        "candidate": asdict(candidate),
        "machine": machine.facts(),
        "beyond_split": round(1 - rope.d_tcd / rope.pairs, 3),
        "in_window": inside,
        "documents": count,
        **judged(found, [len(test.asked) for test in asked], inside["pairs_20"]),
        "processor_seconds": round(time.process_time() - began),
    }


def claim(
    candidate: Candidate, work: Path, settings: Mapping[str, Any], count: int = CLAIM_DOCUMENTS, target: int = TARGET,
    again: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The line of a claim; ``again``, if not 0, is the number of a repetition with the same search and other questions.

    Raises :class:`OSError` for a candidate that is not trained yet.
    """
    began = time.process_time()
    model, rope = tiny_search.load(work / candidate.name)
    samples = [
        Sample(tuple(test.ids.tolist()), tuple(place for places in test.asked for place in places))
        for test in tests(candidate.form, settings["samples"], target, SEARCH_SEED)
    ]
    found = searches.run("paper-q", model, rope, target, 0, samples, settings, work / f"{candidate.name}-search")
    s = target / rope.window
    vectors = {
        "searched": longrope(rope, target, factors=found["factors"]),
        "NTK's": ntk(rope, target),
        "s": longrope2(rope, target),
        "2s": longrope2(rope, target, right=2 * s),
    }
    asked = tests(candidate.form, count, target, CLAIM_SEED + again)
    questions = documents([len(test.asked) for test in asked])
    shares, differences = {}, {}
    for temperature in ("1", "su"):
        right = {}
        for name, scaling in vectors.items():
            install_rope(model, with_attention(scaling, temperature))
            right[name] = answered(model, asked)
            shares[f"{name} at {temperature}"] = pack(right[name])
        for name in ("NTK's", "s", "2s"):
            made = paired(right["searched"], right[name], questions, 0.95)
            differences[f"searched minus {name} at {temperature}"] = asdict(made)
    return {
        "key": f"{candidate.name}/claim" + (f"-again-{again}" if again else ""),
        "machine": machine.facts(),
        "search": found,
        "documents": count,
        "vectors": shares,
        "differences": differences,
        "processor_seconds": round(time.process_time() - began),
    }


def tables(lines: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Of the candidates, and of the claims: Markdown, in percent and points."""
    screened_, claims = [], []
    for key, line in lines.items():
        share = {name: f"{100 * each['right'] / each['asked']:.1f}" for name, each in line["vectors"].items()}
        apart = [_points(each) for each in line["differences"].values()]
        if "verdict" in line:
            learned, beyond = line["in_window"]["pairs_20"], line["beyond_split"]
            cells = [key, f"{100 * beyond:.0f} %", f"{100 * learned:.0f}", *share.values(), *apart, line["verdict"]]
            screened_.append(f"| {' | '.join(cells)} |")
            continue
        for temperature in ("1", "su"):
            own = [each for name, each in share.items() if name.endswith(f" {temperature}")]
            to = [_points(each) for name, each in line["differences"].items() if name.endswith(f" {temperature}")]
            name, _, again = key.replace("/claim", "").partition("-again-")
            asked = next(iter(line["differences"].values()))["n"]
            cells = [name + (f", repetition {again}" if again else ""), temperature, f"{asked}", *own, *to]
            claims.append(f"| {' | '.join(cells)} |")
    head = [
        "| candidate | pairs beyond the split | in the window, % | clipped at s | clipped at 2s | as is | no position "
        "| as is - better clipped | no position - better clipped | verdict |",
        "| candidate | temperature | answers | searched | NTK's | s | 2s | searched - NTK's | searched - s "
        "| searched - 2s |",
    ]
    rules = [re.sub(r"[^|]+", "---", each) for each in head]
    return "\n".join([head[0], rules[0], *screened_]), "\n".join([head[1], rules[1], *claims])


def _points(difference: Mapping[str, float]) -> str:
    mean, low, high = (100 * difference[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the trained models")
    parser.add_argument("--minutes", type=float, default=75.0, help="of processor time, for all candidates together")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these candidates")
    parser.add_argument("--claim", choices=[each.name for each in CANDIDATES], help="test the claim on this one")
    parser.add_argument("--documents", type=int, default=CLAIM_DOCUMENTS, help="of a claim")
    parser.add_argument("--again", type=int, default=0, help="with --claim: N-th repetition, with other questions")
    parser.add_argument("--tables", action="store_true", help="print the tables of docs/reproduction.md")
    arguments = parser.parse_args()
    if arguments.tables:
        print("\n\n".join(tables(Store(arguments.results).lines)))
        return 0
    if not arguments.work:
        parser.error("give --work")
    torch.set_num_threads(1)
    if arguments.claim:
        candidate = next(each for each in CANDIDATES if each.name == arguments.claim)
        settings = Design.read("tiny").own["search"]
        line = claim(candidate, arguments.work, settings, arguments.documents, again=arguments.again)
        Store(arguments.results).add(line)
        print(json.dumps(line["differences"], indent=1))
        return 0
    for candidate in CANDIDATES:
        store = Store(arguments.results)
        if candidate.name in store or (arguments.only and candidate.name not in arguments.only):
            continue
        took = [line["processor_seconds"] / 60 for line in store.lines.values()]
        if sum(took) + max([MINUTES, *took]) > arguments.minutes:
            print(f"{sum(took):.0f} of {arguments.minutes:.0f} minutes are used; {candidate.name} is left out")
            return 0
        line = screened(candidate, arguments.work)
        store.add(line)
        shares = {name: round(each["right"] / each["asked"], 3) for name, each in line["vectors"].items()}
        print(
            time.strftime("%H:%M:%S"), json.dumps({"candidate": candidate.name, "verdict": line["verdict"], **shares})
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
