from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from lr2eval.method.rope import rules
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.search.result import difference, rule_facts, search_result, split_facts
from lr2eval.method.search.run import SplitDone
from lr2eval.method.search.space import Space
from lr2eval.record.base import write_record
from lr2eval.record.search import FILE, RoundFacts, SearchResult

ROPE = OriginalRope(1000.0, 64, 128)


def result(**changes: Any) -> SearchResult:
    space = Space(ROPE, 2048, 14)
    best = space.scaling(space.seeds()[3])
    counts = {"asked": 8, "given_up": 1, "discarded": 2, "evaluations": 80}
    rounds = (RoundFacts(split=14, iteration=0, **counts, best_nll=0.5, round_nll=None),)
    done = SplitDone(14, 0.5, best, None, rounds, "patience", power=1.0)
    facts: dict[str, Any] = {
        "model": "m", "fingerprint": "f", "original_window": 128, "target_length": 2048, "scale": 16.0, "theta": 1000.0,
        "periods": list(ROPE.periods),
        "rotary_dim": 64, "d_tcd": 14, "d10_tcd": 4, "d_rcd": 12, "objective": "needle", "samples": 2, "held_out": 1,
        "reach": 2.0,
        "split": 14, "power": 1.0, "factors": list(done.scaling.long_factor), "attention_factor": 1.0, "best_nll": 0.5,
        "evaluations": 80, "discarded": 2, "given_up": 1, "splits": [split_facts(done)],
        "rules": [
            rule_facts("pi", rules.pi(ROPE, 2048), [0.0, math.log(4)], [math.nan], ([0.5, 0.5], [0.5])),
            rule_facts("searched", done.scaling, [0.5, 0.5], [0.5]),
        ],
        "data": {},
    }  # fmt: skip
    return search_result(**facts | changes)


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    found = result()
    write_record(tmp_path / FILE, found)
    assert SearchResult.read(tmp_path) == found
    assert found.splits[0].seed_nll is None
    assert found.splits[0].stopped == "patience"
    assert (found.splits[0].evaluations, found.splits[0].given_up, found.splits[0].discarded) == (80, 1, 2)
    rule, ours = found.rules
    assert rule.search_perplexity == pytest.approx(2)
    assert rule.held_out_nll == [None]
    assert rule.held_out_perplexity is None
    assert rule.held_out_difference is None
    assert ours.search_difference is None


def test_digest_is_over_the_result_not_over_where_it_came_from() -> None:
    assert result().digest == result(data={"haystack": "other"}).digest
    assert result().digest != result(best_nll=0.6).digest


def test_differences_are_paired_and_need_every_number() -> None:
    found = difference([1.0, 2.0, 6.0], [0.5, 1.0, 2.0])
    assert found is not None
    values = np.array([0.5, 1.0, 4.0])
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((values.mean(), low, high, 3))
    # A sample is never left out to get a number.
    assert difference([1.0, math.inf, 6.0], [0.5, 1.0, 2.0]) is None
    assert difference([1.0, 2.0], [0.5, math.nan]) is None
    assert difference([], []) is None
    single = difference([1.0], [0.25])
    assert single is not None
    assert (single.mean, single.low, single.high, single.n) == (0.75, None, None, 1)
