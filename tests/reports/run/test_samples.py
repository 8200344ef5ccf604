"""Which samples are shown, by the stated rule, and how the samples of several runs come together."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lr2eval.errors import StoreError
from lr2eval.reports import render
from lr2eval.reports.load import load
from lr2eval.reports.run import samples as samples_module


def entries(pattern: str) -> list[Any]:
    """``w`` stands for a wrong sample, ``r`` for a right one, ``l`` for a lost and ``g`` for a gained one."""
    change = {"l": "lost", "g": "gained"}
    return [
        SimpleNamespace(wrong=kind in "wlg", change=change.get(kind, ""), number=i) for i, kind in enumerate(pattern)
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
        ("ggggwwww", 4, [0, 1, 4, 5]),  # the place no right one takes goes to the gained ones first
        ("lgwr", 1, [0]),
        ("", 30, []),
    ],
)
def test_pick(pattern: str, limit: int, shown: list[int]) -> None:
    assert [outcome.number for outcome in samples_module.pick(entries(pattern), limit)] == shown


def test_places_bound_the_report() -> None:
    assert samples_module.places(0) == samples_module.places(10) == samples_module.PER_SHARD
    assert samples_module.places(78) * 78 <= samples_module.PER_REPORT
    assert samples_module.places(10_000) == samples_module.LEAST


def test_a_sample_of_two_runs_stands_once_with_both_answers(maker: Any, tmp_path: Path) -> None:
    first = maker(tmp_path / "a", tasks=("vt",), lengths=(4096,), subjects=1, samples=8)
    second = maker(tmp_path / "b", tasks=("vt",), lengths=(4096,), subjects=1, samples=8, lift=-0.9)
    shown, categories, limit = samples_module.collect(load([first, second]))
    assert limit == samples_module.PER_SHARD
    assert [len(entry.answers) for entry in shown[0].entries] == [2] * 8
    assert shown[0].wrong >= 5  # wrong in any of the runs
    assert set(categories.values()) == {"humanities"}


def test_other_prompts_are_other_samples(run_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run_folder, tmp_path / "other")
    with sqlite3.connect(other / "samples.sqlite") as db:
        db.execute("UPDATE samples SET prompt_hash = 'x' || prompt_hash")
    db.close()
    shown, _, _ = samples_module.collect(load([run_folder, other]))
    assert {len(entry.answers) for shard in shown for entry in shard.entries} == {1}


def test_damaged_samples_are_one_line(run_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run_folder, tmp_path / "other")
    with sqlite3.connect(other / "samples.sqlite") as db:
        db.execute("UPDATE samples SET gold = 'not json'")
    db.close()
    with pytest.raises(StoreError, match="of ruler/niah_single_1@4096: gold: not valid JSON") as caught:
        samples_module.collect(load([other]))
    assert "\n" not in str(caught.value)


def test_missing_samples_are_named(run_folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run_folder, tmp_path / "other")
    with sqlite3.connect(other / "samples.sqlite") as db:
        db.execute("DELETE FROM samples")
    db.close()
    with pytest.raises(StoreError, match=r"no samples of ruler/niah_single_1@4096, of which results.json counts 40"):
        samples_module.collect(load([other]))


@pytest.mark.parametrize(
    ("scores", "change", "wrong"),
    [
        ({0: 100.0, 1: 0.0}, "lost", True),
        ({0: 50.0, 1: 75.0}, "gained", True),
        ({0: 100.0, 1: 100.0}, "", False),
        ({0: 0.0, 1: 0.0}, "", True),
        ({0: 50.0, 1: 100.0, 2: 0.0}, "lost", True),  # lost by any of the extended models
        ({0: 100.0, 1: None}, "", False),
        ({0: None, 1: 0.0}, "", True),
        ({1: 0.0, 2: 100.0}, "", True),  # the original is a baseline file
        ({0: None}, "", False),
    ],
)
def test_outcomes(scores: dict[int, float | None], change: str, wrong: bool) -> None:
    outcome = samples_module.Outcome("id", "hash", 0, scores)
    assert (outcome.change, outcome.wrong) == (change, wrong)


def test_long_samples_leave_fewer_places(maker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = maker(tmp_path / "run", tasks=("vt", "cwe"), lengths=(4096,), subjects=0, samples=40, texts=("<&>" * 300,))
    shown, _, limit = samples_module.collect(load([run]))
    assert limit == samples_module.PER_SHARD
    whole = [[entry.sample.number for entry in shard.entries] for shard in shown]
    size = sum(entry.size for shard in shown for entry in shard.entries)
    monkeypatch.setattr(samples_module, "BUDGET", size // 3)
    fewer, _, limit = samples_module.collect(load([run]))
    assert 8 <= limit <= 10
    for shard, numbers in zip(fewer, whole, strict=True):
        assert len(shard.entries) == limit
        assert {entry.sample.number for entry in shard.entries} < set(numbers)
    assert sum(entry.size for shard in fewer for entry in shard.entries) <= 1.05 * size / 3
    monkeypatch.setattr(samples_module, "BUDGET", 1)
    assert samples_module.collect(load([run]))[2] == 1


def test_size_is_about_what_the_page_grows_by(maker: Any, tmp_path: Path) -> None:
    pages = []
    for number, samples in enumerate((4, 24)):
        run = maker(tmp_path / str(number), tasks=("vt",), lengths=(4096,), subjects=0, samples=samples)
        shown, _, _ = samples_module.collect(load([run]))
        size = sum(entry.size for shard in shown for entry in shard.entries)
        pages.append((len(render([run], tmp_path / f"{number}.html").read_bytes()), size))
    (small, few), (large, many) = pages
    assert 0.7 < (large - small) / (many - few) < 1.2
