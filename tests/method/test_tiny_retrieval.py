"""The trained test model: it looks things up in its window, and a search makes it do so at 16 times that."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from lr2eval.base.wording import Wording
from lr2eval.method.rope import rules as rules_module
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.rope.source import ModelRope
from lr2eval.method.search.config import SearchConfig
from lr2eval.method.search.journal import Journal
from lr2eval.method.search.needles import Sample, TokenText, make_samples
from lr2eval.method.search.perplexity import ModelExecutor, mean_nll
from lr2eval.method.search.run import JournalScorer, search
from lr2eval.method.search.space import Space
from lr2eval.model.tokenizer import PromptTokenizer

ASSET = Path(__file__).parents[1] / "assets" / "tiny-retrieval"
ROPE = OriginalRope(theta=1000.0, rotary_dim=64, window=128)


@lru_cache(maxsize=1)
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(ASSET, dtype=torch.float32).eval()


def samples(length: int, count: int, needles: int, distractors: int, first: int = 0) -> list[Sample]:
    tokenizer = PromptTokenizer.load(ASSET)
    lines = re.split(r"\n\s*\n", (ASSET / "haystack.txt").read_text())
    config = SearchConfig(
        model="m", target_length=length, depths="grid", needles=needles, distractors=distractors, repeat=True
    )
    text, wording = TokenText("haystack", [lines], tokenizer), Wording.read(ASSET / "wording.json")
    return make_samples(text, tokenizer, config, wording, count, first=first)


def test_it_is_what_its_readme_says() -> None:
    assert ModelRope.read(ASSET).original() == ROPE
    assert (ROPE.d10_tcd, ROPE.d_tcd) == (4, 14)
    assert sum(parameter.numel() for parameter in model().parameters()) < 600_000
    assert sum(file.stat().st_size for file in ASSET.iterdir()) < 1_300_000


def test_it_looks_things_up_inside_its_window() -> None:
    right = total = 0
    for sample in samples(128, 20, needles=4, distractors=4):
        with torch.inference_mode():
            said = model()(torch.tensor([sample.ids])).logits[0].argmax(-1)
        right += sum(int(said[place - 1]) == sample.ids[place] for place in sample.scored)
        total += len(sample.scored)
    assert right / total > 0.9
    # It answers from the text: asked for a key that is not there, it does not know.
    one, other = samples(128, 2, needles=1, distractors=0)
    assert one.ids[-2] != other.ids[-2]
    assert mean_nll(model(), one) < 0.5
    assert mean_nll(model(), Sample((*one.ids[:-3], *other.ids[-3:]), one.scored)) > 1.5


@pytest.mark.timeout(900)
def test_a_search_at_16x_ends_below_the_rules_on_unseen_samples(tmp_path: Path) -> None:
    """A thin search: ``benchmarks/search_quality.py`` has three models, intervals and the controls."""
    every = [*samples(2048, 4, 12, 36), *samples(2048, 8, 12, 36, first=4)]
    small = {"population": 12, "initial": 16, "iterations": 2, "parents": 6, "mutations": 4, "crossovers": 4}
    config = SearchConfig(model="m", target_length=2048, samples=4, **small)
    space = Space(ROPE, 2048, 14)
    rules = [
        rule(ROPE, 2048) for rule in (rules_module.none, rules_module.pi, rules_module.ntk_aware, rules_module.yarn)
    ]
    with Journal.open(tmp_path) as journal:
        executor = ModelExecutor(model(), every)
        (done,) = search([space], config, executor, journal)
        found = JournalScorer(executor, journal).nlls([done.scaling, *rules], range(4, 12))
        assert len(journal) == 4 * (16 + 2 * 8) + 8 * 5
    searched, none, pi, ntk_aware, yarn = (sum(nlls) / len(nlls) for nlls in found)
    assert min(none, pi) > 3
    assert ntk_aware > 1.5
    assert yarn > searched + 0.1
    assert searched < 0.6
    assert done.seed is not None
    assert done.best_nll <= done.seed[0]
