"""Training documents that extend the demo model: long prompts full of questions, and windows of its pre-training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from demo_model.text import Task
from demo_model.train import DemoRecipe, Text
from transformers import PreTrainedTokenizerFast

from lr2eval.base.files import write_all, write_json
from lr2eval.base.wording import Wording

OTHER = 0.02
"""Weight of a token that answers nothing; answers have 1."""
KINDS: tuple[tuple[Task, int, int, float], ...] = (
    # task, keys in the text, questions, share of the long documents
    ("single_1", 1, 1, 0.1),
    ("multikey_1", 12, 12, 0.5),
    ("multikey_2", 0, 12, 0.3),
    ("multivalue", 1, 1, 0.05),
    ("multiquery", 4, 1, 0.05),
)
FULL = 0.6
"""Share of long documents as long as the target window; the others have any length beyond the original one."""


def documents(tokenizer: PreTrainedTokenizerFast, target: int, rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """``input_ids`` and ``weights`` of documents: ``rows`` x ``target`` tokens of long ones, as many of short ones."""
    recipe = DemoRecipe.read(seed=1_000 + seed)  # another stream of text than any pre-training's
    text = Text(tokenizer, recipe)
    for number in range(rows):
        rng, left = Random(f"rows/{seed}/{number}"), target
        while left > recipe.window + 256:
            shortest = recipe.window + 256
            full = rng.random() < FULL or left < 2 * shortest
            size = left if full else int(math.exp(rng.uniform(math.log(shortest), math.log(left))))
            task, keys, questions, _ = rng.choices(KINDS, [share for *_, share in KINDS])[0]
            asked = max(1, min(questions, size // 200))
            ids, weights = text.encode(text.writer.task(rng, task, size, asked, keys=keys))
            yield _row(ids[:target], weights[:target])
            left -= size
    for number in range(rows * target // recipe.window):
        # Windows of the full size: exactly what the model was pre-trained on last.
        tokens_BL, weights_BL = text.windows(number, recipe.window, recipe.window)
        yield _row(tokens_BL[0].tolist(), weights_BL[0].tolist())


def write_documents(path: Path, tokenizer: PreTrainedTokenizerFast, target: int, rows: int, seed: int) -> None:
    """The documents as JSONL, written whole or not at all."""
    write_all({path: (json.dumps(row).encode() + b"\n" for row in documents(tokenizer, target, rows, seed))})


def search_wording(tokenizer: PreTrainedTokenizerFast, keys: int = 400) -> Wording:
    """The words around a needle as the model knows them, over keys that no evaluation asks for."""
    text = Text(tokenizer, DemoRecipe.read())
    rng, phrases = Random("search keys"), text.writer.phrases
    found: dict[str, None] = {}
    while len(found) < keys:
        found[text.words.key(rng)] = None
    return Wording(
        instruction=phrases.instruction(),
        needle=" " + phrases.needle("{key}", "{value}"),
        question=phrases.question("{key}"),
        stem=phrases.prefix("{key}"),
        keys=tuple(found),
    )


def write_wording(path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """:func:`search_wording` as the file that ``lr2eval search --wording`` reads."""
    write_json(path, asdict(search_wording(tokenizer)))


def _row(ids: list[int], weights: list[float]) -> dict[str, Any]:
    return {"input_ids": ids, "weights": [weight or OTHER for weight in weights]}
