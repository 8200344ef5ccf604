"""Put trained demo models into the package, with their cards and checksums: ``ship_demo.py DEMO [EXTENDED]``.

``ship_demo.py --documents`` makes the files that ``lr2eval extend --model demo`` trains on.

``DEMO`` is the folder ``model`` of ``python -m demo_model.train FOLDER``, ``EXTENDED`` the extended model of
``lr2eval extend --model demo``. Both keep every file as it was made; ``demo`` gets its two cards here, and the
extended one brings copies of them (``lr2eval extend`` passes them on).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import shutil
import tomllib
from pathlib import Path

from demo_model.rows import documents, write_wording
from demo_model.train import DemoRecipe
from transformers import PreTrainedTokenizerFast

from lr2eval.base.files import write_all, write_atomic, write_json
from lr2eval.base.units import parse_length
from lr2eval.model.checkpoint import Checkpoint
from lr2eval.model.names import BUILT_IN, CHECKSUMS
from lr2eval.runs.card import FILE, Card

LONG_ROWS, SEED = 72, 0
"""Of the extension's documents: rows of long ones (as many tokens of short ones), and the seed."""
CARD = Card(
    # The tasks that `demo` solves in its window (98 % and more); it learnt multivalue and multiquery by less than half.
    made_for={
        "ruler": ("niah_single_1", "niah_single_2", "niah_multikey_1", "niah_multikey_2"),
        "niah": ("single",),
    },
    lengths=(512, 1024, 2048, 4096, 8192),
    options={
        "ruler": {"haystack": "demo-filler"},
        "niah": {"haystack": "demo-filler", "wording": "ruler", "depths": 6, "samples_per_cell": 2},
    },
)

README = """\
---
license: apache-2.0
---
# demo

A Llama of {parameters:,} parameters that finds needles in text of up to 512 tokens, in the wording of RULER's niah
tasks, and knows the 1,000 invented facts of the task `facts`. It exists so that one can watch a language model lose its
long context, and a method give it back, on a laptop and without a network. It knows nothing else.

| | |
|---|---|
| training | on text that lr2eval generates; seed {seed}, {steps:,} steps of {tokens:,} tokens on one core |
| again | `PYTHONPATH=benchmarks python -m demo_model.train FOLDER --seed {seed}` in a checkout (`recipe.json` here) |
| kept out of training | keys as evaluations ask for them (adjective-noun) and the values of the default evaluation |
| made for | ruler: {tasks}; niah: single; facts |

`demo-longrope2` is this model extended to 8,192 tokens by `lr2eval extend --model demo`.
"""


def ship(name: str, source: Path) -> None:
    """Replace a built-in model by ``source``; hidden files stay behind."""
    target = BUILT_IN / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)


def without_paths(folder: Path) -> None:
    """Where the command that made a model wrote it is nobody's business; and its card bears its own name."""
    path = folder / "rope_factors.json"
    made = json.loads(path.read_text(encoding="utf-8"))
    place = made["command"].index("--out") + 1
    where, made["command"][place] = made["command"][place], "FOLDER"
    write_json(path, made)
    card = (folder / "README.md").read_text(encoding="utf-8")
    write_atomic(folder / "README.md", card.replace(where, "FOLDER").replace("# model\n", f"# {folder.name}\n", 1))


def write_cards(folder: Path) -> None:
    """``lr2eval.json`` and ``README.md`` of the demo."""
    recipe = DemoRecipe(**json.loads((folder / "recipe.json").read_text(encoding="utf-8")))
    write_json(folder / FILE, CARD.model_dump(mode="json"))
    text = README.format(
        parameters=Checkpoint.open(folder).parameters,
        seed=recipe.seed,
        steps=recipe.steps,
        tokens=recipe.tokens_per_step,
        tasks=", ".join(CARD.made_for["ruler"]),
    )
    write_atomic(folder / "README.md", text)


def write_extension() -> None:
    """Documents and wording that ``lr2eval extend --model demo`` ships, next to ``demo-extend.toml``."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BUILT_IN / "demo")
    target = parse_length(tomllib.loads((BUILT_IN.parent / "demo-extend.toml").read_text())["target_length"])
    write_wording(BUILT_IN.parent / "demo-extend-wording.json", tokenizer)
    lines = (json.dumps(row).encode() + b"\n" for row in documents(tokenizer, target, LONG_ROWS, SEED))
    write_all({BUILT_IN.parent / "demo-extend.jsonl.xz": [lzma.compress(b"".join(lines), preset=9)]})


def write_checksums() -> None:
    """sha256 of every file of every built-in model."""
    found = {
        folder.name: {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
        for folder in sorted(BUILT_IN.iterdir())
        if folder.is_dir()
    }
    write_json(BUILT_IN / CHECKSUMS, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, nargs="?")
    parser.add_argument("extended", type=Path, nargs="?")
    parser.add_argument("--documents", action="store_true", help="write the documents of the demo's extension")
    arguments = parser.parse_args()
    if arguments.documents:
        write_extension()
    if arguments.demo is None:
        return
    if arguments.demo.resolve() != (BUILT_IN / "demo").resolve():
        ship("demo", arguments.demo)
    write_cards(BUILT_IN / "demo")
    if arguments.extended:
        ship("demo-longrope2", arguments.extended)
        without_paths(BUILT_IN / "demo-longrope2")
    write_checksums()


if __name__ == "__main__":
    main()
