"""The paper's table beside a run of the short suite: only there, and told apart from the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lr2eval.reports import render
from tests.reports.page import Page


def page_of(run: Path, tasks: list[str], out: Path) -> Page:
    """The report of a copy of a run that was asked for these tasks."""
    copy = Path(shutil.copytree(run, out / "run"))
    results = json.loads((copy / "results.json").read_text())
    results["settings"]["tasks"] = tasks
    (copy / "results.json").write_text(json.dumps(results))
    return Page(render([copy], out / "report.html").read_text(encoding="utf-8"))


def published(page: Page) -> list[list[str]]:
    return [[text for _, text in row] for row in page.tables["published-table"][1:]]


@pytest.mark.parametrize("tasks", [["ruler", "short"], ["short:gsm8k"]])
def test_shown_with_its_source(tasks: list[str], run_folder: Path, tmp_path: Path) -> None:
    page = page_of(run_folder, tasks, tmp_path)
    assert "Published scores, not from this run" in page.text
    assert "arXiv 2502.20082 (v1, February 2025), table 4" in page.text
    rows = published(page)
    assert ["LLaMA3-8B at 128k, LongRoPE2", "65.01", "34.61", "81.69", "46.17", "50.80", "55.7"] in rows
    assert len(rows) == 11


def test_not_shown_to_others(run_folder: Path, tmp_path: Path) -> None:
    assert "Published scores" not in page_of(run_folder, ["ruler", "mmlu", "shorter"], tmp_path).text


def test_numbers_agree_with_the_averages_printed_beside_them(run_folder: Path, tmp_path: Path) -> None:
    """The paper's averages are means of the five, to a tenth; the first YaRN row is 0.2 off in the paper itself."""
    for model, *numbers in published(page_of(run_folder, ["short"], tmp_path)):
        *scores, average = map(float, numbers)
        assert abs(sum(scores) / 5 - average) <= (0.21 if average == 53.6 else 0.11), model
