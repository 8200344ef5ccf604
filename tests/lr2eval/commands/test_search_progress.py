from __future__ import annotations

import math

import pytest

from lr2eval.commands.progress import ProgressDisplay


def evaluate(progress: ProgressDisplay, count: int, *, known: bool = False) -> None:
    for _ in range(count):
        progress.evaluated(0.0 if known else 2.0, known=known)


def test_lines_say_where_the_search_is(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(live=False, every=0.0) as progress:
        progress.search_started(total=100, after=10, iterations=40)
        evaluate(progress, 30, known=True)
        progress.round_done("split 14", 3, math.log(1.5), left=60)
        evaluate(progress, 10)
        progress.round_done("split 14", 4, math.log(1.25), left=50)
    first, second = capsys.readouterr().err.splitlines()
    # Nothing was computed yet, so there is no speed to tell the time from.
    assert first == "split 14, iteration 3/40, best perplexity 1.5; 70 evaluations left"
    assert second == "split 14, iteration 4/40, best perplexity 1.25; 60 evaluations left, about 2 min 00 s"


def test_an_early_stop_shortens_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(live=False, every=0.0) as progress:
        progress.search_started(total=100, after=10, iterations=40)
        evaluate(progress, 10)
        progress.round_done("split 14", 5, 1e4, left=0)
    assert "best perplexity inf; 10 evaluations left, about 20 s" in capsys.readouterr().err


def test_workers_share_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(live=False, every=0.0) as progress:
        progress.search_started(total=100, after=0, iterations=40, workers=4)
        evaluate(progress, 10)
        progress.round_done("split 14", 5, 0.0, left=90)
    assert "90 evaluations left, about 45 s" in capsys.readouterr().err


def test_lines_are_few_but_the_last_round_is_always_told(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(live=False, every=1e9) as progress:
        progress.search_started(total=100, after=0, iterations=3)
        for iteration in range(4):
            evaluate(progress, 1)
            progress.round_done("split 14", iteration, 0.0, left=3 - iteration)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[1].strip() for line in lines] == ["iteration 0/3", "iteration 3/3"]


def test_a_terminal_gets_one_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(live=True) as progress:
        progress.search_started(total=20, after=0, iterations=40)
        evaluate(progress, 5)
        progress.round_done("split 12", 7, 0.0, left=15)
        progress.message("a [note] in between")
    shown = capsys.readouterr().err
    assert "split 12, iteration 7/40" in shown
    assert "a [note] in between" in shown
