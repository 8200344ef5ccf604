from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from lr2eval.errors import StoreError
from lr2eval.method.rope import rules
from lr2eval.method.rope.scaling import OriginalRope
from lr2eval.method.search.journal import FILE, Journal, TrialResult, factors_key
from tests import damage

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


def _three(folder: Path) -> Path:
    with Journal.open(folder) as journal:
        for sample, nll in enumerate((0.5, math.nan, math.inf)):
            journal.add(TrialResult("a" * 64, sample, nll, 2048, 1.5))
    return folder / FILE


def test_every_cell_is_bound(tmp_path: Path) -> None:
    path = _three(tmp_path)
    whole = path.read_bytes()
    for column, row in damage.cells(path, "evaluations"):
        if column == "number":  # only the order in which they ended
            continue
        damage.changed_cell(path, "evaluations", column, row)
        for reader in (Journal.open, Journal.read):
            with pytest.raises(StoreError, match=rf"{FILE}: evaluation \d was changed"):
                reader(tmp_path)
        path.write_bytes(whole)


@pytest.mark.parametrize("cell", ["'text'", "X'00'", "NULL"])
def test_a_text_where_a_number_belongs_is_damage(tmp_path: Path, cell: str) -> None:
    path = _three(tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"UPDATE evaluations SET nll = {cell}, row_check = NULL WHERE sample = 0")
    if cell == "NULL":  # of an older version, without a check: the model gave no number
        assert math.isnan(Journal.read(tmp_path).scores["a" * 64, 0])
    else:
        with pytest.raises(StoreError, match="evaluation 1 was changed"):
            Journal.read(tmp_path)


def test_a_journal_of_an_older_version_is_read_and_goes_on(tmp_path: Path) -> None:
    path = _three(tmp_path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("ALTER TABLE evaluations DROP COLUMN row_check")
    assert len(Journal.read(tmp_path)) == 3
    with Journal.open(tmp_path) as journal:
        journal.add(TrialResult("b", 0, 1.0, 1, 1.0))
    with Journal.read(tmp_path) as journal:
        assert len(journal) == 4
    damage.changed_cell(path, "evaluations", "tokens", 3)
    with pytest.raises(StoreError, match="evaluation 4 was changed"):
        Journal.read(tmp_path)
