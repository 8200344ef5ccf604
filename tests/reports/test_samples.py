"""Which samples are shown, by the stated rule, and how the samples of several runs come together."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lr2eval._errors import StoreError
from lr2eval.reports import _samples
from lr2eval.reports._load import load


def entries(pattern: str) -> list[Any]:
    """``w`` stands for a wrong sample, ``r`` for a right one, ``l`` for a lost and ``g`` for a gained one."""
    change = {"l": "lost", "g": "gained"}
    return [
        SimpleNamespace(wrong=kind in "wlg", change=change.get(kind, ""), sample=SimpleNamespace(number=i))
        for i, kind in enumerate(pattern)
    ]


@pytest.mark.parametrize(
    ("pattern", "limit", "shown"),
    [
        ("rwrwrwrwrw", 6, [0, 1, 2, 3, 5, 7]),  # four wrong, two right
        ("rrrrrrw", 6, [0, 1, 2, 3, 4, 6]),  # places of missing wrong ones go to the right ones
        ("wwwwwwr", 6, [0, 1, 2, 3, 4, 6]),  # and the other way round
        ("wwwwwww", 3, [0, 1, 2]),
        ("rw", 30, [0, 1]),
        ("rwglrwglrwglrwgl", 8, [3, 7, 11, 15, 2, 6, 1, 5]),  # half lost, a quarter gained, then wrong and right
        ("rrrlrrr", 6, [3, 0, 1, 2, 4, 5]),  # one lost comes first, its other places go on
        ("llllllll", 3, [0, 1, 2]),
        ("lgwr", 3, [0, 1, 2]),
        ("ggggwwww", 4, [0, 4, 5, 6]),
        ("lgwr", 1, [0]),
        ("", 30, []),
    ],
)
def test_pick(pattern: str, limit: int, shown: list[int]) -> None:
    assert [entry.sample.number for entry in _samples.pick(entries(pattern), limit)] == shown


def test_places_bound_the_report() -> None:
    assert _samples.places(0) == _samples.places(10) == _samples.PER_SHARD
    assert _samples.places(78) * 78 <= _samples.PER_REPORT
    assert _samples.places(10_000) == _samples.LEAST


def test_a_sample_of_two_runs_stands_once_with_both_answers(maker: Any, tmp_path: Path) -> None:
    first = maker(tmp_path / "a", tasks=("vt",), lengths=(4096,), subjects=1, samples=8)
    second = maker(tmp_path / "b", tasks=("vt",), lengths=(4096,), subjects=1, samples=8, lift=-0.9)
    shown, categories, limit = _samples.collect(load([first, second]))
    assert limit == _samples.PER_SHARD
    assert [len(entry.answers) for entry in shown[0].entries] == [2] * 8
    assert shown[0].wrong >= 5  # wrong in any of the runs
    assert set(categories.values()) == {"humanities"}


def test_other_prompts_are_other_samples(run_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run_folder, tmp_path / "other")
    with sqlite3.connect(other / "samples.sqlite") as db:
        db.execute("UPDATE samples SET prompt_hash = 'x' || prompt_hash")
    db.close()
    shown, _, _ = _samples.collect(load([run_folder, other]))
    assert {len(entry.answers) for shard in shown for entry in shard.entries} == {1}


def test_damaged_samples_are_one_line(run_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run_folder, tmp_path / "other")
    with sqlite3.connect(other / "samples.sqlite") as db:
        db.execute("UPDATE samples SET gold = 'not json'")
    db.close()
    with pytest.raises(StoreError, match="damaged sample in ruler/niah_single_1@4096") as caught:
        _samples.collect(load([other]))
    assert "\n" not in str(caught.value)


def test_missing_samples_are_named(run_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run_folder, tmp_path / "other")
    with sqlite3.connect(other / "samples.sqlite") as db:
        db.execute("DELETE FROM samples")
    db.close()
    with pytest.raises(StoreError, match=r"no samples of ruler/niah_single_1@4096, of which results.json counts 40"):
        _samples.collect(load([other]))
