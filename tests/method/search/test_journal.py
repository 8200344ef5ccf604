from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from lr2eval.errors import StoreError
from lr2eval.method.rope import rules
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.search.journal import FILE, Journal, TrialResult, factors_key

ROPE = OriginalRope(1000.0, 64, 128)


def test_evaluations_come_back_exactly_and_in_order(tmp_path: Path) -> None:
    found = [
        TrialResult("b", 3, 0.1 + 0.2, 2048, 0.5),
        TrialResult("a", 0, math.nan, 2048, 0.25),
        TrialResult("a", 1, math.inf, 2048, 0.125),
    ]
    with Journal.open(tmp_path) as journal:
        for each in found:
            journal.add(each)
        assert journal.scores["b", 3] == 0.1 + 0.2
        assert ("b", 4) not in journal.scores
    with Journal.open(tmp_path) as journal:
        assert len(journal) == 3
        rows = journal.rows()
        assert [(row.factors, row.sample) for row in rows] == [("b", 3), ("a", 0), ("a", 1)]
        assert rows[0] == found[0]
        assert rows[2] == found[2]
        assert math.isnan(journal.scores["a", 0])


def test_the_same_evaluation_twice_is_a_mistake(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        journal.add(TrialResult("a", 0, 1.0, 1, 1.0))
        with pytest.raises(StoreError, match="UNIQUE"):
            journal.add(TrialResult("a", 0, 2.0, 1, 1.0))
        assert journal.scores["a", 0] == 1.0


def test_what_decides_a_score_decides_the_key() -> None:
    scaling = rules.yarn(ROPE, 2048)
    assert factors_key(scaling) == factors_key(replace(scaling, provenance="other", target_window=4096))
    assert factors_key(scaling) != factors_key(replace(scaling, long_attention_factor=1.0))
    assert factors_key(scaling) != factors_key(rules.pi(ROPE, 2048))


def test_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=rf"{FILE}: .*fresh --out"):
        Journal.open(tmp_path)
    with pytest.raises(StoreError, match="unable to open"):
        Journal.open(tmp_path / "absent")


def test_another_version_is_refused(tmp_path: Path) -> None:
    with Journal.open(tmp_path) as journal:
        journal._db.execute("UPDATE meta SET value = '99'")
    with pytest.raises(StoreError, match="journal version 99"):
        Journal.open(tmp_path)
