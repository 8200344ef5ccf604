"""The paper's table beside a run of the short suite: only there, and told apart from the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lr2eval.reports import render
from lr2eval.reports.run import tables
from tests.reports.page import Page


def page_of(run: Path, tasks: list[str], out: Path) -> Page:
    """The report of a copy of a run that was asked for these tasks."""
    copy = Path(shutil.copytree(run, out / "run"))
    results = json.loads((copy / "results.json").read_text())
    results["settings"]["tasks"] = tasks
    (copy / "results.json").write_text(json.dumps(results))
    return Page(render([copy], out / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("tasks", [["ruler", "short"], ["short:gsm8k"]])
def test_shown_with_its_source(tasks: list[str], run_folder: Path, tmp_path: Path) -> None:
    page = page_of(run_folder, tasks, tmp_path)
    assert "Published, not this run" in page.text
    assert tables.PUBLISHED_SOURCE in page.text
    rows: list[Any] = [[text for _, text in row] for row in page.rows]
    assert ["LLaMA3-8B at 128k, LongRoPE2", "65.01", "34.61", "81.69", "46.17", "50.80", "55.7"] in rows
    assert sum(row[0] in {published.model for published in tables.PUBLISHED} for row in rows if row) == 11


def test_not_shown_to_others(run_folder: Path, tmp_path: Path) -> None:
    assert "Published, not this run" not in page_of(run_folder, ["ruler", "mmlu", "shorter"], tmp_path).text


def test_numbers_agree_with_the_averages_printed_beside_them() -> None:
    """The paper's averages are means of the five, to a tenth; the first YaRN row is 0.2 off in the paper itself."""
    for row in tables.PUBLISHED:
        assert abs(sum(row.scores) / 5 - row.average) <= (0.21 if row.average == 53.6 else 0.11), row.model
