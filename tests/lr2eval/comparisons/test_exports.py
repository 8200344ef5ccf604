from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from lr2eval.comparisons.compare import compare_runs, read_all
from lr2eval.comparisons.exports import COLUMNS, headline_rows, row_name, text, to_csv, to_markdown
from lr2eval.record.comparison import Comparison
from tests.fake_runs import fake_run, ones


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    before = {"mmlu/a": ones(20), "ruler/vt@4096": ones(20), "ruler/vt@8192": ones(20)}
    sources = read_all(
        [
            fake_run(tmp_path / "a", before, model="original"),
            fake_run(tmp_path / "b", before | {"ruler/vt@8192": ones(20, 10)}, model="=cmd|' /C calc'!A0"),
        ]
    )
    return compare_runs(sources[0], sources[1:])[0]


def test_csv_holds_every_row_and_number(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(comparison.pairs[0].differences)
    for row, stored in zip(rows, comparison.pairs[0].differences, strict=True):
        assert (row["level"], row["task"], float(row["difference"])) == (
            stored.level, stored.task or "", stored.difference
        )  # fmt: skip
        assert float(row["low"]) == stored.interval.low


def test_csv_starts_no_formula(comparison: Comparison) -> None:
    assert {row["extended"] for row in csv.DictReader(io.StringIO(to_csv(comparison)))} == {"'=cmd|' /C calc'!A0"}


def test_markdown_shows_the_means_and_what_changed(comparison: Comparison) -> None:
    shown = to_markdown(comparison)
    assert "| ruler\\@8k | 20 | 100.0 | 50.0 | -50.00 |" in shown
    assert "Tasks that changed (Holm, 95 %)" in shown
    assert "| ruler:vt\\@8k | 20 |" in shown.split("Tasks that changed")[1]
    assert "90 % interval" in shown


def test_foreign_text_is_no_markup() -> None:
    assert text("a|b\n<img>[x](y) `c`\x00\u2028*d*") == r"a\|b \<img\>\[x\]\(y\) \`c\` \*d\*"


def test_what_is_beyond_the_window_stands_apart(tmp_path: Path) -> None:
    before = {"mmlu/a": ones(20), "ruler/vt@4096": ones(20), "ruler/vt@8192": ones(20, 15)}
    sources = read_all(
        [
            fake_run(tmp_path / "a", before, model="original", window=4096),
            fake_run(tmp_path / "b", before | {"ruler/vt@8192": ones(20)}, model="extended"),
        ]
    )
    far = compare_runs(sources[0], sources[1:])[0]
    assert [row_name(row) for row in headline_rows(far.pairs[0])] == ["mmlu", "ruler"]
    assert [row_name(row) for row in headline_rows(far.pairs[0], beyond=True)] == ["ruler@8k"]
    within, beyond = to_markdown(far).split("Beyond the original's window (4k):")
    assert "retained" in within
    assert "ruler\\@8k" not in within
    table = beyond.split("Tasks that changed")[0]
    assert "| ruler\\@8k | 20 | 25.0 | 100.0 | +75.00 |" in table
    assert "retained" not in table
    rows = list(csv.DictReader(io.StringIO(to_csv(far))))
    assert {(row["length"], row["beyond_window"], row["retention"]) for row in rows} == {
        ("", "False", "1.0"), ("4096", "False", "1.0"), ("", "True", ""), ("8192", "True", "")
    }  # fmt: skip
