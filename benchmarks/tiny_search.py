"""What the benchmarks of the search share: the tiny retrieval model, its samples, a scorer over a journal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from lr2eval.base.wording import Wording
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.rope.source import ModelRope
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.search.needles import Sample, TokenText, make_samples
from lr2eval.model.tokenizer import PromptTokenizer

ASSET = Path(__file__).parents[1] / "tests" / "assets" / "tiny-retrieval"
TARGET = 2048


def load(folder: Path = ASSET, dtype: torch.dtype = torch.float32) -> tuple[Any, OriginalRope]:
    """The model and its RoPE."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    return model, ModelRope.read(folder).original()


def settings(seed: int, length: int = TARGET, **changes: Any) -> SearchConfig:
    """12 asked needles and 36 others at depths all over the text: 12 scored tokens a sample."""
    given = {"needles": 12, "distractors": 36, "depths": "grid", "repeat": True} | changes
    return SearchConfig(model=str(ASSET), target_length=length, seed=seed, **given)


def samples(config: SearchConfig, counts: Sequence[int]) -> list[Sample]:
    """The first ``counts[0]`` samples, the ``counts[1]`` after them, ...; each group has its own grid of depths."""
    tokenizer = PromptTokenizer.load(ASSET)
    lines = re.split(r"\n\s*\n", (ASSET / "haystack.txt").read_text(encoding="utf-8"))
    text = TokenText("haystack.txt", [lines], tokenizer)
    wording = Wording.read(ASSET / "wording.json")
    found: list[Sample] = []
    for count in counts:
        found += make_samples(text, tokenizer, config, wording, count, first=len(found))
    return found
