"""Results of searches as a search writes them, with made-up scores: for pages of every shape without a model."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lr2eval.method.rope import rules
from lr2eval.method.rope.rules import longrope
from lr2eval.method.rope.scaling import OriginalRope, RopeScaling
from lr2eval.method.search.evolution import Stop
from lr2eval.method.search.result import rule_facts, search_result, split_facts
from lr2eval.method.search.run import SplitDone
from lr2eval.method.search.space import Space
from lr2eval.record.base import write_record
from lr2eval.record.folder import write_manifest
from lr2eval.record.search import FILE, RoundFacts, SearchResult

LEVELS = {"none": 3.0, "pi": 1.6, "ntk": 0.72, "yarn": 0.65, "longrope2": 0.6, "seed": 0.42, "searched": 0.4}
"""Mean nats per answer token of every rule, unless a test wants others."""


def make_result(
    *,
    pairs: int = 32,
    window: int = 128,
    scale: int = 8,
    theta: float = 1000.0,
    splits: Sequence[int] = (10, 12, 14),
    best: int | None = None,
    samples: int = 4,
    held_out: int = 24,
    spread: float = 0.1,
    iterations: int = 8,
    levels: dict[str, float] | None = None,
    nlls: dict[str, list[float]] | None = None,
    unscored: Sequence[str] = (),
    stopped: Stop = "iterations",
    objective: str = "needle",
    given_up: int = 0,
    **changes: Any,
) -> SearchResult:
    """A whole result. ``levels`` are mean nats of the rules, ``nlls`` replace all scores of some, and
    ``unscored`` have none on the search's own samples."""
    rng = random.Random(7)
    rope = OriginalRope(theta, 2 * pairs, window)
    target = scale * window
    best = splits[len(splits) // 2] if best is None else best
    done = []
    for split in splits:
        space = Space(rope, target, split)
        found, score = space.scaling(space.seeds()[1]), 0.4 + 0.01 * abs(split - best)
        nats = [score + 0.3 * math.exp(-n / 3) for n in range(iterations)] + [score]
        counts = {"split": split, "asked": 10, "given_up": given_up, "discarded": 0, "evaluations": 40}
        rounds = [RoundFacts(**counts, iteration=n, best_nll=nll, round_nll=nll) for n, nll in enumerate(nats)]
        done.append(SplitDone(split, score, found, (score, found), tuple(rounds), stopped, power=1.0))
    chosen = next(each for each in done if each.split == best)
    made: dict[str, RopeScaling] = {
        name: rules.RULES[name].make(rope, target) for name in ("none", "pi", "ntk", "yarn", "longrope2")
    }
    made |= {"seed": longrope(rope, target, factors=[f * 0.999 for f in chosen.scaling.long_factor])}
    made |= {"searched": chosen.scaling}
    mean = LEVELS | (levels or {})
    noise = [rng.gauss(0, 0.3) for _ in range(samples + held_out)]
    scores = {
        name: (nlls or {}).get(name) or [max(0.0, mean[name] + n + rng.gauss(0, spread)) for n in noise]
        for name in made
        if name in mean
    }
    parted = {name: ([] if name in unscored else each[:samples], each[samples:]) for name, each in scores.items()}
    facts = [
        rule_facts(name, made[name], *part, None if name == "searched" else parted["searched"])
        for name, part in parted.items()
    ]
    rounds = [each for split in done for each in split.rounds]
    values: dict[str, Any] = {
        "model": "tiny-retrieval", "fingerprint": "f" * 64, "original_window": window, "target_length": target,
        "scale": float(scale), "theta": theta, "rotary_dim": 2 * pairs, "periods": list(rope.periods),
        "d_tcd": rope.d_tcd, "d10_tcd": rope.d10_tcd, "d_rcd": best, "objective": objective, "samples": samples,
        "held_out": held_out, "reach": 2.0, "split": best, "power": 1.0, "factors": list(chosen.scaling.long_factor),
        "attention_factor": 1.1, "best_nll": chosen.best_nll, "evaluations": sum(r.evaluations for r in rounds),
        "discarded": 0, "given_up": sum(r.given_up for r in rounds), "splits": [split_facts(each) for each in done],
        "rules": facts, "data": {"haystack": "haystack.txt", "repeated": False, "tokens_read": 123456},
    }  # fmt: skip
    return search_result(**values | changes)


def write_search(folder: Path, value: Mapping[str, Any]) -> None:
    """``search.json`` with this content, its digest and its checksum."""
    draft = SearchResult.model_validate({**value, "digest": ""})
    write_record(folder / FILE, draft.model_copy(update={"digest": draft.content_digest()}))


def make_manifest() -> dict[str, Any]:
    return {
        "kind": "search",
        "settings": {"seed": 3, "haystack": "haystack.txt", "wording": {"answer": " {value}"}},
        "data": {"haystack": "haystack.txt"},
        "versions": {"lr2eval": "0.1.0", "torch": "2.13.0"},
        "command": ["lr2eval", "search", "--model", "my model"],
        "created": "2026-01-01T00:00:00+00:00",
    }


def make_search(folder: Path, result: SearchResult | None = None, **shape: Any) -> Path:
    """Write the folder of a finished search, without its journal."""
    folder.mkdir(parents=True)
    write_record(folder / FILE, result or make_result(**shape))
    write_manifest(folder, make_manifest())
    return folder
