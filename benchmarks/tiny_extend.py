"""``lr2eval extend`` on the tiny retrieval model, from 128 to 2048 words: start to report with one command.

``tiny_extend.py FOLDER [--model DIR] [--rows 160]`` writes documents of the made-up language and a configuration into
FOLDER, runs the command, and prints one JSON object: seconds of every step, and what the comparison says. Needles of
the evaluation are drawn by ``niah``, documents for training by ``tiny_language.py``: no sample is in both.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import machine
import tiny_language as language
import tiny_search

WINDOW = 128
REST = 0.02
"""Weight of a word that answers nothing; the answers have 1."""


def write_documents(path: Path, seed: int, rows: int, target: int) -> None:
    """Half of the rows short documents, as in pre-training, half long ones full of questions; JSON lines of tokens."""
    rng = np.random.default_rng([seed, 5])
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows // 2):
            parts = [language.document(rng, WINDOW) for _ in range(target // WINDOW)]
            for document in (*parts, language.full_recall(rng, target)):
                weights = np.maximum(document.answers, REST)
                line = {"input_ids": document.words.tolist(), "weights": [round(float(w), 3) for w in weights]}
                file.write(json.dumps(line) + "\n")


KEPT = ("level", "benchmark", "task", "length", "n", "original", "extended", "difference", "interval", "retention")

CONFIG = """
model = {model}
target_length = {target}
offline = true
device = "cpu"

[search]
depths = "grid"
needles = 12
distractors = 36
haystack = {haystack}
wording = {wording}
repeat = true
dtype = "float32"
held_out = 24
workers = {workers}
steps = {steps}

[data]
sources = [{{ name = "tiny", path = {documents}, tokenised = true }}]
buckets = [{{ up_to = 128, share = 0.5 }}, {{ share = 0.5 }}]

[training]
recipe = "tiny-retrieval-2k"

[evaluation]
tasks = ["niah:single", "niah:distractor"]
lengths = [128, 256, 512, 1024, 2048]
dtype = "float32"
beyond_window = true

[evaluation.niah]
haystack = {haystack}
repeat = true
wording = {wording}
places = "words"
tokens_per_value = 2
distractors = 15
depths = 6
samples_per_cell = 8
"""


def write_config(path: Path, model: Path, target: int, documents: Path, *, steps: int, workers: int) -> None:
    """The file that ``lr2eval extend --config`` reads."""
    text = CONFIG.format(
        model=json.dumps(str(model)),
        target=target,
        documents=json.dumps(str(documents)),
        haystack=json.dumps(str(tiny_search.ASSET / "haystack.txt")),
        wording=json.dumps(str(tiny_search.ASSET / "wording.json")),
        steps=steps,
        workers=workers,
    )
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=tiny_search.ASSET)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    begun = (folder / "out").exists()
    write_documents(folder / "documents.jsonl", arguments.seed, arguments.rows, tiny_search.TARGET)
    write_config(
        folder / "extend.toml",
        arguments.model.resolve(),
        tiny_search.TARGET,
        folder / "documents.jsonl",
        steps=arguments.steps,
        workers=arguments.workers,
    )
    command = [sys.executable, "-m", "lr2eval", "extend", "--config", str(folder / "extend.toml")]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run([*command, "--out", str(folder / "out")], check=False, stdout=sys.stderr)
    if done.returncode:
        raise SystemExit(f"lr2eval extend ended with exit code {done.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    steps = json.loads((folder / "out" / "extend.json").read_text())["done"]
    comparison = json.loads((folder / "out" / "comparison.json").read_text())
    facts = {
        "machine": machine.facts(),
        "rows": arguments.rows,
        "steps": arguments.steps,
        "resumed": begun,
        "wall_seconds": round(time.monotonic() - began),
        "processor_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime),
        "load_average_after": round(os.getloadavg()[0], 1),
        "seconds_of_steps": steps,
        "report_bytes": (folder / "out" / "report.html").stat().st_size,
        "differences": [{key: row[key] for key in KEPT} for row in comparison["pairs"][0]["differences"]],
    }
    text = json.dumps(facts, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
