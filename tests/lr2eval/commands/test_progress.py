from __future__ import annotations

import re
from typing import Any

import pytest

from lr2eval.base.units import format_seconds
from lr2eval.commands.progress import ProgressDisplay
from tests.lr2eval.runs.test_scoring import shard
from tests.reports import hostile


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (95, "1 min 35 s"), (3600, "60 min 00 s"), (7260, "2 h 01 min")]
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def drive(progress: ProgressDisplay) -> None:
    one, two = shard(n=4), shard(task="cwe", n=2)
    with progress:
        progress.message("hello [bold]")
        progress.run_started([one, two])
        progress.shard_started(one)
        progress.batch_done(1.5, 100, 0.5)
        progress.batch_done(2.5, 100, 0.5)
        progress.shard_done(one, 75.0, 4)
        progress.shard_kept(two)


def test_plain_lines_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    drive(ProgressDisplay(live=False, every=0.0))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "hello [bold]",
        "  vt 1k: 2/4 samples, 200 tokens/s, about 0 s left",
        "vt 1k: 75.0 (n=4)",
    ]


def test_bars_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    drive(ProgressDisplay(live=True))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "hello [bold]" in printed.err
    assert "6/6" in printed.err, "kept shards count as done"


@pytest.mark.parametrize("live", [False, True])
def test_several_shards_at_a_time_are_counted_together(capsys: pytest.CaptureFixture[str], live: bool) -> None:
    one, two, kept = shard(n=4), shard(task="cwe", n=2), shard(task="fwe", n=1)
    progress = ProgressDisplay(live=live, every=0.0)
    with progress:
        progress.run_started([one, two, kept], together=True)
        progress.shard_kept(kept)
        for each in (one, two):
            progress.shard_started(each)
            progress.shard_postponed()
        progress.batch_done(2, 100, 0.1)
        progress.batch_done(2, 100, 0.1)
        progress.shard_started(two)
        progress.shard_done(two, 50.0, 2)
        progress.batch_done(2, 100, 0.1)
    lines = capsys.readouterr().err
    assert "cwe 1k: 50.0 (n=2)" in lines
    if live:
        assert "7/7" in lines
    else:
        assert [line.split(",")[0] for line in lines.splitlines() if "all:" in line] == [
            "  all: 3/7 samples",
            "  all: 5/7 samples",
            "  all: 7/7 samples",
        ]


@pytest.mark.parametrize("live", [False, True])
def test_names_of_tasks_are_text(capsys: pytest.CaptureFixture[str], monkeypatch: Any, live: bool) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = [name for name in hostile.ALL if not any("\ud800" <= c <= "\udfff" for c in name)][::5]
    names += ["[red]x[/red]", "[/nothing]", ":smile:", "{task.total}"]
    with ProgressDisplay(live=live, every=0.0) as progress:
        for name in names:
            one = shard(task=name, n=2)
            progress.message(f"loading {name}")
            progress.run_started([one])
            progress.shard_started(one)
            progress.batch_done(1.0, 10, 0.1)
            progress.shard_done(one, 50.0, 2)
    printed = re.sub(r"\x1b\[[?\d;]*[A-Za-z]|\r", "", capsys.readouterr().err)  # what rich draws its bars with
    assert not hostile.ACTS.search(printed)
    assert not hostile.OBEYED.search(printed)
    for name in ("[red]x[/red]", "[/nothing]", ":smile:", "{task.total}"):
        assert f"{name} 1k: 50.0 (n=2)" in printed


def test_a_long_name_leaves_room_for_the_bar(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with ProgressDisplay(live=True) as progress:
        progress.run_started([shard(task="W" * 3000, n=2)])
        progress.shard_started(shard(task="W" * 3000, n=2))
        progress.batch_done(1.0, 10, 0.1)
    printed = capsys.readouterr().err
    assert "W" * 10 in printed
    assert printed.count("━" * 5) == 2
    assert "W" * 41 not in printed
